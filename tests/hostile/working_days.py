"""The sums of a working day in float64, by loops over rows, and ways to break a file or to type a command."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import runpy
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .case import Case, Group

NAN = np.nan


def faultless(group: Group) -> Callable[[str, Any], Case]:
    """``group.right`` of calls that list what is wrong."""
    return lambda name, call: group.right(name, call, lambda found: found == [])


def stars(m: int = 30, n: int = 20, seed: int = 0, share: float = 0.3) -> np.ndarray:
    """Whole ratings of 1 to 5, NaN where there is none; every row and column has some."""
    draw = np.random.default_rng(seed)
    X = np.where(draw.random((m, n)) < share, draw.integers(1, 6, (m, n)), NAN)
    X[np.arange(m), np.arange(m) % n] = draw.integers(1, 6, m)
    X[np.arange(n) % m, np.arange(n)] = draw.integers(1, 6, n)
    return X


def csr(X: np.ndarray, dtype: Any = np.float64) -> sp.csr_array:
    rows, columns = np.nonzero(~np.isnan(X))
    return sp.csr_array((X[rows, columns].astype(dtype), (rows, columns)), shape=X.shape)


def dense(X: Any) -> np.ndarray:
    """NaN for what is not stored; nothing is stored twice."""
    coo = sp.coo_array(getattr(X, "matrix", X))
    full = np.full(coo.shape, NAN)
    full[coo.coords[0], coo.coords[1]] = coo.data
    return full


def start(m: int, n: int, k: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(0, 0.3, (m, k)), draw.normal(0, 0.3, (n, k))


def _cells(x: np.ndarray, weighting: str, alpha: float, a0: float) -> tuple[np.ndarray, np.ndarray]:
    one = np.ones(len(x))
    return {
        "hu-koren": lambda: (1 + alpha * x, one),
        "ials": lambda: (a0 + alpha * x, alpha * x / (a0 + alpha * x)),
        "confidence": lambda: (alpha * x, one),
        "ratings": lambda: (one, x),
    }[weighting]()


class Model(NamedTuple):
    weighting: str = "hu-koren"
    alpha: float = 1.0
    a0: float = 1.0
    lam: float = 0.1
    nu: float = 0.0

    @property
    def words(self) -> dict[str, Any]:
        words = {"weighting": self.weighting, "regularization": self.lam, "regularization_exponent": self.nu}
        return words if self.weighting == "ratings" else {**words, "alpha": self.alpha, "unobserved_weight": self.a0}

    def half(self, X: np.ndarray, V: np.ndarray) -> np.ndarray:
        """The rows of X solved from V."""
        a0 = 0.0 if self.weighting == "ratings" else self.a0
        found = []
        for x in X:
            has = ~np.isnan(x)
            c, p = _cells(x[has], self.weighting, self.alpha, a0)
            Y, Z = V[has], V[~has]
            penalty = self.lam * (has.sum() + a0 * len(x)) ** self.nu
            A = (Y.T * c) @ Y + a0 * (Z.T @ Z) + penalty * np.eye(V.shape[1])
            found.append(np.linalg.solve(A, Y.T @ (c * p)))
        return np.array(found)

    def sweeps(self, X: np.ndarray, V: np.ndarray, times: int) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(times):
            U = self.half(X, V)
            V = self.half(X.T, U)
        return U, V

    def objective(self, X: np.ndarray, U: np.ndarray, V: np.ndarray) -> float:
        a0 = 0.0 if self.weighting == "ratings" else self.a0
        total = 0.0
        for x, s in zip(X, U @ V.T, strict=True):
            has = ~np.isnan(x)
            c, p = _cells(x[has], self.weighting, self.alpha, a0)
            total += (c * (p - s[has]) ** 2).sum() + a0 * (s[~has] ** 2).sum()
        for side, F in ((X, U), (X.T, V)):
            for x, f in zip(side, F, strict=True):
                total += self.lam * ((~np.isnan(x)).sum() + a0 * len(x)) ** self.nu * (f @ f)
        return float(total)


def biased_half(X: np.ndarray, V: np.ndarray, b: np.ndarray, mu: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Factors and biases of the rows of X (ratings) from the other side's."""
    found = []
    for x in X:
        has = ~np.isnan(x)
        Y = np.column_stack([V[has], np.ones(has.sum())])
        found.append(np.linalg.solve(Y.T @ Y + lam * np.eye(Y.shape[1]), Y.T @ (x[has] - mu - b[has])))
    both = np.array(found)
    return both[:, :-1], both[:, -1]


def all_scores(factors: Any) -> np.ndarray:
    S = factors.user_factors.astype(np.float64) @ factors.item_factors.astype(np.float64).T
    for part in (factors.global_bias, factors.item_bias):
        S = S if part is None else S + part
    return S if factors.user_bias is None else S + factors.user_bias[:, None]


def best(scores: np.ndarray, allowed: np.ndarray, N: int) -> list[int]:
    """The N best allowed columns, the lower one first where equal, and -1 for the rest."""
    order = sorted(np.flatnonzero(allowed), key=lambda i: (-scores[i], i))[:N]
    return [int(i) for i in order] + [-1] * (N - len(order))


def judged(S: np.ndarray, train: np.ndarray, test: np.ndarray, k: int) -> dict[str, float]:
    """Means over users of the metrics of `evaluate`; ``train`` and ``test`` are masks."""
    of: dict[str, list[float]] = {}
    for s, a, b in zip(S, train, test, strict=True):
        relevant = b & ~a
        t = int(relevant.sum())
        if not t:
            continue
        order = best(s, ~a, int((~a).sum()))
        ranks = [r for r, i in enumerate(order, 1) if relevant[i]]
        top = [r for r in ranks if r <= k]
        ideal = sum(1 / np.log2(j + 1) for j in range(1, min(k, t) + 1))
        others = ~a & ~relevant
        values = {
            f"recall@{k}": len(top) / t,
            f"capped_recall@{k}": len(top) / min(k, t),
            f"precision@{k}": len(top) / k,
            f"hit_rate@{k}": float(bool(top)),
            f"ndcg@{k}": sum(1 / np.log2(r + 1) for r in top) / ideal,
            f"map@{k}": sum(j / r for j, r in enumerate(top, 1)) / min(k, t),
            f"mrr@{k}": 1 / ranks[0] if ranks[0] <= k else 0.0,
            "mrr": 1 / ranks[0],
        }
        if others.any():
            above = s[relevant][:, None] - s[others]
            values["auc"] = ((above > 0) + 0.5 * (above == 0)).mean()
        for name, value in values.items():
            of.setdefault(name, []).append(value)
    out = {name: float(np.mean(values)) for name, values in of.items()}
    out |= {f"{name}_se": float(np.std(v, ddof=1) / np.sqrt(len(v))) for name, v in of.items() if len(v) > 1}
    return out | {"users": len(of["mrr"])}


def close(a: Any, b: Any, relative: float = 1e-9) -> bool:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a.shape == b.shape and bool(abs(a - b).max(initial=0) <= relative * max(1e-300, abs(b).max(initial=0)))


def same(a: Any, b: Any) -> bool:
    """The same factors, bit for bit."""
    return all(
        x is y is None or np.array_equal(x, y)
        for x, y in (
            (a.user_factors, b.user_factors),
            (a.item_factors, b.item_factors),
            (a.user_bias, b.user_bias),
            (a.item_bias, b.item_bias),
            (a.global_bias, b.global_bias),
        )
    )


def wrong(**facts: Any) -> list[str]:
    """What does not hold."""
    return [name for name, true in facts.items() if not true]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


def raised(call: Callable[[], Any]) -> BaseException:
    try:
        result = call()
    except BaseException as error:
        return error
    raise AssertionError(f"nothing was raised, but {result!r:.100} returned")


def tells(error: BaseException, *words: str) -> bool:
    text = str(error).lower()
    return all(any(word in text for word in either.lower().split("|")) for either in words)


def resealed(path: Path, change: Callable[[dict[str, Any], dict[str, Any], bytearray], None]) -> None:
    """Change header, JSON and body of a safetensors file, and make its checksum right again."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :])
    model = json.loads(header["__metadata__"]["model"])
    change(header, model, body)
    header["__metadata__"]["model"] = json.dumps(model)
    seal(path, header, bytes(body))


def seal(path: Path, header: dict[str, Any], body: bytes) -> None:
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    blank = len(text).to_bytes(8, "little") + text + body
    path.write_bytes(blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1))


class Said(NamedTuple):
    status: int
    out: str
    err: str


def typed(where: Path, *words: Any) -> Said:
    """What ``python -m lfm_np WORDS`` does in a folder, in a fork of this process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
        if not child:
            status = 70
            try:
                os.chdir(where)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))  # noqa: SIM115
                sys.argv = ["lfm-np", *map(str, words)]
                np.seterr(all="warn")
                runpy.run_module("lfm_np", run_name="__main__", alter_sys=True)
                status = 0
            except SystemExit as leave:
                status = leave.code if isinstance(leave.code, int) else (0 if leave.code is None else 1)
            except BaseException as error:
                print(f"escaped: {error!r}", file=sys.stderr)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        return Said(status, *texts)
