"""A reviewer's programs, each to show a promise of the pages false: fits, foldings, checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from .case import Case, Group
from .sentences_by_numpy import Rule, lfm_np, near, product
from .working_days import NAN, Model, csr, faultless, folder, raised, same, stars, start, wrong

_GROUP = Group("the reviewer's bench")
_holds = faultless(_GROUP)


def _sparse(m: int, n: int, lengths: Any, seed: int = 0) -> np.ndarray:
    """Rows of just these lengths, values of 1 to 5."""
    draw = np.random.default_rng(seed)
    X = np.full((m, n), NAN)
    for u, length in zip(range(m), lengths, strict=True):
        X[u, draw.choice(n, length, replace=False)] = draw.integers(1, 6, length)
    return X


def _exact_at_66() -> list[str]:
    """README: 'From 64 factors on `solver="auto"` … may improve long rows by steps instead; "exact" never does.'"""
    rule, k = Rule("ials", 0.7, 0.3, 0.2, 0.4), 66
    X = _sparse(14, 70, (1, 2, 3, 17, 33, 64, 65, 66, 67, 68, 69, 70, 70, 5))
    U0, V0 = start(14, 70, k)
    fit = lfm_np.als(csr(X), factors=k, iterations=1, init=(U0, V0), dtype="float64", solver="exact", **rule.words)
    U, V = rule.sweeps(X, V0)
    return wrong(
        scores=near(product(fit), U @ V.T, 1e-8),
        objective=near(fit.history[0]["objective"], rule.cost(X, U, V), 1e-9),
        users=near(fit.history[0]["objective_users"], rule.cost(X, U, V0), 1e-9),
    )


def _marks_through_a_break() -> list[str]:
    """Tutorial: 'what it writes into the record stays in the history' - and `checkpoint`: 'the same bits'."""
    X, Y = csr(stars(25, 12, 1)), stars(25, 12, 1)
    called: list[int] = []
    words: dict[str, Any] = {"factors": 3, "init": start(25, 12, 3), "dtype": "float64", **Model().words}

    def note(record: dict[str, Any], factors: Any) -> None:
        called.append(record["iteration"])
        record["mark"] = 2.5 * record["iteration"]
        record["norm"] = float(np.linalg.norm(product(factors)))

    with folder() as place:
        lfm_np.als(X, iterations=3, checkpoint=place / "c", callback=note, **words)
        rest = lfm_np.als(X, iterations=7, checkpoint=place / "c", callback=note, **words)
    whole = lfm_np.als(X, iterations=7, **words)
    sweeps = [Model().sweeps(Y, words["init"][1], s) for s in range(1, 8)]
    return wrong(
        bits=same(rest, whole),
        once=called == list(range(1, 8)),
        marks=[r.get("mark") for r in rest.history] == [2.5 * s for s in range(1, 8)],
        norms=near([r["norm"] for r in rest.history], [np.linalg.norm(U @ V.T) for U, V in sweeps], 1e-9),
        objectives=[r["objective"] for r in rest.history] == [r["objective"] for r in whole.history],
    )


def _stopped_and_rarely_saved() -> list[str]:
    """`Checkpoint`: 'The last sweep is always saved, unless an exception leaves the call' - StopIteration does not."""
    X = csr(stars(25, 12, 2))
    words: dict[str, Any] = {"factors": 3, "random_state": 5, "weighting": "ratings", "biases": True}

    def stop(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 2:
            raise StopIteration

    def fail(record: dict[str, Any], factors: Any) -> None:
        if record["iteration"] == 2:
            raise KeyError("mine")

    with folder() as place:
        rare = lfm_np.Checkpoint(place / "c", every=1e9)
        error = raised(lambda: lfm_np.als(X, iterations=6, checkpoint=rare, callback=fail, **words))
        short = lfm_np.als(X, iterations=6, checkpoint=rare, callback=stop, **words)
        there = rare.path.exists()
        seen: list[int] = []
        rest = lfm_np.als(X, iterations=6, checkpoint=rare, callback=lambda r, f: seen.append(r["iteration"]), **words)
    whole = lfm_np.als(X, iterations=6, **words)
    return wrong(
        mine=isinstance(error, KeyError),
        stopped=(short.status, len(short.history)) == ("stopped", 2),
        saved=there and seen == [3, 4, 5, 6],
        bits=same(rest, whole),
        status=rest.status == "max_iterations",
    )


def _patience(fit: Any) -> list[str]:
    """Tuning: 'it ends the run itself after three sweeps without a new best', and the sweeps found serve as
    `iterations` of another fit."""
    quality = [0.1, 0.3, 0.2, 0.25, 0.1, 0.9]
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    state = {"best": 0.0, "sweeps": 0}

    def watch(record: dict[str, Any], factors: Any) -> None:
        kept.append((factors.user_factors.copy(), factors.item_factors.copy()))
        now = record["ndcg@10"] = quality[record["iteration"] - 1]
        if now > state["best"]:
            state.update(best=now, sweeps=record["iteration"])
        if record["iteration"] - state["sweeps"] >= 3:
            raise StopIteration

    run = fit(16, watch)
    again = fit(int(state["sweeps"]), None)
    return wrong(
        length=[r["ndcg@10"] for r in run.history] == quality[:5],
        status=run.status == "stopped",
        bits=np.array_equal(again.user_factors, kept[1][0]) and np.array_equal(again.item_factors, kept[1][1]),
        last=np.array_equal(run.user_factors, kept[4][0]),
        full=again.status == "max_iterations",
    )


def _same_strength() -> list[str]:
    """Tuning: 'convert it such that the sum of all λ_u stays the same' (λ_u = λ (n_u + α₀ n)^ν)."""
    X, a0, strength = stars(21, 13, 3), 0.013, 0.02
    per_row = (~np.isnan(X)).sum(1) + a0 * 13
    per_column = (~np.isnan(X)).sum(0) + a0 * 21
    faults = []
    for nu in (0.0, 0.37, 1.5):
        lam = strength * (per_row.sum() + per_column.sum()) / ((per_row**nu).sum() + (per_column**nu).sum())
        rule = Rule("ials", 1.0, a0, float(lam), nu)
        fit = rule.fit(X, 4, 2)
        U, V = rule.sweeps(X, start(21, 13, 4)[1], 2)
        held = sum(
            lam * n**nu * float(f @ f)
            for ns, F in ((per_row, fit.user_factors), (per_column, fit.item_factors))
            for n, f in zip(ns, F, strict=True)
        )
        data = lfm_np.objective(csr(X), fit, regularization=0.0)
        facts = {
            f"scores at {nu}": near(product(fit), U @ V.T),
            f"parts at {nu}": near(data + held, rule.cost(X, U, V)),
        }
        faults += wrong(**facts)
    return faults


def _parameters_travel() -> list[str]:
    """Tutorial: 'Their factors are the exact solution of the least-squares problem that the fit solves for everybody'
    - after `save`, a mapped `load`, a fold-in, and `save` and `load` again."""
    rule = Rule("ials", 2.0, 0.2, 0.3, 0.5)
    X, Y, Z = stars(18, 11, 4), _sparse(3, 11, (1, 11, 4), 1), _sparse(2, 11, (6, 2), 2)
    fit = rule.fit(X, 3, 3)
    with folder() as place:
        fit.save(place / "a")
        first = lfm_np.Factors.load(place / "a", mmap=True).fold_in_users(csr(Y))
        first.save(place / "b")
        second = lfm_np.Factors.load(place / "b").fold_in_users(csr(Z))
    V = fit.item_factors
    return wrong(
        first=near(first.user_factors, [rule.row(y, V) for y in Y]),
        second=near(second.user_factors, [rule.row(z, V) for z in Z]),
        items=np.array_equal(second.item_factors, V),
        cost=near(lfm_np.objective(csr(Y), first), rule.cost(Y, first.user_factors, V), 1e-9),
    )


def _update_in_disorder() -> list[str]:
    """Tutorial: '`factors.update(rows, users=[…])` keeps what was folded in'; `update`: 'all other rows stay'."""
    rule = Rule("hu-koren", 3.0, 0.6, 0.4, 1.0)
    X, Y = stars(9, 10, 5), _sparse(4, 10, (3, 10, 0, 7), 3)
    fit = rule.fit(X, 3, 2)
    new = fit.update(csr(Y), users=[11, 2, 10, 9])
    V = fit.item_factors
    mine = [rule.row(y, V) if (~np.isnan(y)).any() else np.zeros(3) for y in Y]
    kept = [u for u in range(9) if u != 2]
    Z = np.vstack([X, Y[[3, 2, 0]]])
    Z[2] = Y[1]
    warm = lfm_np.als(csr(Z), factors=3, iterations=1, init=new, dtype="float64", **rule.words)
    U1, V1 = rule.sweeps(Z, V)
    return wrong(
        shape=new.shape == (12, 10),
        rows=near(new.user_factors[[11, 2, 10, 9]], mine),
        rest=np.array_equal(new.user_factors[kept], fit.user_factors[kept]),
        warm=near(product(warm), U1 @ V1.T),
    )


def _new_items_with_biases() -> list[str]:
    """`fold_in_users`: 'μ and the item biases … are subtracted … If it has user biases, the new users' are solved with
    their factors' - of `fold_in_items` and `update(items=)`, with ν = 1."""
    rule = Rule("ratings", lam=0.2, nu=1.0)
    X, C = stars(16, 9, 6), _sparse(2, 16, (16, 5), 4).T
    fit = lfm_np.als(csr(X), factors=2, iterations=2, biases=True, dtype="float64", random_state=1, **rule.words)
    offset = fit.global_bias + fit.user_bias
    mine = np.array([rule.row(c, fit.user_factors, offset, ones=True) for c in C.T])
    folded, new = fit.fold_in_items(csr(C)), fit.update(csr(C), items=[10, 9])
    ids, scores = new.recommend(0, N=20)
    S = product(new)[0] + new.item_bias + offset[0]
    return wrong(
        folded=near(folded.item_factors, mine[:, :2]) and near(folded.item_bias, mine[:, 2]),
        updated=near(new.item_factors[[10, 9]], mine[:, :2]) and near(new.item_bias[[10, 9]], mine[:, 2]),
        kept=np.array_equal(new.item_bias[:9], fit.item_bias) and np.array_equal(new.user_bias, fit.user_bias),
        listed=ids.tolist() == [*np.argsort(-S), *[-1] * 9] and near(scores[:11], np.sort(S)[::-1]),
    )


def _shares(weighting: str, biases: bool, dtype: str) -> list[str]:
    """Tutorial: 'A score is a sum over what the person has liked before', and its assertion (1e-9, of float32 too)."""
    rule = Rule(weighting, 1.5, 0.4, 0.3, 0.7)
    X = stars(15, 8, 7)
    words: dict[str, Any] = {"biases": True} if biases else {}
    fit = lfm_np.als(csr(X), factors=3, iterations=3, random_state=2, dtype=dtype, **rule.words, **words)
    u, i, V = 4, 2, fit.item_factors.astype(np.float64)
    why = fit.explain(u, i, csr(X))
    stored = np.flatnonzero(~np.isnan(X[u]))
    offset = fit.global_bias + fit.item_bias.astype(np.float64) if biases else np.zeros(8)
    found = rule.row(X[u], V, offset, ones=biases)
    score = V[i] @ found[:3] + offset[i] + (found[3] if biases else 0.0)
    of = dict(zip(np.asarray(why.items).tolist(), why.contributions, strict=True))
    facts = {
        "sum": abs(why.baseline + why.contributions.sum() - why.score) < 1e-9,
        "items": sorted(of) == stored.tolist(),
        "score": near(why.score, score, 1e-9 if dtype == "float64" else 1e-4),  # float32 sums of 8 cells, κ below 100
    }
    if not biases:  # the minimiser is linear in the targets: one cell's share is what is left when others have none
        A = np.vstack(
            [np.sqrt(rule.cell(x)[0] if j in stored else rule.empty) * V[j] for j, x in enumerate(np.nan_to_num(X[u]))]
            + [np.sqrt(rule.strength(len(stored), 8)) * np.eye(3)]
        )
        for j in stored:
            c, p = rule.cell(X[u, j])
            b = np.zeros(len(A))
            b[j] = np.sqrt(c) * p
            mine = V[i] @ np.linalg.lstsq(A, b, rcond=None)[0]
            facts[f"share of {j}"] = near(of[int(j)], mine, 1e-9 if dtype == "float64" else 1e-4)
    return wrong(**facts)


def _tolerance_after_a_break() -> list[str]:
    """`als`: 'Stop once a sweep, but the first, lowers J by less than this share'; `tolerance` 'may differ'."""
    X = csr(stars(40, 20, 8))
    words: dict[str, Any] = {"factors": 4, "dtype": "float64", "init": start(40, 20, 4), **Model().words}
    J = [r["objective"] for r in lfm_np.als(X, iterations=30, **words).history]
    U, V = Model().sweeps(stars(40, 20, 8), words["init"][1], 2)
    gains = [(a - b) / a for a, b in itertools.pairwise(J)]  # of sweep 2, 3, …
    share = (gains[6] + gains[7]) / 2
    expected = next(s for s in range(5, 31) if gains[s - 2] < share)
    with folder() as place:
        for name in ("a", "b"):
            lfm_np.als(X, iterations=4, checkpoint=place / name, **words)
        some = lfm_np.als(X, iterations=30, tolerance=share, checkpoint=place / "a", **words)
        much = lfm_np.als(X, iterations=30, tolerance=0.99, checkpoint=place / "b", **words)
    fresh = lfm_np.als(X, iterations=30, tolerance=0.99, **words)
    return wrong(
        J=near(J[1], Model().objective(stars(40, 20, 8), U, V)),
        some=(len(some.history), some.status) == (expected, "converged"),
        much=(len(much.history), much.status) == (4, "converged"),  # its last sweep was such a one already
        fresh=(len(fresh.history), fresh.status) == (2, "converged"),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    X = csr(stars(30, 16, 16))
    yield _holds("exact rows of 66 factors, as long as k and around it", _exact_at_66)
    yield _holds("what a callback wrote before a break is in the history after it", _marks_through_a_break)
    yield _holds("a rarely saved fit that is stopped, or fails", _stopped_and_rarely_saved)
    yield _holds(
        "sweeps found by patience, fitted again: als",
        lambda: _patience(lambda s, call: lfm_np.als(X, factors=5, iterations=s, callback=call, random_state=3)),
    )
    yield _holds(
        "epochs found by patience, fitted again: sgd",
        lambda: _patience(
            lambda s, call: lfm_np.sgd(
                X, factors=5, epochs=s, callback=call, random_state=3, schedule="inverse", negatives=2
            )
        ),
    )
    yield _holds("λ of the same strength at any ν", _same_strength)
    yield _holds("parameters travel with files and foldings", _parameters_travel)
    yield _holds("users updated in disorder, and a warm start from them", _update_in_disorder)
    yield _holds("new items of ratings with biases and ν of 1", _new_items_with_biases)
    for weighting, biases, dtype in (
        ("ials", False, "float64"),
        ("ratings", True, "float32"),
    ):
        yield _holds(
            f"shares of a score: {weighting}{' with biases' * biases}, {dtype}",
            lambda w=weighting, b=biases, d=dtype: _shares(w, b, d),
        )
    yield _holds("a tolerance that comes after a break", _tolerance_after_a_break)
