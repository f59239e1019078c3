"""Small things of a working day: odd callbacks, extreme knobs of sgd, arrays of odd kinds, empty requests."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling

from .case import Case, Group
from .working_days import (
    NAN,
    Model,
    all_scores,
    best,
    close,
    csr,
    faultless,
    folder,
    raised,
    same,
    stars,
    start,
    tells,
    wrong,
)

_GROUP = Group("small things of a day")
_day = faultless(_GROUP)
BAD = (TypeError, ValueError, lfm_np.SolverError)


def _X() -> Any:
    return csr(stars(), np.float32)


def _als(**words: Any) -> Any:
    return lfm_np.als(_X(), **{"factors": 4, "iterations": 4, "random_state": 3, "regularization": 0.5, **words})


CHANGES: dict[str, Any] = {
    "rounds it to thousands": lambda record, key: record.update({key: round(record[key] / 1e3, 1)}),
    "writes it as text": lambda record, key: record.update({key: f"{record[key]:.1f}"}),
    "counts sweeps from zero": lambda record, key: record.update({"iteration": record["iteration"] - 1}),
    "empties the record": lambda record, key: record.clear(),
}


def _fit(kind: str, n: int, **words: Any) -> Any:
    if kind == "als":
        return _als(iterations=n, **words)
    return lfm_np.sgd(_X(), losses.BPR(), epochs=n, **{"factors": 4, "random_state": 3, "regularization": 0.5, **words})


def _record_changed(kind: str, name: str, kept: bool) -> list[str]:
    """What a callback writes over the record decides neither when a run ends nor whether it can be gone on with.

    Or it is an error of the first sweep, which says so.
    """
    key = {"als": "objective", "sgd": "sampled_loss"}[kind]

    def change(record: dict[str, Any], factors: Any) -> None:
        CHANGES[name](record, key)

    with folder() as place:
        keep = {"checkpoint": place / "c"} if kept else {"tolerance": 1e-3}
        try:
            fit = _fit(kind, 3 if kept else 40, callback=change, **keep)
        except (TypeError, ValueError) as error:
            return wrong(told=tells(error, "record|callback|history", f"{key}|iteration")) and [repr(error)]
        try:
            fit = _fit(kind, 5, **keep) if kept else fit
        except ValueError as error:
            return ["its own checkpoint refused", str(error)]
    return wrong(bits=same(fit, _fit(kind, 5) if kept else _fit(kind, 40, **keep)))


def _callbacks_of_every_kind() -> list[str]:
    class Counter:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def __call__(self, record: dict[str, Any], factors: Any) -> int:
            self.seen.append(record["iteration"])
            return 7

        def method(self, record: dict[str, Any], factors: Any, *, extra: int = 0) -> None:
            self.seen.append(record["iteration"] + extra)

    counter = Counter()
    fits = [
        _als(callback=counter),
        _als(callback=counter.method),
        _als(callback=functools.partial(counter.method, extra=10)),
        _als(callback=lambda *both: counter.seen.append(len(both))),
    ]
    return wrong(
        seen=counter.seen == [1, 2, 3, 4, 1, 2, 3, 4, 11, 12, 13, 14, 2, 2, 2, 2],
        bits=all(same(fit, _als()) for fit in fits),
    )


def _left_in_a_callback() -> list[str]:
    error = raised(lambda: _als(callback=lambda r, f: sys.exit(3)))
    with folder() as place:

        def stop(record: dict[str, Any], factors: Any) -> None:
            raise StopIteration("enough")

        first = _als(callback=stop, checkpoint=place / "c")
        on = _als(checkpoint=place / "c")
    return wrong(
        code=type(error) is SystemExit and error.code == 3,
        stopped=first.status is lfm_np.Status.STOPPED and len(first.history) == 1,
        on=same(on, _als()),
    )


def _kept_of_a_callback() -> list[str]:
    """Factors that were looked at within the callback stay those of their sweep."""
    kept: list[Any] = []

    def keep(record: dict[str, Any], factors: Any) -> None:
        factors.item_factors  # noqa: B018
        kept.append(factors)

    _als(callback=keep)
    return [f"sweep {n}" for n, f in enumerate(kept, 1) if not same(f, _als(iterations=n))]


def _popularity(beta: float) -> Any:
    return lfm_np.sgd(_X(), losses.BPR(), sampler=sampling.Popularity(beta), factors=3, epochs=2, random_state=0)


def _finite(fit: Any) -> bool:
    return bool(np.isfinite(all_scores(fit)).all() and np.isfinite([r["sampled_loss"] for r in fit.history]).all())


def _extreme(loss: Any = None, **words: Any) -> Any:
    loss = losses.BPR() if loss is None else loss
    return lfm_np.sgd(_X(), loss, **{"factors": 3, "epochs": 2, "random_state": 0, **words})


def _arrays_of_odd_kinds() -> list[str]:
    X, rule = stars(), Model("hu-koren", alpha=2.0, lam=0.3)
    U, V = start(30, 20, 3)
    base = csr(X, np.float32)
    words: dict[str, Any] = {"factors": 3, "iterations": 2, "init": (U, V), "dtype": np.dtype("f8"), **rule.words}
    big = sp.csr_array((base.data.astype(">f4"), base.indices, base.indptr), shape=base.shape)
    wide = sp.csr_array((base.data, base.indices.astype(np.int64), base.indptr.astype(np.int64)), shape=base.shape)
    strided = sp.csr_array(
        (np.repeat(base.data, 2)[::2], np.repeat(base.indices, 2)[::2], base.indptr), shape=base.shape
    )
    mine = rule.sweeps(X, V, 2)
    found = []
    with folder() as place:
        np.save(place / "d.npy", base.data)
        mapped = np.load(place / "d.npy", mmap_mode="r")
        kinds = {
            "big-endian": big,
            "int64": wide,
            "strided": strided,
            "mapped": sp.csr_array((mapped, base.indices, base.indptr), shape=base.shape),
            "matrix": sp.csr_matrix(base),
            "BSR": base.tobsr((2, 2)),
            "DOK": base.todok(),
            "integers": base.astype(np.uint64),
        }
        for name, other in kinds.items():
            fit = lfm_np.als(other, **words)
            found += wrong(**{name: close(all_scores(fit), mine[0] @ mine[1].T, 1e-8)})
        del mapped, kinds, other
    return found


def _nothing_asked() -> list[str]:
    fit = _als()
    none = fit.recommend([], N=5)
    long = fit.recommend(np.uint8(3), N=50, seen=_X())
    S, seen = all_scores(fit)[3], ~np.isnan(stars()[3])
    only = fit.recommend([3, 3], N=3, items=[], seen=None)
    return wrong(
        none=none.ids.shape == (0, 5) and none.scores.shape == (0, 5) and none.ids.dtype == np.int64,
        long=long.ids.tolist() == best(S, ~seen, 50) and bool(np.isneginf(long.scores[(~seen).sum() :]).all()),
        only=only.ids.tolist() == [[-1] * 3] * 2,
        folded=fit.fold_in_users(sp.csr_array((2, 20), dtype=np.float32)).user_factors.tolist() == [[0.0] * 4] * 2,
        scores=fit.scores([], []).shape == (0,) and fit.scores(3, 4).shape == (),
    )


def _nobody_explained() -> list[str]:
    X = stars()
    X[6] = NAN
    fit = lfm_np.als(csr(X, np.float32), factors=3, random_state=0)
    why = fit.explain(6, 2, csr(X, np.float32))
    return wrong(score=why.score == 0 and why.baseline == 0, items=len(why.items) == len(why.contributions) == 0)


def _one_by_one() -> list[str]:
    X = np.array([[3.0]])
    rule, (U, V) = Model("ials", alpha=2.0, a0=0.5, lam=0.1), (np.array([[0.4]]), np.array([[0.7]]))
    fit = lfm_np.als(csr(X), factors=1, iterations=3, init=(U, V), dtype="float64", **rule.words)
    mine = rule.sweeps(X, V, 3)
    wide = lfm_np.als(
        csr(X), factors=7, iterations=50, dtype="float64", weighting="ratings", regularization=1e-6, random_state=0
    )
    return wrong(
        one=close(all_scores(fit), mine[0] @ mine[1].T, 1e-10),
        wide=close(wide.scores(0, 0), 3.0, 1e-4),
        lists=fit.recommend([0], N=2).ids.tolist() == [[0, -1]],
    )


def _nothing_at_all() -> Any:
    return lfm_np.als(sp.csr_array((4, 3), dtype=np.float32), factors=2, random_state=0)


def _checkpoint_words() -> list[str]:
    with folder() as place:
        errors = {
            "negative": raised(lambda: _als(checkpoint=lfm_np.Checkpoint(place / "c", every=-1))),
            "NaN": raised(lambda: _als(checkpoint=lfm_np.Checkpoint(place / "c", every=NAN))),
            "number": raised(lambda: _als(checkpoint=5)),
        }
        made = [path.name for path in place.iterdir()]
        fit = _als(checkpoint=lfm_np.Checkpoint(str(place / "c"), every=1e9))
        last = _als(iterations=5, checkpoint=place / "c")
    facts = {name: isinstance(e, BAD) and tells(e, "every|checkpoint") for name, e in errors.items()}
    return wrong(nothing_made=made == [], late=same(fit, _als()), last=same(last, _als(iterations=5)), **facts)


def cases() -> list[Case]:
    return list(_cases())


def _cases() -> Iterator[Case]:
    either = _GROUP.either
    for kind in ("als", "sgd"):
        for name in CHANGES:
            for kept in (False, True):
                yield _day(
                    f"{kind}, a callback {name}, {'checkpoint' if kept else 'tolerance'}",
                    lambda k=kind, n=name, c=kept: _record_changed(k, n, c),
                )
    yield _day("callbacks of every kind", _callbacks_of_every_kind)
    yield _day("left in a callback", _left_in_a_callback)
    yield _day("factors kept from callbacks", _kept_of_a_callback)
    for beta in (0.0, 50.0, 500.0, 1e300):
        yield either(f"popularity to the power {beta}", lambda b=beta: _popularity(b), _finite, "beta", kind=BAD)
    for name, loss, words in (
        ("a temperature of 1e-30", losses.SampledSoftmax(temperature=1e-30), {"negatives": 4}),
        ("a temperature of 1e30", losses.SampledSoftmax(temperature=1e30), {"negatives": 4}),
        ("a margin of 1e30", losses.MarginHinge(margin=1e30), {}),
        ("a margin of -1", losses.WARP(margin=-1.0), {}),
        ("a regularization of 1e30", None, {"regularization": 1e30}),
        ("a rate of 1e-300", None, {"learning_rate": 1e-300}),
        ("a thousand candidates", None, {"sampler": sampling.Hard(1000)}),
        ("more negatives than items", losses.Logistic(), {"negatives": 100}),
        ("cosines that cannot be that close", losses.CosineContrastive(margin=5.0), {"negatives": 3}),
        ("factors in plenty", None, {"factors": 500}),
    ):
        yield either(
            name,
            lambda o=loss, w=words: _extreme(o, **w),
            _finite,
            "epoch|temperature|margin|regularization|learning_rate|candidates|negatives|factors",
            kind=BAD,
        )
    yield _day("arrays of odd kinds", _arrays_of_odd_kinds)
    yield _day("nothing asked, and more than there is", _nothing_asked)
    yield _day("somebody without cells explained", _nobody_explained)
    yield _day("one user and one item", _one_by_one)
    yield either(
        "a matrix without cells", _nothing_at_all, lambda fit: not all_scores(fit).any(), "x|cell|empty", kind=BAD
    )
    yield _day("words of a checkpoint", _checkpoint_words)
