"""Studies of losses and samplers where chance has no choice, of broken losses, and torch beside NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case
from .programs import BAD, RULE, Programs, listed, plain, swept
from .working_days import Model, all_scores, close, csr, folder, judged, raised, same, stars, start, tells, wrong

program = Programs("program study")
X = stars()
LOG2 = math.log(2.0)
ONE = sp.csr_array(np.array([[0.0, 3.0]]))  # one user, who has item 1; a negative can only be item 0


class Pair(NamedTuple):
    """What a step pays for a difference of scores, and how that changes."""

    value: Callable[[float], float]
    slope: Callable[[float], float]


def _bpr(times: float = 1.0) -> Pair:
    return Pair(lambda d: times * math.log1p(math.exp(-d)), lambda d: -times / (1 + math.exp(d)))


def _hinge(margin: float, times: float = 1.0) -> Pair:
    return Pair(lambda d: times * max(0.0, margin - d), lambda d: -times if d < margin else 0.0)


class Smooth:
    """A pairwise loss of one's own: the square of what is missing."""

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def value(self, difference):  # type: ignore[no-untyped-def]
        return max(0.0, self.margin - difference) ** 2

    def gradient(self, difference):  # type: ignore[no-untyped-def]
        return -2.0 * max(0.0, self.margin - difference)


PAIRS: dict[str, tuple[Any, dict[str, Any], Pair]] = {
    "BPR, uniform": (losses.BPR(), {}, _bpr()),
    "BPR, the hardest of five": (losses.BPR(), {"sampler": sampling.Hard(5)}, _bpr()),
    "BPR, three negatives": (losses.BPR(), {"negatives": 3}, _bpr(3.0)),
    "BPR, weighted by the plays": (losses.BPR(weighted=True), {}, _bpr(3.0)),
    "a hinge of margin two": (losses.MarginHinge(2.0), {}, _hinge(2.0)),
    "WARP": (losses.WARP(), {}, _hinge(1.0, LOG2)),
    "WARP of one trial, weighted": (losses.WARP(0.7, 1, weighted=True), {}, _hinge(0.7, 3 * LOG2)),
    "a softmax of three drawn, corrected": (losses.SampledSoftmax(), {"negatives": 3}, _bpr()),
    "a softmax of temperature a half": (
        losses.SampledSoftmax(temperature=0.5, correct_logq=False),
        {"negatives": 1},
        Pair(lambda d: math.log1p(math.exp(-2 * d)), lambda d: -2 / (1 + math.exp(2 * d))),
    ),
    "one's own": (Smooth(1.5), {}, Pair(lambda d: max(0.0, 1.5 - d) ** 2, lambda d: -2 * max(0.0, 1.5 - d))),
}
for _name in PAIRS:

    @program(f"one user, one negative there is, {_name}: every step by hand")
    def _no_choice(name: str = _name) -> list[str]:
        loss, words, pair = PAIRS[name]
        U, V = start(1, 2, 3, seed=3)
        u, v = U[0].copy(), V.copy()
        told = []
        for _ in range(6):
            d = float(u @ (v[1] - v[0]))
            g = pair.slope(d)
            told.append(pair.value(d))
            u, v = u - 0.2 * g * (v[1] - v[0]), v - 0.2 * g * np.array([-u, u])
        fit = lfm_np.sgd(
            ONE,
            loss,
            init=(U, V),
            factors=3,
            epochs=6,
            learning_rate=0.2,
            regularization=0.0,
            dtype="float64",
            random_state=4,
            **words,
        )
        return wrong(
            scores=close(all_scores(fit)[0], u @ v.T, 1e-10),
            told=close([r["sampled_loss"] for r in fit.history], told, 1e-10),
        )


@program("BPR with a bias of items and four kinds of regularization, by hand")
def _bpr_with_biases() -> list[str]:
    U, V = start(1, 2, 2, seed=5)
    u, v, b = U[0].copy(), V.copy(), np.zeros(2)
    lam = {"user": 0.3, "item": 0.2, "negative": 0.05, "bias": 0.5}
    for _ in range(5):
        d = float(u @ (v[1] - v[0]) + b[1] - b[0])
        g = -1 / (1 + math.exp(d))
        up = u - 0.1 * (g * (v[1] - v[0]) + lam["user"] * u)
        stored, drawn = v[1] - 0.1 * (g * u + lam["item"] * v[1]), v[0] - 0.1 * (-g * u + lam["negative"] * v[0])
        b = np.array([b[0] - 0.1 * (-g + lam["bias"] * b[0]), b[1] - 0.1 * (g + lam["bias"] * b[1])])
        u, v = up, np.array([drawn, stored])
    fit = lfm_np.sgd(
        ONE,
        losses.BPR(),
        init=(U, V),
        factors=2,
        epochs=5,
        learning_rate=0.1,
        regularization=lam,
        biases="item",
        dtype="float64",
        random_state=0,
    )
    return wrong(scores=close(all_scores(fit)[0], u @ v.T + b, 1e-10), bias=close(fit.item_bias, b, 1e-10))


@program("ratings with all biases where no two cells meet, by a loop")
def _ratings_with_all_biases() -> list[str]:
    x = np.array([1.0, 5.0, 3.5, 2.0])
    U, V = start(4, 4, 2, seed=8)
    mu, b, c = x.mean(), np.zeros(4), np.zeros(4)
    A, B = U.copy(), V.copy()
    for _ in range(3):
        for n in range(4):
            g = mu + b[n] + c[n] + A[n] @ B[n] - x[n]
            A[n], B[n] = A[n] - 0.2 * (g * B[n] + 0.1 * A[n]), B[n] - 0.2 * (g * A[n] + 0.1 * B[n])
            b[n], c[n] = b[n] - 0.2 * (g + 0.1 * b[n]), c[n] - 0.2 * (g + 0.1 * c[n])
    fit = lfm_np.sgd(
        sp.diags_array(x).tocoo(),
        losses.Squared(),
        sampler=None,
        init=(U, V),
        factors=2,
        epochs=3,
        learning_rate=0.2,
        regularization=0.1,
        biases=True,
        dtype="float64",
        random_state=0,
    )
    S = A @ B.T + b[:, None] + c + mu
    return wrong(scores=close(all_scores(fit), S, 1e-10), mu=abs(fit.global_bias - mu) < 1e-12)


@program("a user who has everything is skipped, counted, and leaves the others as by hand")
def _somebody_has_everything() -> list[str]:
    full = sp.csr_array(np.array([[1.0, 1.0], [0.0, 3.0]]))
    U, V = start(2, 2, 2, seed=2)
    fit = lfm_np.sgd(
        full, init=(U, V), factors=2, epochs=1, learning_rate=0.3, regularization=0.0, dtype="float64", random_state=1
    )
    d = float(U[1] @ (V[1] - V[0]))
    g = -1 / (1 + math.exp(d))
    A, B = U.copy(), V.copy()
    A[1], B = U[1] - 0.3 * g * (V[1] - V[0]), V - 0.3 * g * np.array([-U[1], U[1]])
    return wrong(scores=close(all_scores(fit), A @ B.T, 1e-10), skipped=fit.params["skipped_rows"] == 1)


def _own(**methods: Any) -> Any:
    return type("Own", (), methods)()


def _half(self: Any, difference: float) -> float:
    return 0.5 * difference * difference


BROKEN: dict[str, tuple[Any, str]] = {
    "the name of a loss": ("bpr", "loss"),
    "a class, not an instance": (losses.BPR, "loss"),
    "a function": (lambda s, x: (s - x) ** 2, "loss"),
    "without a gradient": (_own(value=_half), "gradient"),
    "a slope of the wrong sign": (
        _own(value=_half, gradient=lambda self, difference: -difference),
        "gradient|derivative|slope",
    ),
    "arguments with other names": (
        _own(value=lambda self, a, b: a, gradient=lambda self, a, b: b),
        "value|gradient|score",
    ),
    "a field of text": (
        _own(name="mine", value=lambda self, difference: self.name, gradient=lambda self, difference: difference),
        "name|number|compile|value",
    ),
    "a value that is not a number": (
        _own(value=lambda self, difference: math.inf, gradient=lambda self, difference: 0.0),
        "finite|value",
    ),
    "an import inside": (
        _own(value=lambda self, difference: __import__("os").getpid(), gradient=lambda self, difference: 1.0),
        "compile|value",
    ),
}
for _name, (_loss, _words) in BROKEN.items():

    @program(f"a broken loss, {_name}: check says so, and the next loss is as before")
    def _broken_loss(loss: Any = _loss, words: str = _words) -> list[str]:
        error = raised(lambda: losses.check(loss))
        losses.check(Smooth(0.3))
        good = lfm_np.sgd(csr(X), losses.BPR(), factors=2, epochs=1, random_state=0)
        return wrong(said=isinstance(error, BAD) and tells(error, words), next=plain(good, X))


@program("a loss that diverges names its epoch, and the factors of before serve")
def _diverged() -> list[str]:
    words: dict[str, Any] = {"sampler": None, "factors": 3, "random_state": 0, "biases": True, "learning_rate": 5.0}
    error = raised(lambda: lfm_np.sgd(csr(X), losses.Squared(), epochs=30, **words))
    before = getattr(error, "factors", None)
    calm = lfm_np.sgd(csr(X), losses.Squared(), epochs=2, **{**words, "learning_rate": 0.02})
    return wrong(
        said=isinstance(error, lfm_np.SolverError) and tells(error, "epoch", "learning_rate|learning rate"),
        finite=before is not None and bool(np.isfinite(before.user_factors).all()),
        next=listed(calm.recommend(range(30), N=2), all_scores(calm), np.ones((30, 20), bool), 2),
    )


@program("samplers by name, by class, with numbers of others; then a grid over those that are")
def _samplers() -> list[str]:
    odd: tuple[Any, ...] = (
        "uniform",
        sampling.Popularity,
        sampling.Hard(0),
        sampling.Hard(2.5),  # type: ignore[arg-type]
        sampling.Popularity(-0.5),
        sampling.Popularity(math.nan),
        0.75,
    )
    errors = [raised(lambda s=s: lfm_np.sgd(csr(X), sampler=s, factors=2, epochs=1)) for s in odd]
    none = raised(lambda: lfm_np.sgd(csr(X), losses.BPR(), sampler=None, factors=2, epochs=1))
    good = [sampling.Uniform(), sampling.Popularity(0.5), sampling.Hard(3)]
    test = stars(seed=5)
    fits = [lfm_np.sgd(csr(X), sampler=s, factors=2, epochs=2, random_state=0) for s in good]
    told = [lfm_np.evaluate(f, csr(X), csr(test), ["auc"])["auc"] for f in fits]
    mine = [judged(all_scores(f), ~np.isnan(X), ~np.isnan(test), 1)["auc"] for f in fits]
    return wrong(
        errors=all(isinstance(e, BAD) and tells(e, "sampler|candidates|beta") for e in errors),
        none=isinstance(none, BAD) and tells(none, "sampler"),
        auc=close(told, mine, 1e-6),
    )


@program("regularization by parts, with a part that is none, negative, or text; then with parts left out")
def _parts_of_regularization() -> list[str]:
    odd: tuple[Any, ...] = ({"users": 0.1}, {"user": -0.1}, {"item": "a"}, {"user": None}, [0.1], {1: 0.1})
    errors = [raised(lambda r=r: lfm_np.sgd(csr(X), regularization=r, factors=2, epochs=1)) for r in odd]
    words: dict[str, Any] = {"factors": 2, "epochs": 2, "random_state": 0}
    some = lfm_np.sgd(csr(X), regularization={"user": 0.1}, **words)
    whole = lfm_np.sgd(csr(X), regularization={"user": 0.1, "item": 0, "negative": 0, "bias": 0}, **words)
    return wrong(errors=all(isinstance(e, BAD) and tells(e, "regularization") for e in errors), same=same(some, whole))


@program("torch and NumPy from one start, every weighting beside normal equations", "torch")
def _torch_beside_numpy() -> list[str]:
    found = []
    for weighting in ("hu-koren", "ials", "confidence", "ratings"):
        rule = Model(weighting, alpha=2.0, a0=0.5, lam=0.3, nu=0.5)
        words: dict[str, Any] = {
            "factors": 3,
            "iterations": 3,
            "init": start(30, 20, 3),
            "dtype": "float64",
            **rule.words,
        }
        S = swept(X, start(30, 20, 3)[1], 3, rule)
        both = lfm_np.als(csr(X), **words), lfm_np.torch_backend.als(csr(X), device="cpu", **words)
        found += wrong(**{weighting: all(close(all_scores(f), S, 1e-8) for f in both)})
    return found


@program("a program of torch with defaults of its own, which are as they were", "torch")
def _torch_with_defaults() -> list[str]:
    import torch

    words: dict[str, Any] = {"factors": 3, "iterations": 2, "init": start(30, 20, 3), "dtype": "float64", **RULE.words}
    S, found = swept(X, start(30, 20, 3)[1], 2), []
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    state = torch.get_rng_state().clone()
    for name, mode in {
        "inference": torch.inference_mode,
        "gradients": torch.enable_grad,
        "none": torch.no_grad,
    }.items():
        with mode():
            fit = lfm_np.torch_backend.als(csr(X), device=torch.device("cpu"), **words)
        found += wrong(**{name: close(all_scores(fit), S, 1e-8)})
    torch.use_deterministic_algorithms(True)
    fit = lfm_np.torch_backend.als(csr(X, np.float32), **{**words, "dtype": "float32"})
    return found + wrong(
        single=fit.user_factors.dtype == np.float32 and close(all_scores(fit), S, 1e-4),
        defaults=torch.get_default_dtype() is torch.float64 and torch.are_deterministic_algorithms_enabled(),
        state=torch.equal(state, torch.get_rng_state()),
    )


@program("a checkpoint begun by NumPy and offered to torch, and devices that are not there", "torch")
def _torch_and_checkpoints() -> list[str]:
    words: dict[str, Any] = {"factors": 3, "random_state": 0, "regularization": 0.3}
    with folder() as place:
        lfm_np.als(csr(X), iterations=2, checkpoint=place / "c", **words)
        raw = (place / "c").read_bytes()
        try:
            on = lfm_np.torch_backend.als(csr(X), iterations=4, checkpoint=place / "c", **words)
        except ValueError as error:
            refused = tells(error, "checkpoint|c ") and (place / "c").read_bytes() == raw
        else:
            refused = close(all_scores(on), all_scores(lfm_np.als(csr(X), iterations=4, **words)), 1e-3)
        devices = [
            raised(lambda d=d: lfm_np.torch_backend.als(csr(X), device=d, **words)) for d in ("gpu", "cuda:7", 0.5)
        ]
        more = lfm_np.torch_backend.als(csr(X), iterations=4, **words)
    return wrong(
        refused=refused,
        devices=all(isinstance(e, (TypeError, ValueError, RuntimeError)) and tells(e, "device|cuda") for e in devices),
        then=close(all_scores(more), all_scores(lfm_np.als(csr(X), iterations=4, **words)), 1e-3),
    )


@program("sgd of torch where no two cells meet, beside a loop", "torch")
def _torch_sgd() -> list[str]:
    x = np.array([1.0, 4.0, 2.0])
    U, V = start(3, 3, 2, seed=8)
    A, B = U.copy(), V.copy()
    for _ in range(4):
        g = np.array([a @ b for a, b in zip(A, B, strict=True)])[:, None] - x[:, None]
        A, B = A - 0.1 * (g * B + 0.05 * A), B - 0.1 * (g * A + 0.05 * B)
    words: dict[str, Any] = {"sampler": None, "init": (U, V), "factors": 2, "epochs": 4, "learning_rate": 0.1}
    words |= {"regularization": 0.05, "dtype": "float64", "random_state": 0}
    X3 = sp.diags_array(x).tocsr()
    fits = [f(X3, losses.Squared(), **words) for f in (lfm_np.sgd, lfm_np.torch_backend.sgd)]
    return wrong(numpy=close(all_scores(fits[0]), A @ B.T, 1e-10), torch=close(all_scores(fits[1]), A @ B.T, 1e-10))


@program("factors of other programs: Fortran order, other bytes, single and half, lists")
def _factors_of_others() -> list[str]:
    U, V = np.random.default_rng(0).normal(size=(6, 3)), np.random.default_rng(1).normal(size=(5, 3))
    S, found = U @ V.T, []
    good = {
        "Fortran": (np.asfortranarray(U), np.asfortranarray(V)),
        "backwards": (U[::-1].copy()[::-1], V[:, ::-1].copy()[:, ::-1]),
        "read only": (np.frombuffer(U.tobytes()).reshape(U.shape), np.frombuffer(V.tobytes()).reshape(V.shape)),
    }
    for name, both in good.items():
        fit = lfm_np.Factors(*both)
        found += wrong(**{name: close(fit.scores(np.arange(5), np.arange(5)), np.diag(S), 1e-13)})
    for name, kind in {"other bytes": ">f8", "halves": "f2", "integers": "i8", "longer": "g"}.items():
        A, B = (U * 8).round().astype(kind), (V * 8).round().astype(kind)
        try:
            fit = lfm_np.Factors(A, B)
        except BAD as error:
            found += wrong(**{name: tells(error, "user_factors")})
        else:
            mine = A.astype(float) @ B.astype(float).T
            found += wrong(**{name: close(fit.scores(np.arange(5), np.arange(5)), np.diag(mine), 1e-3)})
    mixed = raised(lambda: lfm_np.Factors(U.astype("f4"), V))
    return found + wrong(mixed=isinstance(mixed, BAD) and tells(mixed, "item_factors|user_factors|dtype"))


def cases() -> list[Case]:
    return program.found
