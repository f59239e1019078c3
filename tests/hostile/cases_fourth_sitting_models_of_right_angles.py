"""The fourth sitting, models: many factors at right angles, estimators beside them, rows that draw nothing, places."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from .case import Case, Group, installed
from .cases_fourth_sitting_models_of_counted_lists import all_orders, column
from .cases_fourth_sitting_models_of_forms import RULES, hadamard, wide_table
from .cases_fourth_sitting_models_of_slopes import ETA, NEAR, SIDES, Begun, gram, sgd, softplus
from .sentences_by_numpy import Rule, lfm_np, losses, near, product, sampling, sigmoid
from .working_days import csr, faultless, wrong

_holds = faultless(Group("fourth sitting, models"))


def many(k: int) -> np.ndarray:
    """k × k of ±1, whose rows are at right angles."""
    H = np.ones((1, 1))
    while len(H) < k:
        H = np.kron(np.array([[1.0, 1.0], [1.0, -1.0]]), H)
    return H


def long_rows(k: int) -> np.ndarray:
    """Rows of 0, 1, 3, a quarter of k, half of it, all but one and all, of values 1/4 to 8."""
    draw = np.random.default_rng(k)
    X = np.full((7, k), np.nan)
    for row, count in enumerate((0, 1, 3, k // 4, k // 2, k - 1, k)):
        X[row, draw.permutation(k)[:count]] = draw.integers(1, 33, count) / 4
    return X


MANY = (
    Rule("hu-koren", 0.5, 0.5, 2.0, 1.0),
    Rule("ials", 2.0, 0.1, 0.3, 0.5),
    Rule("confidence", 1.0, 3.0, 0.5, 0.0),
    Rule("ratings", lam=0.8, nu=1.0),
)


def alone(rule: Rule, X: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Scores of every row beside `many`, J of them with λ of the columns, and Σ c·p²: cell by cell."""
    m, k = X.shape
    S, J, weight = np.zeros((m, k)), 0.0, 0.0
    for u, i in zip(*np.nonzero(~np.isnan(X)), strict=True):
        held = rule.strength(int((~np.isnan(X[u])).sum()), k) / k
        c, p = rule.cell(float(X[u, i]))
        S[u, i] = c * p / (c + held)
        J += c * p * p * held / (c + held)
        weight += c * p * p
    for x in X.T:
        J += k * rule.strength(int((~np.isnan(x)).sum()), m)
    return S, J, weight


def _sixty_four_and_more(dtype: Any) -> list[str]:
    """In float32 a score is off by some 6e-8 · κ, κ below 100: (max c)/(min c + λ/k); J by 1e-5 of Σ c·p²."""
    found = {}
    for k in (64, 128, 256):
        X, H = long_rows(k), many(k).astype(dtype)
        model = lfm_np.Factors(np.zeros((1, k), dtype), H)
        for rule in MANY:
            S, J, weight = alone(rule, X)
            folded = model.fold_in_users(csr(X, dtype), **rule.words)
            fit = lfm_np.als(
                csr(X, dtype), factors=k, iterations=1, solver="exact", init=(np.zeros((7, k), dtype), H), dtype=dtype,
                **rule.words,
            )  # fmt: skip
            exact = dtype == np.float64
            found[f"scores_{k}_{rule.weighting}"] = near(product(folded), S, 1e-9 if exact else 1e-3)
            allowed = 1e-9 * J if exact else 1e-5 * weight + 1e-6 * J
            found[f"J_{k}_{rule.weighting}"] = abs(fit.history[0]["objective_users"] - J) < allowed
    return wrong(**found)


def _on_torch() -> list[str]:
    found = {}
    for k in (64, 128):
        X, H = long_rows(k), many(k)
        for rule in MANY:
            J = alone(rule, X)[1]
            fit = lfm_np.torch_backend.als(
                csr(X), factors=k, iterations=1, solver="exact", init=(np.zeros((7, k)), H), dtype="float64",
                **rule.words,
            )  # fmt: skip
            here = lfm_np.objective(csr(X), fit, **rule.words)
            found[f"J_{k}_{rule.weighting}"] = abs(fit.history[0]["objective_users"] / J - 1) < 1e-9
            found[f"end_{k}_{rule.weighting}"] = abs(fit.history[0]["objective"] / here - 1) < 1e-9
            whole = rule.cost(X, fit.user_factors, fit.item_factors)
            found[f"cells_{k}_{rule.weighting}"] = abs(whole / here - 1) < 1e-9
    return wrong(**found)


def _estimators() -> list[str]:
    """Items that a step of 1e-12 leaves where they were: rows are solved by what the page says of each loss."""
    from lfm_np.sklearn import SGD

    X, found = wide_table(), {}
    rows = csr(X)
    count = (~np.isnan(X)).sum(1, keepdims=True)
    begun = {
        "factors": 8,
        "epochs": 1,
        "learning_rate": 1e-12,
        "init": (np.zeros((10, 8)), hadamard()),
        "dtype": "float64",
    }
    given = RULES[0]
    for name, words, of in (
        (
            "Squared",
            {"loss": losses.Squared(), "sampler": None, "regularization": {"user": 0.4, "item": 0.9}},
            lambda x, n: x / (1 + 0.4 * n / 8),
        ),
        ("BPR", {"loss": losses.BPR()}, lambda x, n: x / (1 + x + 0.1 * (n + 8) / 8)),
        ("softmax", {"loss": losses.SampledSoftmax(0.5)}, lambda x, n: x / (1 + x + 0.1 * (n + 8) / 8)),
        (
            "given",
            {"loss": losses.BPR(), "fold_in": given.words},
            lambda x, n: (1 + 0.5 * x) / (1 + 0.5 * x + 0.8 * (n + 0.25 * 8) / 8),
        ),
    ):
        model = SGD(random_state=0, **begun, **words).fit(rows)
        S = np.where(np.isnan(X), 0.0, of(np.nan_to_num(X), count))
        found[name] = near(model.inverse_transform(model.transform(rows)), S, 1e-8)
        found[f"{name}_beside"] = near(product(model.fold_in_users(rows)), S, 1e-8)
    return wrong(**found)


def _nothing_to_draw(side: str) -> list[str]:
    """Item 5 is nobody's, so that by popularity six users draw nothing: they count in μ, and with 0 in the mean.

    The seventh draws item 0, three times a step."""
    draw, M = np.random.default_rng(3), 3
    X = np.zeros((7, 6))
    X[:, :5] = draw.integers(2, 9, (7, 5)) / 2
    X[6, 0] = 0
    cells = int((X > 0).sum())
    mu = math.log(X.sum() / (M * cells))  # log(p / (1 - p)) of p = Σx / (Σx + M cells)
    start = Begun(7, 6, seed=9)
    for i in range(1, 5):
        s, t, x = start.score(6, i, True, True, mu), start.score(6, 0, True, True, mu), float(X[6, i])
        start.paid += x * softplus(-s) + M * softplus(t)
        start.add(6, i, -x * sigmoid(-s))
        start.add(6, 0, M * sigmoid(t))
    given = lfm_np.Factors(start.U, start.V, user_bias=start.b, item_bias=start.d)
    fit = sgd(side)(
        sp.csr_array(X), losses.Logistic(True), sampler=sampling.Popularity(1.0), negatives=M, factors=3, epochs=1,
        learning_rate=ETA, regularization=0.0, biases=True, init=given, dtype="float64", random_state=4,
    )  # fmt: skip
    kept = gram(start.U[:6], start.V[5:]) - gram(fit.user_factors[:6], fit.item_factors[5:])
    return wrong(
        skipped=fit.params["skipped_rows"] == 6,
        mean=abs(fit.global_bias - mu) < 1e-6,
        moved=start.agrees(fit, cells),
        kept=abs(kept).max() < 1e-13,
        users=near((start.b - fit.user_bias) / ETA, start.Db, NEAR) and near(fit.user_bias[:6], start.b[:6], 1e-13),
        items=near((start.d - fit.item_bias) / ETA, start.Dd, NEAR) and abs(fit.item_bias[5] - start.d[5]) < 1e-13,
    )


def _places() -> list[str]:
    """Everybody has item 4; of the others, each is as often among the best."""
    plots, found = lfm_np.plots, {}
    share = np.arange(6) / 5
    for N in (1, 3):
        ax = plots.popularity_bias(all_orders(), column(4), N=N)
        lines = {line.get_linestyle() == "--": line for line in ax.lines[::-1]}
        found[f"axis_{N}"] = all(near(line.get_xdata(), share, 1e-12) for line in lines.values())
        found[f"lists_{N}"] = near(lines[False].get_ydata(), [0, 0, 0.25, 0.5, 0.75, 1], 1e-12)
        found[f"chosen_{N}"] = near(lines[True].get_ydata(), [0, 1, 1, 1, 1, 1], 1e-12)
    everybody = plots.coverage(all_orders(), column(4), N=5).lines[0]
    alone = plots.coverage(all_orders(), column(4), N=5, users=[0]).lines[0]
    anything = plots.coverage(all_orders(), N=5, users=[0, 119]).lines[0]
    return wrong(
        **found,
        lengths=near(everybody.get_xdata(), [1, 2, 3, 4, 5], 1e-12),
        everybody=near(everybody.get_ydata(), [0.8] * 5, 1e-12),
        alone=near(alone.get_ydata(), [0.2, 0.4, 0.6, 0.8, 0.8], 1e-12),
        opposite=near(anything.get_ydata(), [0.4, 0.8, 1, 1, 1], 1e-12),
    )


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    for dtype in (np.float32, np.float64):
        yield _holds(
            f"64 to 256 items at right angles, {np.dtype(dtype).name}", lambda d=dtype: _sixty_four_and_more(d)
        )
    if installed("torch"):
        yield _holds("64 and 128 items at right angles, torch", _on_torch)
    for side in SIDES:
        yield _holds(f"six of seven draw nothing, {side}", lambda s=side: _nothing_to_draw(s))
    if installed("sklearn"):
        yield _holds("estimators beside items at right angles", _estimators)
    if installed("matplotlib"):
        yield _holds("places and shares of all orders", _places)
