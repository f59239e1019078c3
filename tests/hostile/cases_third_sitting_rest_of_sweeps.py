"""The third sitting, the rest: identities that hold after every sweep of als, on every engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_second_sitting_models_of_engines import with_client
from .cases_third_sitting_rest_of_epochs import lfm_np, losses, some
from .working_days import Model, close, csr, faultless, folder, wrong

_holds = faultless(Group("third sitting, the rest"))
Fit = Callable[..., Any]


class Law(NamedTuple):
    weighting: str
    alpha: float
    a0: float
    lam: float
    nu: float

    @property
    def words(self) -> dict[str, Any]:
        words = {"weighting": self.weighting, "regularization": self.lam, "regularization_exponent": self.nu}
        if self.weighting != "ratings":
            words |= {"alpha": self.alpha, "unobserved_weight": self.a0}
        return words

    def wanted(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight times target, and the target."""
        one = np.ones(len(x))
        if self.weighting == "ratings":
            return x, x
        if self.weighting == "ials":
            return self.alpha * x, self.alpha * x / (self.a0 + self.alpha * x)
        return (1 if self.weighting == "hu-koren" else 0) + self.alpha * x, one

    def held(self, cells: Any, others: int) -> np.ndarray:
        return np.asarray(self.lam * (np.asarray(cells) + self.a0 * others) ** self.nu)

    def told(self, X: Any, made: Any, solved: str) -> float:
        """J, where this side was solved last: Σ c·p·(p - s) of the stored cells, and what the other side pays."""
        coo = X.tocoo()
        rows, columns = coo.coords
        m, n = X.shape
        mu, b, d = made.global_bias or 0.0, made.user_bias, made.item_bias
        b, d = np.zeros(m) if b is None else b, np.zeros(n) if d is None else d
        U, V = made.user_factors, made.item_factors
        s = mu + b[rows] + d[columns] + (U[rows] * V[columns]).sum(1)
        cp, p = self.wanted(coo.data)
        if made.user_bias is not None:  # ratings: what is solved for is what the other side's biases leave
            cp = coo.data - mu - (b[rows] if solved == "items" else d[columns])
        F, bias = (U, b) if solved == "items" else (V, d)
        size, at, others = (m, rows, n) if solved == "items" else (n, columns, m)
        paid = self.held(np.bincount(at, minlength=size), others) @ ((F**2).sum(1) + bias**2)
        return float(cp @ (p - s) + paid)


LAWS = (
    Law("hu-koren", 2.0, 0.5, 1.0, 0.0),
    Law("ials", 1.0, 0.3, 0.2, 0.5),
    Law("confidence", 0.7, 0.4, 0.1, 1.0),
    Law("ratings", 1.0, 0.0, 0.3, 0.5),
)


def here(X: Any, **words: Any) -> Any:
    return lfm_np.als(X, dtype="float64", solver="exact", **words)


def by_torch(X: Any, **words: Any) -> Any:
    return lfm_np.torch_backend.als(X, dtype="float64", solver="exact", num_threads=1, memory_budget=1 << 20, **words)


def from_disk(X: Any, **words: Any) -> Any:
    zeros = "keep" if words.get("weighting") == "ratings" else "drop"
    with folder() as place:
        stored = lfm_np.StoredMatrix.from_matrix(X, place / "matrix", zeros=zeros, dtype="float64")
        return here(stored, **words)


def on_a_cluster(work: Callable[[Fit], list[str]]) -> list[str]:
    """Three shards for two workers within this process."""
    return with_client(
        lambda client: work(
            lambda X, **words: lfm_np.distributed.als(X, client=client, shards=3, dtype="float64", **words)
        )
    )


def engines() -> list[tuple[str, Callable[[Callable[[Fit], list[str]]], list[str]]]]:
    found = [("in memory", lambda work: work(here)), ("from the disk", lambda work: work(from_disk))]
    if installed("torch"):
        found.append(("torch", lambda work: work(by_torch)))
    if installed("distributed"):
        found.append(("a cluster", on_a_cluster))
    return found


def begun(m: int, n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(0, 0.5, (m, k)), draw.normal(0, 0.5, (n, k))


def _residuals(fit: Fit) -> list[str]:
    """J after either half follows from the stored cells and one side's lengths, since the other is a minimum."""
    facts = {}
    for place, (law, biases) in enumerate([*((law, False) for law in LAWS), (LAWS[3], True)]):
        m, n = (320, 20) if place % 2 else (70, 60)  # equations travel, or users
        X = sp.csr_array(some(m, n, place).astype(float))
        words = {**law.words, "factors": 5, "init": begun(m, n, 5, place), "biases": biases}
        two, three = (fit(X, iterations=times, **words) for times in (2, 3))
        halfway = two.fold_in_users(X)
        name = f"{law.weighting}_{place}"
        facts[f"{name}_after"] = close(three.history[2]["objective"], law.told(X, three, "items"), 1e-9)
        facts[f"{name}_before"] = close(two.history[1]["objective"], law.told(X, two, "items"), 1e-9)
        facts[f"{name}_users"] = close(three.history[2]["objective_users"], law.told(X, halfway, "users"), 1e-9)
        facts[f"{name}_of_any"] = close(lfm_np.objective(X, three), law.told(X, three, "items"), 1e-9)
    return wrong(**facts)


def _balanced(fit: Fit, laws: tuple[Law, ...], sweeps: int) -> list[str]:
    """Of the products of two matrices those with UᵀΛU = VᵀΛV are the shortest; NumPy's sweeps get there to 1e-10."""
    facts = {}
    X = some(14, 10, 21, 0.5)
    for law in laws:
        words = {**law.words, "factors": 2, "init": begun(14, 10, 2, 1)}
        made = fit(sp.csr_array(X.astype(float)), iterations=sweeps, **words)
        U, V = made.user_factors, made.item_factors
        A = (U.T * law.held((X > 0).sum(1), 10)) @ U
        B = (V.T * law.held((X > 0).sum(0), 14)) @ V
        facts[f"{law.weighting}_{law.nu}"] = close(A, B, 1e-7) and bool(B.diagonal().min() > 1e-3)
    return wrong(**facts)


def _pairs_alone(fit: Fit) -> list[str]:
    """257 users of one item each, that nobody else has: their factors keep a direction, and lengths go their way."""
    n, k, lam, times = 257, 5, 0.5, 4
    x = np.logspace(-1, 2, n)
    X, (U, V), facts = sp.csr_array(sp.diags_array(x)), begun(n, n, k, 31), {}
    for weighting, c, p in (("ratings", np.ones(n), x), ("confidence", 0.5 * x, np.ones(n))):
        v = np.sqrt((V**2).sum(1))
        for _ in range(times):
            u = c * p * v / (c * v * v + lam)
            v = c * p * u / (c * u * u + lam)
        law = Law(weighting, 0.5, 0.0, lam, 0.5)  # one cell and no others: λ to any exponent
        made = fit(X, factors=k, iterations=times, init=(U, V), **law.words)
        s = np.asarray(made.scores(np.arange(n), np.arange(n)))
        facts[f"{weighting}_scores"] = bool((abs(s - u * v) <= 1e-8 * u * v).all())
        facts[f"{weighting}_lengths"] = close(np.sqrt((made.user_factors**2).sum(1)), u, 1e-9)
        paid = float((c * (p - u * v) ** 2).sum() + lam * (u @ u + v @ v))
        facts[f"{weighting}_paid"] = close(made.history[-1]["objective"], paid, 1e-9)
    return wrong(**facts)


def _to_and_fro(fit: Fit) -> list[str]:
    """A sweep of the transpose from these users repeats the items' half, and goes on with the users'."""
    facts = {}
    for place, law in enumerate((LAWS[0], LAWS[1], LAWS[3])):
        m, n, k = 40, 25, 4
        full = some(m, n, 40 + place).astype(float)
        X, start = np.where(full > 0, full, np.nan), begun(m, n, k, place)
        model = Model(law.weighting, law.alpha, law.a0, law.lam, law.nu)
        U1 = model.half(X, start[1])
        V1 = model.half(X.T, U1)
        U2 = model.half(X, V1)
        V2 = model.half(X.T, U2)
        chain = [model.objective(X, *pair) for pair in ((U1, start[1]), (U1, V1), (U2, V1), (U2, V2))]
        words = {**law.words, "factors": k}
        two = fit(csr(X), iterations=2, init=start, **words)
        one = fit(csr(X), iterations=1, init=start, **words)
        turned = fit(csr(X.T), iterations=1, init=(one.item_factors, one.user_factors), **words)
        seen = [record[key] for record in two.history for key in ("objective_users", "objective")]
        facts[f"{law.weighting}_two"] = close(seen, chain, 1e-9)
        facts[f"{law.weighting}_turned"] = close(
            [turned.history[0][key] for key in ("objective_users", "objective")], chain[1:3], 1e-9
        )
        facts[f"{law.weighting}_scores"] = close(turned.item_factors @ turned.user_factors.T, U2 @ V1.T, 1e-8)
    return wrong(**facts)


def _newcomers_pay() -> list[str]:
    """With ν = 0, J grows by what new columns (rows) pay at their minimum: Σ c·p·(p - s) of their stored cells."""
    facts = {}
    for place, law in enumerate([*(law._replace(nu=0.0) for law in LAWS), LAWS[3]._replace(nu=0.0)]):
        biases, whole = place == 4, some(36, 24, 50 + place).astype(float)
        X = sp.csr_array(whole[:30, :20])
        words = {"factors": 3, "iterations": 2, "biases": biases, "random_state": 0}
        model = here(X, **words, **law.words)
        before = lfm_np.objective(X, model, **law.words)
        for side in ("items", "users"):
            if side == "items":
                order, more = [22, 20, 23, 21], whole[:30, [22, 20, 23, 21]]
                grown, now = model.update(sp.csr_array(more), items=order), whole[:30, :]
                rows, columns = np.nonzero(whole[:30, 20:])
                columns = columns + 20
            else:
                order, more = [35, 30, 32, 31, 34, 33], whole[[35, 30, 32, 31, 34, 33], :20]
                grown, now = model.update(sp.csr_array(more), users=order), whole[:, :20]
                rows, columns = np.nonzero(whole[30:, :20])
                rows = rows + 30
            x = now[rows, columns]
            s = np.asarray(grown.scores(rows, columns))
            cp, p = law.wanted(x)
            if biases:
                cp = x - grown.global_bias - (grown.user_bias[rows] if side == "items" else grown.item_bias[columns])
            after = lfm_np.objective(sp.csr_array(now), grown, **law.words)
            facts[f"{law.weighting}_{place}_{side}"] = abs(after - before - cp @ (p - s)) < 1e-9 * after
    return wrong(**facts)


def _left_out() -> list[str]:
    """What an explanation says of an item's own share h foretells the score that it would have without that cell."""
    draw, facts = np.random.default_rng(60), {}
    U, V, b, d = draw.normal(size=(6, 4)), draw.normal(size=(15, 4)), draw.normal(size=6), draw.normal(size=15)
    full = some(6, 15, 61, 0.5)
    x = np.where(full > 0, draw.uniform(1, 5, (6, 15)), 0)
    kinds = {
        "plain": (lfm_np.Factors(U, V), "ratings"),
        "items": (lfm_np.Factors(U, V, item_bias=d, global_bias=2.5), "ratings"),
        "both": (lfm_np.Factors(U, V, user_bias=b, item_bias=d, global_bias=2.5), "ratings"),
        "confidence": (lfm_np.Factors(U, V), "confidence"),
    }
    for name, (model, weighting) in kinds.items():
        words: dict[str, Any] = {"weighting": weighting, "regularization": 0.7, "regularization_exponent": 0.0}
        if weighting == "confidence":
            words |= {"alpha": 0.8, "unobserved_weight": 0.0}
        for user in (0, 3, 5):
            for item in np.flatnonzero(x[user])[:3].tolist():
                why = model.explain(user, item, sp.csr_array(x), **words)
                own = float(why.contributions[list(why.items).index(item)])
                target = 1.0 if weighting == "confidence" else x[user, item] - why.baseline
                h = own / target
                rest = x[user].copy()
                rest[item] = 0
                without = model.fold_in_users(sp.csr_array(rest[None]), **words)
                mine = why.baseline + (why.score - why.baseline - own) / (1 - h)
                facts[f"{name}_{user}_{item}"] = 0 < h < 1 and abs(without.scores(0, item) - mine) < 1e-8
    return wrong(**facts)


def _time_of_callbacks() -> list[str]:
    """Seconds of sweeps and epochs are without the callback's own."""
    X, facts = sp.csr_array(some(40, 20, 70).astype(float)), {}
    kinds = {
        "als": lambda **words: lfm_np.als(X, iterations=4, **words),
        "sgd": lambda **words: lfm_np.sgd(X, losses.BPR(), epochs=4, **words),
    }
    if installed("torch"):
        kinds["torch.als"] = lambda **words: lfm_np.torch_backend.als(X, iterations=4, num_threads=1, **words)
        kinds["torch.sgd"] = lambda **words: lfm_np.torch_backend.sgd(X, losses.BPR(), epochs=4, num_threads=1, **words)
    for name, fit in kinds.items():
        slept: list[float] = []

        def rest(record: Any, factors: Any, slept: list[float] = slept) -> None:
            start = time.perf_counter()
            time.sleep(0.05)
            slept.append(time.perf_counter() - start)

        start = time.perf_counter()
        made = fit(factors=3, random_state=0, callback=rest)
        wall = time.perf_counter() - start
        seconds = [record["seconds"] for record in made.history]
        facts[name] = len(slept) == 4 and min(seconds) >= 0 and sum(seconds) <= wall - sum(slept) + 1e-3
    return wrong(**facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for name, ask in engines():
        yield _holds(f"J from the stored cells alone, {name}", lambda a=ask: a(_residuals))
        yield _holds(f"pairs that live alone, {name}", lambda a=ask: a(_pairs_alone))
        yield _holds(f"half-sweeps to and fro, {name}", lambda a=ask: a(_to_and_fro))
    laws = (*LAWS, Law("ratings", 1.0, 0.0, 0.3, 1.0))
    yield _holds("both sides weigh the same in the end", lambda: _balanced(here, laws, 400))
    if installed("torch"):
        yield _holds("both sides weigh the same in the end, torch", lambda: _balanced(by_torch, LAWS[1:3], 250))
    yield _holds("what newcomers add to J", _newcomers_pay)
    yield _holds("scores without a cell, from its own share", _left_out)
    yield _holds("the time of callbacks", _time_of_callbacks)
