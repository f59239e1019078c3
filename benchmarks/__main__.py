"""``python -m benchmarks``: list, run, report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import datasets, report, runner, solvers
from benchmarks.tasks import make_task, recall_of_popular

QUICK = {"als": ("small", 16, 15), "bpr": ("small", 16, 20)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__import__("benchmarks").__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="solvers and data sets, and why one is absent")
    run = commands.add_parser("run", help="measure; appends JSON lines to --output")
    run.add_argument("--task", choices=("als", "bpr"), default="als")
    run.add_argument("--solvers", nargs="+", default=None, help="by default all of the task that are installed")
    run.add_argument("--datasets", nargs="+", default=["ml20m"])
    run.add_argument("--factors", nargs="+", type=int, default=[64])
    run.add_argument("--threads", nargs="+", type=int, default=[2])
    run.add_argument("--iterations", type=int, default=5)
    run.add_argument("--alpha", type=float, default=10.0, help="of als; `python -m benchmarks.als_tuning` finds one")
    run.add_argument("--regularization", type=float, default=None, help="by default that of the task")
    run.add_argument("--judge", choices=("every", "objective", "last", "never"), default="every")
    run.add_argument("--device", default="cpu", help="for the torch solvers")
    run.add_argument("--limit", type=float, default=300.0, help="seconds of training after which a solver stops")
    run.add_argument("--output", type=Path, default=Path("benchmark.jsonl"))
    quick = commands.add_parser("quick", help="every solver on a small matrix; fails unless each learns what it should")
    quick.add_argument("--output", type=Path, default=None)
    table = commands.add_parser("report", help="tables and plots of JSON lines")
    table.add_argument("files", nargs="+", type=_records, metavar="file")
    table.add_argument("--output", type=Path, default=None, help="folder for report.md and the plots")
    options = parser.parse_args(arguments)
    if options.command == "run":
        try:
            _check(options)
        except ValueError as error:
            parser.error(str(error))
    return {"list": _list, "run": _run, "quick": _quick, "report": _report}[options.command](options)


def _check(options: argparse.Namespace) -> None:
    """Names that are none are mistakes; what is only absent here is skipped."""
    for name in options.datasets:
        datasets.check(name)
    if unknown := sorted(set(options.solvers or ()) - set(solvers.entries())):
        raise ValueError(f"no solver {', '.join(unknown)}; there are {', '.join(solvers.entries())}")
    if options.judge == "objective" and options.task != "als":
        raise ValueError("only als has an objective to judge by")


def _list(options: argparse.Namespace) -> int:
    for name, entry in solvers.entries().items():
        print(f"{entry.task:4} {name:18} {entry.missing or entry.note}")
    for name, note in datasets.listed():
        print(f"data {name:18} {note}")
    return 0


def _run(options: argparse.Namespace) -> int:
    chosen = options.solvers or [name for name, entry in solvers.entries().items() if entry.task == options.task]
    model = {"alpha": options.alpha, "device": options.device}
    if options.regularization is not None:
        model["regularization"] = options.regularization
    with options.output.open("a") as file:
        for dataset in options.datasets:
            for factors in options.factors:
                for threads in options.threads:
                    task = make_task(options.task, factors=factors, threads=threads, **model)
                    for record in runner.compare(
                        chosen, dataset, task, iterations=options.iterations, judged=options.judge, limit=options.limit
                    ):
                        file.write(json.dumps(record) + "\n")
                        file.flush()
                        print(report.line(record), flush=True)
    return 0


def _quick(options: argparse.Namespace) -> int:
    records = []
    for name, (dataset, factors, iterations) in QUICK.items():
        chosen = [solver for solver, entry in solvers.entries().items() if entry.task == name]
        task = make_task(name, factors=factors, threads=1)
        for record in runner.compare(chosen, dataset, task, iterations=iterations, judged="last"):
            records.append(record)
            print(report.line(record), flush=True)
    if options.output:
        options.output.write_text("".join(json.dumps(record) + "\n" for record in records))
    failures = report.failures(records, popular=recall_of_popular(QUICK["als"][0]))
    print("\n".join(failures) or "every solver that ran reached the quality it should")
    return 1 if failures else 0


def _records(file: str) -> list[dict[str, Any]]:
    """The records of a file that ``run`` wrote."""
    try:
        return [json.loads(line) for line in Path(file).read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {file}: {error}") from None


def _report(options: argparse.Namespace) -> int:
    records = [record for file in options.files for record in file]
    text = report.markdown(records)
    if options.output is None:
        print(text)
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    plots = report.plots(records, options.output)
    (options.output / "report.md").write_text(text + "".join(f"\n![{path.stem}]({path.name})\n" for path in plots))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
