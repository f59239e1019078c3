"""The second sitting, models: every engine of ALS, beside float64 loops over rows."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import lfm_np as library

from .case import Case, Group, installed
from .working_days import NAN, all_scores, csr, faultless, folder, wrong

lfm_np: Any = library
_holds = faultless(Group("second sitting, models"))


def near(a: Any, b: Any, relative: float) -> bool:
    """No further apart than this share of the largest."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a.shape == b.shape and bool(abs(a - b).max(initial=0) <= relative * max(1e-300, abs(b).max(initial=0)))


class Law(NamedTuple):
    """The objective of `als`, and a row's minimum by its normal equations."""

    weighting: str = "hu-koren"
    alpha: float = 1.0
    a0: float = 1.0
    lam: float = 0.1
    nu: float = 0.0

    @property
    def words(self) -> dict[str, Any]:
        words = {"weighting": self.weighting, "regularization": self.lam, "regularization_exponent": self.nu}
        return words if self.weighting == "ratings" else {**words, "alpha": self.alpha, "unobserved_weight": self.a0}

    @property
    def empty(self) -> float:
        return 0.0 if self.weighting == "ratings" else self.a0

    def cells(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one = np.ones(len(x))
        if self.weighting == "ratings":
            return one, x
        if self.weighting == "ials":
            return self.a0 + self.alpha * x, self.alpha * x / (self.a0 + self.alpha * x)
        return (1 if self.weighting == "hu-koren" else 0) + self.alpha * x, one

    def held(self, x: np.ndarray) -> float:
        """λ of a row, whose empty cells count too."""
        return float(self.lam * (int((~np.isnan(x)).sum()) + self.empty * len(x)) ** self.nu)

    def half(
        self, X: np.ndarray, V: np.ndarray, offset: Any = None, own: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Factors of the rows of X, and their biases where they have ``own``; ``offset`` is that of every column."""
        offset = np.zeros(X.shape[1]) if offset is None else offset
        Y = np.column_stack([V, np.ones(len(V))]) if own else V
        rows = []
        for x in X:
            has = ~np.isnan(x)
            c, p = self.cells(x[has])
            A = (Y[has].T * c) @ Y[has] + self.held(x) * np.eye(Y.shape[1])
            if self.empty:
                A += self.empty * (Y[~has].T @ Y[~has])
            rows.append(np.linalg.solve(A, Y[has].T @ (c * (p - offset[has]))))
        found = np.array(rows).reshape(len(X), Y.shape[1])
        return (found[:, :-1], found[:, -1]) if own else (found, np.zeros(len(X)))

    def sweeps(self, X: np.ndarray, V: np.ndarray, times: int) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(times):
            U = self.half(X, V)[0]
            V = self.half(X.T, U)[0]
        return U, V

    def cost(self, X: np.ndarray, U: np.ndarray, V: np.ndarray, b: Any = 0.0, d: Any = 0.0, mu: float = 0.0) -> float:
        b, d = np.broadcast_to(b, len(U)), np.broadcast_to(d, len(V))
        S, J = mu + b[:, None] + d + U @ V.T, 0.0
        for x, s in zip(X, S):
            has = ~np.isnan(x)
            c, p = self.cells(x[has])
            J += float((c * (p - s[has]) ** 2).sum()) + self.empty * float((s[~has] ** 2).sum())
        for side, F, bias in ((X, U, b), (X.T, V, d)):
            J += sum(self.held(x) * float(f @ f + e * e) for x, f, e in zip(side, F, bias))
        return J


def counts(m: int, n: int, seed: int, share: float = 0.3) -> np.ndarray:
    """Values of 1 to 5 in some cells; row 1 and column 2 are empty."""
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((m, n)) < share, draw.integers(1, 6, (m, n)), NAN)
    X[1], X[:, 2] = NAN, NAN
    return X


def stars(m: int, n: int, seed: int, share: float = 0.4) -> np.ndarray:
    """Halves of 0.5 to 5; no row and no column is empty."""
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((m, n)) < share, draw.integers(1, 11, (m, n)) / 2, NAN)
    for place in range(max(m, n)):
        X[place % m, place % n] = (1 + place % 10) / 2
    return X


def begun(m: int, n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(0, 0.4, (m, k)), draw.normal(0, 0.4, (n, k))


def by_numba(X: Any, **words: Any) -> Any:
    return lfm_np.als(X, dtype="float64", **words)


def by_torch(X: Any, **words: Any) -> Any:
    return lfm_np.torch_backend.als(X, dtype="float64", num_threads=1, memory_budget=1 << 20, **words)


def by_dask(X: Any, **words: Any) -> Any:
    """Three shards for two workers within this process."""
    return with_client(lambda client: lfm_np.distributed.als(X, client=client, shards=3, dtype="float64", **words))


def with_client(work: Callable[[Any], Any]) -> Any:
    import distributed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what dask says about the machine is not asked here
        with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
            return work(client)


def engines() -> list[tuple[str, Callable[..., Any]]]:
    found: list[tuple[str, Callable[..., Any]]] = [("numba", by_numba)]
    if installed("torch"):
        found.append(("torch", by_torch))
    if installed("distributed"):
        found.append(("dask", by_dask))
    return found


def _biased(fit: Callable[..., Any]) -> list[str]:
    """Biases held like their rows, by n_u^1.5, from item biases that were there; μ is the mean, whatever it was."""
    X, law = stars(14, 9, 1), Law("ratings", lam=0.05, nu=1.5)
    U, V = begun(14, 9, 3, 2)
    draw = np.random.default_rng(3)
    b, d, mu = draw.normal(size=14), draw.normal(size=9), float(np.nanmean(X))
    first = lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=99.0)
    got = fit(csr(X), factors=3, iterations=2, biases=True, init=first, **law.words)
    J = []
    for _ in range(2):
        U, b = law.half(X, V, mu + d, own=True)
        J.append(law.cost(X, U, V, b, d, mu))
        V, d = law.half(X.T, U, mu + b, own=True)
        J.append(law.cost(X, U, V, b, d, mu))
    return wrong(
        scores=near(all_scores(got), mu + b[:, None] + d + U @ V.T, 1e-9),
        users=near(got.user_bias, b, 1e-8),
        items=near(got.item_bias, d, 1e-8),
        mean=near(got.global_bias, mu, 1e-12),
        J=near([record[x] for record in got.history for x in ("objective_users", "objective")], J, 1e-9),
    )


def _tolerated(fit: Callable[..., Any]) -> list[str]:
    """It ends with the first sweep after the first that lowers J by less than this share."""
    X, law = counts(25, 18, 4), Law("ials", 2.0, 0.4, 0.02, 0.5)
    U0, V = begun(25, 18, 4, 5)
    J, W = [], V
    for _ in range(12):
        U, W = law.sweeps(X, W, 1)
        J.append(law.cost(X, U, W))
    shares = [(a - b) / a for a, b in itertools.pairwise(J)]  # of sweeps 2, 3, …
    tolerance = math.sqrt(shares[3] * shares[4])
    mine = 2 + next(n for n, share in enumerate(shares) if share < tolerance)
    assert 2 < mine < 12
    assert min(abs(share / tolerance - 1) for share in shares[: mine - 1]) > 1e-3
    got = fit(csr(X), factors=4, iterations=40, tolerance=tolerance, init=(U0, V), **law.words)
    return wrong(
        sweeps=len(got.history) == mine,
        status=got.status == "converged",
        J=near([record["objective"] for record in got.history], J[:mine], 1e-9),
    )


def _every_length(fit: Callable[..., Any]) -> list[str]:
    """Rows of 0, 3, … 297 cells of 300, and columns as they come, for 64 factors."""
    draw = np.random.default_rng(6)
    X = np.full((100, 300), NAN)
    for u, x in enumerate(X):
        x[draw.choice(300, 3 * u, replace=False)] = draw.integers(1, 4, 3 * u)
    law = Law("ials", 1.5, 0.3, 0.05, 0.7)
    U0, V = begun(100, 300, 64, 7)
    U, V1 = law.sweeps(X, V, 1)
    got = fit(csr(X), factors=64, iterations=1, solver="exact", init=(U0, V), **law.words)
    return wrong(
        scores=near(all_scores(got), U @ V1.T, 1e-8),
        users=near(got.history[0]["objective_users"], law.cost(X, U, V), 1e-9),
        J=near(got.history[0]["objective"], law.cost(X, U, V1), 1e-9),
    )


def _folds_by_its_own(fit: Callable[..., Any]) -> list[str]:
    """What a result was fitted with is what fold-in, explain and objective take, also out of a file that is mapped."""
    X, law = counts(16, 12, 8), Law("confidence", 3.0, 0.25, 0.4, 0.6)
    fresh = counts(5, 12, 9)
    made = fit(csr(X), factors=3, iterations=2, init=begun(16, 12, 3, 10), **law.words)
    facts = {}
    with folder() as place:
        made.save(place / "m")
        for name, model in (("made", made), ("mapped", lfm_np.Factors.load(place / "m", mmap=True))):
            U, V = (np.array(F, np.float64) for F in (model.user_factors, model.item_factors))
            mine = law.half(fresh, V)[0]
            new = model.fold_in_users(csr(fresh))
            facts[f"{name}_users"] = near(new.user_factors, mine, 1e-9)
            items = model.fold_in_items(csr(X[:, :4]))
            facts[f"{name}_items"] = near(items.item_factors, law.half(X.T[:4], U)[0], 1e-9)
            why = model.explain(0, 5, csr(X))
            facts[f"{name}_why"] = near(why.score, law.half(X[:1], V)[0][0] @ V[5], 1e-9)
            facts[f"{name}_J"] = near(lfm_np.objective(csr(X), model), law.cost(X, U, V), 1e-9)
    return wrong(**facts)


def _callbacks_of_a_cluster() -> list[str]:
    """Users that a callback looks at are those of its sweep; a StopIteration leaves what there is."""
    X, law, seen = counts(17, 9, 22), Law("hu-koren", 2.0, 0.5, 0.3, 0.2), list[Any]()
    U0, V = begun(17, 9, 3, 23)

    def look(record: Any, now: Any) -> None:
        seen.append(all_scores(now))
        record["seen"] = len(seen)
        if len(seen) == 3:
            raise StopIteration

    got = by_dask(csr(X), factors=3, iterations=9, init=(U0, V), callback=look, **law.words)
    mine = []
    for _ in range(3):
        U, V = law.sweeps(X, V, 1)
        mine.append(U @ V.T)
    return wrong(
        each=len(seen) == 3 and all(near(a, b, 1e-9) for a, b in zip(seen, mine)),
        last=near(all_scores(got), mine[2], 1e-9),
        status=got.status == "stopped",
        history=[record["seen"] for record in got.history] == [1, 2, 3],
    )


def _files_of_a_cluster(duplicates: str) -> list[str]:
    """Records of a user in several files, by way of staging; rows are those of `users`, and the file has them too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(24)
    users, items, values = draw.integers(0, 15, 240), draw.integers(0, 8, 240), draw.integers(1, 11, 240) / 2
    cells: dict[tuple[int, int], list[float]] = {}
    for u, i, x in zip(users.tolist(), items.tolist(), values.tolist()):
        cells.setdefault((u, i), []).append(x)
    assert len({u for u, _ in cells}) == 15
    assert len({i for _, i in cells}) == 8
    mix = {"mean": lambda x: sum(x) / len(x), "max": max, "count": len}[duplicates]
    law = Law("ratings", lam=0.2, nu=1.0) if duplicates != "count" else Law("hu-koren", 1.0, 1.0, 0.5, 0.0)
    U0, V = begun(15, 8, 2, 25)
    with folder() as place:
        (place / "in").mkdir()
        for part in range(3):
            mine = slice(part, None, 3)
            table = pa.table(
                {"who": [f"u{u:02}" for u in users[mine]], "what": items[mine] * 10, "stars": values[mine]}
            )
            pq.write_table(table, place / "in" / f"{part}.parquet")

        def work(client: Any) -> Any:
            data = lfm_np.distributed.from_parquet(
                place / "in", client=client, shards=3, staging=place / "staging", user="who", item="what",
                value="stars", duplicates=duplicates,
            )  # fmt: skip
            got = lfm_np.distributed.als(
                data, client=client, factors=2, iterations=2, init=(U0, V), dtype="float64",
                users_to=place / "users.npy", **law.words,
            )  # fmt: skip
            return [str(x) for x in data.users(client)], data.items.tolist(), got

        names, columns, got = with_client(work)
        X = np.full((15, 8), NAN)
        for (u, i), x in cells.items():
            X[names.index(f"u{u:02}"), i] = np.float32(mix(x))
        U, V1 = law.sweeps(X, V, 2)
        return wrong(
            names=sorted(names) == [f"u{u:02}" for u in range(15)],
            columns=columns == [10 * i for i in range(8)],
            scores=near(all_scores(got), U @ V1.T, 1e-6),  # means are float32 numbers, or float64 ones
            J=near(got.history[-1]["objective"], law.cost(X, U, V1), 1e-6),
            file=np.array_equal(np.load(place / "users.npy"), got.user_factors),
        )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, fit in engines():
        yield _holds(f"biases held by n_u^1.5, from some that were there, {name}", lambda f=fit: _biased(f))
        yield _holds(f"the sweep at which a tolerance ends, {name}", lambda f=fit: _tolerated(f))
        yield _holds(f"rows of 0 to 297 cells, 64 factors, {name}", lambda f=fit: _every_length(f))
        yield _holds(f"what was fitted is what folds in, {name}", lambda f=fit: _folds_by_its_own(f))
    if installed("distributed"):
        yield _holds("callbacks of a cluster", _callbacks_of_a_cluster)
    if installed("distributed", "pyarrow"):
        for duplicates in ("mean", "max", "count"):
            yield _holds(
                f"files of a cluster, the {duplicates} of records", lambda d=duplicates: _files_of_a_cluster(d)
            )
