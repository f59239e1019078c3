"""Tables and plots of benchmark records, and what quick mode asserts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]
EXACT_SLACK = 0.08  # of the objective, between exact solvers: they start elsewhere and end in other local minima
SAME_START = ("lfm_np", "lfm_np-torch"), 1e-4  # these do not
LEAST_RECALL = 1.2  # times that of most popular


def line(record: Record) -> str:
    """One record for the terminal."""
    where = f"{record['dataset']} k={record['factors']} threads={record['threads']}"
    if record["kind"] == "machine":
        return f"# {where}: {record['cpu']}, {record['cores']} cores"
    head = f"{where} {record['solver']:18}"
    match record["kind"]:
        case "skipped":
            return f"{head} skipped: {record['reason']}"
        case "ready":
            return f"{head} ready, warm-up {record['warm_up']:.1f} s"
        case "step":
            return f"{head} {record['iteration']:3} {record['seconds']:8.3f} s  peak {record['peak_mb']:.0f} MiB"
    measured = "  ".join(
        f"{name} {record[name]:.6g}" for name in ("objective", "recall@20", "ndcg@20") if name in record
    )
    return f"{head} {record['iteration']:3} {measured}"


# ---- tables ---------------------------------------------------------------------------------------------------------

RUN = ("task", "dataset", "factors", "threads", "device", "started")


def summaries(records: Iterable[Record]) -> list[Record]:
    """One row a solver and run: seconds of an iteration after the first, memory, final quality."""
    groups: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    for record in records:
        if record["kind"] in ("ready", "step", "quality"):
            key = (*_run_of(record), record["solver"])
            groups.setdefault(key, {}).setdefault(record["kind"], []).append(record)
    return [_summary(kinds) for kinds in groups.values() if "step" in kinds and "ready" in kinds]


def _run_of(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in RUN)


def _summary(kinds: dict[str, list[Record]]) -> Record:
    ready, steps = kinds["ready"][0], kinds["step"]
    later = [step["seconds"] for step in steps[1:] or steps]
    row = {name: ready[name] for name in (*RUN, "solver", "note", "warm_up", "nnz")}
    row |= zip(("users", "items", "cells"), _sizes(ready))
    row |= {
        "seconds": min(later),
        "median": statistics.median(later),
        "iterations": len(steps),
        "total": steps[-1]["total"],
    }
    row["memory"] = steps[0]["peak_mb"] - ready["resident_mb"]
    for quality in kinds.get("quality", [])[-1:]:
        row |= {name: quality[name] for name in ("objective", "recall@20", "ndcg@20") if name in quality}
    return row


def _sizes(ready: Record) -> tuple[int, ...]:
    """Users, items, cells; of a planted matrix those that were asked for, so that runs differ in one of them only."""
    if ready["dataset"].startswith("planted:"):
        return tuple(int(float(size)) for size in ready["dataset"].removeprefix("planted:").split(","))
    return (*ready["shape"], ready["nnz"])


def markdown(records: list[Record]) -> str:
    """A table for every run, and the machine of the last one."""
    rows, parts = summaries(records), []
    for run in dict.fromkeys(map(_run_of, rows)):
        task, dataset, factors, threads, device, _ = run
        on = "" if device == "cpu" else f", torch on {device}"
        parts.append(f"### {task}, {dataset}, k = {factors}, {threads} thread{'s' * (threads > 1)}{on}\n")
        parts.append(_table([row for row in rows if _run_of(row) == run]))
        judged = [record for record in records if record["kind"] == "quality" and _run_of(record) == run]
        if task == "als" and judged:
            parts.append(time_to_quality(judged))
        skipped = [record for record in records if record["kind"] == "skipped" and _run_of(record) == run]
        parts += [f"Skipped: {record['solver']} ({record['reason']}).\n" for record in skipped]
    for record in [record for record in records if record["kind"] == "machine"][-1:]:
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        parts.append(f"{record['cpu']}, {record['cores']} cores, {record['system']}; {versions}.\n")
    return "\n".join(parts)


def _table(rows: list[Record]) -> str:
    """Fastest first, by the best iteration (the rest is other load); the factor is relative to this library's own."""
    ours = [row["seconds"] for row in rows if row["solver"] in ("lfm_np", "lfm_np-sgd")]
    samples = rows[0]["task"] == "bpr"
    head = [
        "solver",
        "s / iteration",
        "median",
        "× lfm_np",
        "M samples / s" if samples else "objective",
        "recall@20",
        "MiB",
        "note",
    ]
    lines = [head, ["---"] * len(head)]
    for row in sorted(rows, key=lambda row: row["seconds"]):
        middle = row["nnz"] / row["seconds"] / 1e6 if samples else row.get("objective", float("nan"))
        factor = f"{row['seconds'] / ours[0]:.1f}" if ours else ""
        recall = f"{row['recall@20']:.4f}" if "recall@20" in row else ""
        shown = f"{middle:.2f}" if samples else "" if middle != middle else f"{middle:.6g}"
        lines.append(
            [
                row["solver"],
                f"{row['seconds']:.3g}",
                f"{row['median']:.3g}",
                factor,
                shown,
                recall,
                f"{row['memory']:.0f}",
                row["note"],
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


# ---- time to quality ------------------------------------------------------------------------------------------------

NEAR = {"objective": 1.001, "recall@20": 0.99}  # times the lowest objective, the highest recall, of anyone in the run


def first_near(records: list[Record], measure: str) -> dict[str, Record]:
    """Of every solver of a run the first quality record that is near the best of the run, if any."""
    values = [record[measure] for record in records]
    sign = 1 if NEAR[measure] < 1 else -1
    target = NEAR[measure] * sign * max(sign * value for value in values)
    found: dict[str, Record] = {}
    for record in records:
        if sign * (record[measure] - target) >= 0:
            found.setdefault(record["solver"], record)
    return found


def time_to_quality(records: list[Record]) -> str:
    """A table of one run of als: seconds until the objective, and recall@20 if any, are near the best of the run."""
    near = {measure: first_near(records, measure) for measure in NEAR if measure in records[0]}
    titles = {"objective": "objective within 0.1 %: s (sweeps)", "recall@20": "recall@20 within 1 %: s (sweeps)"}
    lines = [["solver", *(titles[measure] for measure in near)], ["---"] * (1 + len(near))]
    solvers = dict.fromkeys(record["solver"] for record in records)
    for solver in sorted(solvers, key=lambda solver: near["objective"].get(solver, {"total": np.inf})["total"]):
        cells = [found.get(solver) for found in near.values()]
        lines.append([solver, *(f"{cell['total']:.3g} ({cell['iteration']})" if cell else "not" for cell in cells)])
    best = min(records, key=lambda record: record["objective"])
    before = [r for r in records if (r["solver"], r["iteration"]) == (best["solver"], best["iteration"] - 1)]
    gain = f", whose last sweep gained {before[0]['objective'] / best['objective'] - 1:.1e}" if before else ""
    head = f"Lowest objective {best['objective']:.6g} ({best['solver']}{gain})"
    if "recall@20" in near:
        head += f", highest recall@20 {max(record['recall@20'] for record in records):.4f}"
    return head + "." + "\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


# ---- plots ----------------------------------------------------------------------------------------------------------


def plots(records: list[Record], folder: Path) -> list[Path]:
    """A time-quality curve for every run, and seconds against size where runs differ by one thing only."""
    made = []
    for number, run in enumerate(dict.fromkeys(_run_of(r) for r in records if r["kind"] == "quality"), 1):
        own = [r for r in records if r["kind"] == "quality" and _run_of(r) == run]
        made.append(_curves(own, folder / f"quality-{number}-{run[0]}-{run[1].replace(':', '-')}-k{run[2]}.png"))
    rows = summaries(records)
    for axis in AXES:
        lines = _lines(rows, axis)
        if lines:
            made.append(_scaling(lines, axis, folder / f"scaling-{axis}.png"))
    return made


def _axes(title: str, x: str, y: str) -> Any:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(7, 4.5), layout="constrained").add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return axes


def _curves(records: list[Record], path: Path) -> Path:
    first = records[0]
    measure = "objective" if "objective" in first else "recall@20"
    axes = _axes(f"{first['dataset']}, k = {first['factors']}, {first['threads']} threads", "seconds", measure)
    for solver in dict.fromkeys(record["solver"] for record in records):
        own = [record for record in records if record["solver"] == solver]
        axes.plot([r["total"] for r in own], [r[measure] for r in own], marker="o", markersize=3, label=solver)
    axes.set_xscale("log")
    axes.legend(frameon=False, fontsize=8)
    axes.figure.savefig(path, dpi=120)
    return path


AXES = {"threads": "threads", "factors": "k", "users": "m", "items": "n", "cells": "cells"}


def _lines(rows: list[Record], axis: str) -> dict[str, list[Record]]:
    """Runs of one solver that differ in nothing but ``axis``, sorted by it, under a name."""
    same = ["task", "solver", *(name for name in AXES if name != axis)]
    groups: dict[tuple[Any, ...], dict[Any, Record]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in same), {})[row[axis]] = row
    lines = {}
    for own in groups.values():
        if len(own) > 1:
            first = next(iter(own.values()))
            others = ", ".join(f"{AXES[name]} {first[name]:,}" for name in AXES if name not in ("threads", axis))
            lines[f"{first['solver']}; {others}"] = [own[size] for size in sorted(own)]
    return lines


def exponent(sizes: list[float], values: list[float]) -> float:
    """p of values ≈ c · sizes^p by least squares on the logarithms."""
    x, y = np.log(sizes), np.log(values)
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def _scaling(lines: dict[str, list[Record]], axis: str, path: Path) -> Path:
    axes = _axes(f"seconds an iteration against {AXES[axis]}", AXES[axis], "seconds")
    for name, rows in lines.items():
        sizes, seconds = [row[axis] for row in rows], [row["seconds"] for row in rows]
        axes.plot(sizes, seconds, marker="o", markersize=3, label=f"{name}: exponent {exponent(sizes, seconds):.2f}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=7)
    axes.figure.savefig(path, dpi=120)
    return path


# ---- quick mode -----------------------------------------------------------------------------------------------------


def failures(records: list[Record], popular: float) -> list[str]:
    """What each solver that ran should have reached and has not; how fast is not judged.

    Exact solvers must agree on the objective, and everyone's recall must beat ``popular``, that of the most popular
    items, by a margin.
    """
    found = [
        f"{record['solver']} failed: {record['reason']}"
        for record in records
        if record["kind"] == "skipped" and not record["reason"].startswith("not installed")
    ]
    rows = summaries(records)
    exact = [row for row in rows if row["task"] == "als" and row["note"].startswith("exact")]
    best = min((row["objective"] for row in exact), default=0.0)
    for row in exact:
        if row["objective"] > best * (1 + EXACT_SLACK):
            found.append(f"{row['solver']}: objective {row['objective']:.6g}, an exact solver has {best:.6g}")
    names, slack = SAME_START
    same = [row["objective"] for row in exact if row["solver"] in names]
    if len(same) == len(names) and abs(same[0] / same[1] - 1) > slack:
        found.append(f"{' and '.join(names)} start alike but differ: objectives {same[0]:.8g} and {same[1]:.8g}")
    for row in rows:
        if row["recall@20"] < LEAST_RECALL * popular:
            found.append(f"{row['solver']}: recall@20 {row['recall@20']:.4f}, most popular has {popular:.4f}")
    if not any(row["solver"] == "lfm_np" for row in rows):
        found.append("lfm_np itself did not run")
    return found
