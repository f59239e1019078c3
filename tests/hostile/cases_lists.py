"""Odd ways to ask for lists, and odd results, copied, saved, folded in and explained."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np

from .case import Case, Either, Group, Holds, raises
from .cases_odd_arguments import EqualsAll, Liar, Seven
from .cases_odd_matrices import BAD, Loud, als, misaligned
from .matrices import M, N, plain


def model(dtype: Any = np.float32) -> lfm_np.Factors:
    rng = np.random.default_rng(3)
    return lfm_np.Factors(rng.standard_normal((M, 4)).astype(dtype), rng.standard_normal((N, 4)).astype(dtype))


def brute(f: Any, users: Any, n: int, leave: Any = ()) -> np.ndarray:
    """Lists by sorting all scores."""
    scores = f.scores(np.repeat(users, N), np.tile(np.arange(N), len(users))).reshape(len(users), N).copy()
    scores[:, list(leave)] = -np.inf
    order = np.lexsort((np.broadcast_to(np.arange(N), scores.shape), -scores))[:, :n]
    return np.where(np.isinf(np.take_along_axis(scores, order, 1)), -1, order)


_refused, _right = Group("lists").refused, Group("lists").right


# ---- lists ----------------------------------------------------------------------------------------------------------

USERS: dict[str, Any] = {  # odd ways to ask for users 3, 1 and 3
    "list of NumPy numbers": [np.int8(3), np.uint64(1), np.int32(3)],
    "list of indexes": [Liar(3), Liar(1), Liar(3)],
    "big-endian": np.array([3, 1, 3], ">i8"),
    "uint64": np.array([3, 1, 3], np.uint64),
    "negative stride": np.array([3, 1, 3])[::-1],
    "misaligned": misaligned(np.array([3, 1, 3])),
    "loud subclass": np.array([3, 1, 3]).view(Loud),
    "range": range(1, 6, 2),
    "tuple": (3, 1, 3),
    "read-only": np.frombuffer(np.array([3, 1, 3]).tobytes(), np.int64),
    "memoryview": memoryview(np.array([3, 1, 3])),
}
ODD_USERS: dict[str, Any] = {
    "generator": (u for u in [1, 2]),
    "set": {1, 2},
    "dict": {1: 2},
    "dict keys": {1: 2}.keys(),
    "map": map(int, "12"),
    "string": "12",
    "bytes": b"12",
    "bool array": np.ones(M, bool),
    "bool": True,
    "0-d bool": np.array(True),
    "float": np.array([1.0, 2.0]),
    "nan": [np.nan],
    "complex": np.array([1j]),
    "datetime": np.array([1], "M8[D]"),
    "timedelta": np.array([1], "m8[D]"),
    "structured": np.array([(1,)], [("u", int)]),
    "two-dimensional": [[1, 2]],
    "ragged": [[1], [2, 3]],
    "masked": np.ma.masked_array([1, 2], [0, 1]),
    "matrix": np.array([[1, 2]]).view(np.matrix),
    "sparse": sp.csr_array(np.array([[1, 2]])),
    "huge": [2**63],
    "huge of both signs": [np.int8(-1), np.uint64(2**63)],
    "beyond 64 bits": [2**70],
    "negative huge": [-(2**63)],
    "number M": [M],
    "None": None,
    "list with None": [1, None],
    "ellipsis": ...,
    "slice": slice(3),
    "class": int,
    "equal to all": EqualsAll(),
    "object": np.array([3, 1, 3], object),
    "string array": np.array(["1"]),
}


def lists() -> Iterator[Case]:
    f = model()
    for name, users in USERS.items():
        wanted = [1, 3, 5] if name == "range" else [3, 1, 3]
        yield _right(
            f"recommend, users {name}",
            lambda u=users: f.recommend(u, N=4),
            lambda r, w=wanted: (r[0] == brute(f, w, 4)).all(),
        )
        yield _right(
            f"scores, users {name}",
            lambda u=users: f.scores(u, [0, 1, 2]),
            lambda s, w=wanted: (s == f.scores(w, [0, 1, 2])).all(),
        )
    for name, users in ODD_USERS.items():
        yield _refused(f"recommend, users {name}", lambda u=users: f.recommend(u), "users")
        yield _refused(f"scores, items {name}", lambda u=users: f.scores([1, 2], u), "items")
        if name not in ("None", "bool array"):  # all items; a mask
            yield _refused(f"recommend, items {name}", lambda u=users: f.recommend([1], items=u), "items")
            yield _refused(f"recommend, exclude {name}", lambda u=users: f.recommend([1], exclude=u), "exclude")
        yield _refused(f"similar_items, items {name}", lambda u=users: f.similar_items(u), "items")
    for name, n in {
        "0": 0,
        "-1": -1,
        "True": True,
        "2.0": 2.0,
        "array": np.array([3]),
        "text": "3",
        "none": None,
        "index": Seven(),
    }.items():
        yield _refused(f"recommend, N {name}", lambda n=n: f.recommend([1], N=n), "N must")
        yield _refused(f"similar_users, N {name}", lambda n=n: f.similar_users([1], N=n), "N must")
    yield Case("lists: recommend, N 2^62", lambda: f.recommend([1], N=2**62), raises(ValueError, "N must"))
    for name, n in {"liar": Liar(3), "np.uint8": np.uint8(3)}.items():
        yield _right(
            f"recommend, N {name}",
            lambda n=n: f.recommend([1], N=n)[0],
            lambda r, n=n: (r == brute(f, [1], int(n))).all(),
        )
    yield _right("recommend, N == n", lambda: f.recommend([1, 2], N=N)[0], lambda r: (r == brute(f, [1, 2], N)).all())
    yield _right(
        "recommend, N > n",
        lambda: f.recommend([1], N=N + 5)[0],
        lambda r: (r[:, N:] == -1).all() and (r[:, :N] == brute(f, [1], N)).all(),
    )
    yield _right(
        "recommend, an empty float array", lambda: f.recommend(np.array([]), N=3)[0], lambda r: r.shape == (0, 3)
    )
    yield _right("recommend, nobody", lambda: f.recommend([], N=3)[0], lambda r: r.shape == (0, 3))
    yield _right(
        "recommend, exclude repeated",
        lambda: f.recommend([1], N=5, exclude=[2, 2, 2])[0],
        lambda r: (r == brute(f, [1], 5, [2])).all(),
    )
    yield _right(
        "recommend, exclude all", lambda: f.recommend([1], N=5, exclude=range(N))[0], lambda r: (r == -1).all()
    )
    yield _right("recommend, items empty", lambda: f.recommend([1], N=5, items=[])[0], lambda r: (r == -1).all())
    yield _right(
        "recommend, items repeated",
        lambda: f.recommend([1], N=5, items=[4, 4, 2, 2])[0],
        lambda r: sorted(r[0]) == [-1, -1, -1, 2, 4],
    )
    for name, seen in {
        "transposed": plain().T,
        "dense": plain().toarray(),
        "rows": plain()[:3],
        "True": True,
        "dict": {1: [2]},
    }.items():
        yield _refused(f"recommend, seen {name}", lambda s=seen: f.recommend([1], seen=s), "seen")
    nan_seen = plain()
    nan_seen.data[0] = np.nan
    yield Case(
        "lists: recommend, seen with nan",
        lambda: f.recommend([0], seen=nan_seen),
        Either(Holds(lambda r: 0 not in r[0]), raises(BAD, "seen")),
    )
    zeros = plain()
    zeros.data[:] = 0
    yield _right("recommend, seen of zeros", lambda: f.recommend([0], N=N, seen=zeros))


# ---- results --------------------------------------------------------------------------------------------------------


def results() -> Iterator[Case]:
    U, V = np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)
    make = lfm_np.Factors
    for name, odd in {
        "masked": np.ma.masked_array(U, U > 0),
        "complex": U.astype(complex),
        "integers": U.astype(int),
        "long double": U.astype(np.longdouble),
        "list": U.tolist(),
        "flat": U[0],
        "nan": U * np.nan,
        "infinite": U * np.inf,
        "other k": np.ones((3, 5), np.float32),
        "other dtype": U.astype(np.float64),
        "no factors": np.ones((3, 0), np.float32),
        "none": None,
        "object": U.astype(object),
        "sparse": sp.csr_array(U),
        "text": "U",
    }.items():
        yield _refused(f"Factors, users {name}", lambda o=odd: make(o, V), "user_factors|item_factors")
    for name, words in {
        "bias too long": {"user_bias": np.ones(5, np.float32)},
        "bias nan": {"item_bias": np.full(4, np.nan, np.float32)},
        "bias a number": {"user_bias": 1.0},
        "global nan": {"global_bias": np.nan},
        "global text": {"global_bias": "1"},
        "history text": {"history": "abc"},
        "history number": {"history": 3},
        "history of numbers": {"history": [1, 2]},
        "status odd": {"status": "finished"},
        "status number": {"status": 1},
        "params list": {"params": [1]},
    }.items():
        yield _refused(f"Factors, {name}", lambda w=words: make(U, V, **w), next(iter(words)))
    yield _right("Factors, big-endian", lambda: make(U.astype(">f4"), V).scores([0], [0]), lambda s: s == 2)
    yield _right("Factors, negative strides", lambda: make(U[::-1], V[:, ::-1]).scores([0], [0]), lambda s: s == 2)
    yield _right("Factors, subclass", lambda: make(U.view(Loud), V).scores([0], [0]), lambda s: s == 2)
    yield _right("Factors, nobody", lambda: make(U[:0], V[:0]).recommend([], N=2)[0], lambda r: r.shape == (0, 2))
    for name, change in {
        "pickled": lambda f: pickle.loads(pickle.dumps(f)),
        "copied": copy.copy,
        "copied deep": copy.deepcopy,
        "saved": lambda f: _saved(f),
    }.items():
        yield _right(
            f"Factors, {name}",
            lambda c=change: c(als(plain())),
            lambda f: (
                (f.scores([1], [2]) == als(plain()).scores([1], [2])).all() and not f.user_factors.flags.writeable
            ),
        )
    f = als(plain())
    for name, call, word in (
        ("explain, user out of range", lambda: f.explain(M, 0, plain()), "user"),
        ("explain, users", lambda: f.explain([1], 0, plain()), "user"),
        ("explain, item True", lambda: f.explain(1, True, plain()), "item"),
        ("explain, item nan", lambda: f.explain(1, np.nan, plain()), "item"),
        ("explain, X transposed", lambda: f.explain(1, 1, plain().T), "X"),
        ("explain, X none", lambda: f.explain(1, 1, None), "X"),
        ("fold in, other width", lambda: f.fold_in_users(sp.csr_array((2, N + 1))), "X"),
        ("fold in, dense", lambda: f.fold_in_users(np.ones((2, N))), "X"),
        ("fold in, nan", lambda: f.fold_in_users(sp.csr_array(np.full((1, N), np.nan))), "X"),
        ("fold in, infinite lambda", lambda: f.fold_in_users(plain(), regularization=np.inf), "regularization"),
        ("fold in items, other height", lambda: f.fold_in_items(sp.csr_array((M + 1, 2))), "X"),
        ("update, users repeated", lambda: f.update(plain(), users=[1, 1.5]), "users"),
        ("update, users generator", lambda: f.update(plain(), users=(u for u in [1])), "users"),
        ("save to a number", lambda: f.save(3), "path"),
        ("save to NUL", lambda: f.save("a\0b"), "path"),
        ("save to nothing", lambda: f.save(""), "path"),
        ("load bytes of NUL", lambda: lfm_np.Factors.load(b"a\0"), "path"),
        ("load none", lambda: lfm_np.Factors.load(None), "path"),
        ("load mmap text", lambda: lfm_np.Factors.load("x", mmap="r"), "mmap"),
    ):
        yield _refused(name, call, word)
    yield _right("fold in nobody", lambda: f.fold_in_users(sp.csr_array((0, N))), lambda g: g.shape == (0, N))
    yield _right(
        "fold in all-zero rows", lambda: f.fold_in_users(sp.csr_array((3, N))), lambda g: not g.user_factors.any()
    )


def _saved(f: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        f.save(Path(folder) / "model ü\n.safetensors")
        return lfm_np.Factors.load(Path(folder) / "model ü\n.safetensors")


def cases() -> list[Case]:
    return [*lists(), *results()]
