"""Checkpoints that are gone on with: other matrices and arguments, edited files, no room, two at once, interrupts."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import lfm_np
from lfm_np import Checkpoint, Factors, Status, losses, sampling

from .case import Case, Either, Group, Holds, raises
from .places import holding, inside, largest_file, model, parts, same, sealed, table, together

_refused, _right = Group("gone on").refused, holding(Group("gone on"))


def als(path: Any = None, X: Any = None, iterations: int = 6, **words: Any) -> Factors:
    words = {"factors": 4, "random_state": 0, "num_threads": 1, **words}
    return lfm_np.als(table() if X is None else X, iterations=iterations, checkpoint=path, **words)


def sgd(path: Any = None, X: Any = None, epochs: int = 6, loss: Any = None, **words: Any) -> Factors:
    words = {"factors": 4, "random_state": 0, "num_threads": 1, **words}
    return lfm_np.sgd(table() if X is None else X, loss or losses.BPR(), epochs=epochs, checkpoint=path, **words)


def after(fit: Callable[..., Factors], first: dict[str, Any], second: dict[str, Any]) -> Callable[[], Factors]:
    """A fit of two sweeps, and one that goes on from its file."""

    def work(folder: Path) -> Factors:
        sweeps = "iterations" if fit is als else "epochs"
        fit(folder / "run", **{sweeps: 2, **first})
        return fit(folder / "run", **second)

    return inside(work)


def to_the_bit() -> Iterator[Case]:
    rated = {"weighting": "ratings", "biases": True, "dtype": np.float64, "regularization": 0.3}
    kinds: dict[str, tuple[Callable[..., Factors], dict[str, Any], dict[str, Any]]] = {
        "ratings with biases, more threads": (als, rated, {"num_threads": 3}),
        "ials and subspace": (als, {"weighting": "ials", "unobserved_weight": 0.1, "solver": "subspace"}, {}),
        "more threads and a tolerance": (als, {}, {"num_threads": 2, "tolerance": 1e-12}),
        "adagrad, other threads": (sgd, {"schedule": "adagrad", "biases": True}, {"num_threads": 4}),
        "inverse, popular negatives": (sgd, {"schedule": "inverse", "sampler": sampling.Popularity()}, {}),
    }
    for name, (fit, words, changes) in kinds.items():
        yield _right(name, after(fit, words, {**words, **changes}), lambda f, fit=fit, w=words: same(f, fit(**w)))
    for name, change in {
        "CSC": sp.csc_array,
        "COO": lambda X: X.tocoo(),
        "64-bit indices": lambda X: sp.csr_array(
            (X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64)), X.shape
        ),
        "float64": lambda X: X.astype(np.float64),
        "int8": lambda X: X.astype(np.int8),
    }.items():
        yield _right(f"the same X as {name}", after(als, {}, {"X": change(table())}), lambda f: same(f, als()))

    def stored(folder: Path) -> bool:
        als(folder / "run", iterations=2)
        X = lfm_np.StoredMatrix.from_matrix(table(), folder / "X")
        return same(als(folder / "run", X), als())

    yield _right("from a fit in memory on the disk", inside(stored))
    yield _right(
        "a Generator of the same seed",
        after(als, {"random_state": np.random.default_rng(1)}, {"random_state": np.random.default_rng(1)}),
        lambda f: same(f, als(random_state=np.random.default_rng(1))),
    )
    yield _right(
        "no seed, twice", after(als, {"random_state": None}, {"random_state": None}), lambda f: len(f.history) == 6
    )
    yield _right("with nothing left to do", after(als, {}, {"iterations": 2}), lambda f: same(f, als(iterations=2)))
    yield Case(
        "gone on: with less to do than was done",
        after(als, {"iterations": 4}, {"iterations": 2}),
        Either(
            Holds(lambda f: any(same(f, als(iterations=n)) and len(f.history) == n for n in (2, 4))),
            raises(ValueError, "iterations"),
        ),
    )


def others() -> Iterator[Case]:
    moved = table()
    moved.indices[0] = next(j for j in range(25) if j not in moved.indices[: moved.indptr[1]])
    matrices = {
        "with a cell moved": moved,
        "with a value changed": sp.csr_array(table() + sp.csr_array(([1.0], ([0], [table().indices[0]])), (60, 25))),
        "with an empty row more": sp.csr_array(sp.vstack([table(), sp.csr_array((1, 25), dtype=np.float32)])),
        "with an empty column more": sp.csr_array((table().data, table().indices, table().indptr), (60, 26)),
        "transposed": sp.csr_array(table().T),
        "with two rows exchanged": sp.csr_array(table()[[1, 0, *range(2, 60)]]),
    }
    for name, X in matrices.items():
        yield _refused(f"X {name}", after(als, {}, {"X": X}), "x", "checkpoint|run", kind=ValueError)
    changes: dict[str, tuple[Any, Any, str]] = {
        "alpha": (1.0, 1.0000001, "alpha"),
        "regularization": (0.0, 5e-324, "regularization"),
        "random_state": (0, 1, "random_state|seed|start"),
        "dtype": (np.float32, np.float64, "dtype"),
        "factors": (4, 5, "factors"),
        "unobserved_weight": (None, 0.999, "unobserved_weight"),
        "weighting": ("hu-koren", "confidence", "weighting"),
        "regularization_exponent": (0.0, 1.0, "regularization_exponent"),
    }
    for name, (one, other, word) in changes.items():
        yield _refused(f"als, another {name}", after(als, {name: one}, {name: other}), word, kind=ValueError)
    starts = [(np.full((60, 4), value), np.ones((25, 4))) for value in (0.1, 0.2)]
    yield _refused(
        "als, another init", after(als, {"init": starts[0]}, {"init": starts[1]}), "init|start", kind=ValueError
    )
    for name, one, other in (
        ("loss", losses.BPR(weighted=False), losses.BPR(weighted=True)),
        ("sampler", sampling.Uniform(), sampling.Popularity()),
        ("learning_rate", 0.05, 0.1),
        ("schedule", "constant", "inverse"),
        ("regularization", {"user": 0.1}, {"item": 0.1}),
        ("negatives", 1, 2),
    ):
        yield _refused(f"sgd, another {name}", after(sgd, {name: one}, {name: other}), name, kind=ValueError)
    yield _refused(
        "of als, by sgd",
        inside(lambda f: (als(f / "run", iterations=1), sgd(f / "run"))),
        "als|sgd|solver",
        kind=ValueError,
    )


def kept(write: Callable[[Path], Any]) -> Callable[[], Any]:
    """A file of another kind is refused, and stays."""

    def work(folder: Path) -> Any:
        write(folder / "run")
        before = (folder / "run").read_bytes()
        try:
            return als(folder / "run")
        finally:
            assert (folder / "run").read_bytes() == before, "the file was changed"

    return inside(work)


def tampered(change: Callable[[dict[str, Any], bytearray], Any]) -> Callable[[], Factors]:
    def work(folder: Path) -> Factors:
        als(folder / "run", iterations=2)
        header, body = parts(folder / "run")
        tensors = bytearray(body)
        change(header, tensors)
        (folder / "run").write_bytes(sealed(header, bytes(tensors)))
        return als(folder / "run")

    return inside(work)


def told(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any], bytearray], None]:
    def edit(header: dict[str, Any], body: bytearray) -> None:
        held = json.loads(header["__metadata__"]["model"])
        change(held)
        header["__metadata__"]["model"] = json.dumps(held)

    return edit


def fewer(header: dict[str, Any], body: bytearray) -> None:
    """A column less in every matrix, and nothing that says so."""
    for name, held in header.items():
        if name != "__metadata__" and len(held["shape"]) == 2:
            rows, columns = held["shape"]
            held["shape"] = [rows * 2, columns // 2]


def unreal(header: dict[str, Any], body: bytearray) -> None:
    body[:4] = np.float32(np.nan).tobytes()


def damaged() -> Iterator[Case]:
    yield _right("sealed again, nothing changed", tampered(lambda h, b: None), lambda f: same(f, als()))
    yield _refused(
        "somebody's notes", kept(lambda path: path.write_text("remember the milk\n" * 100)), "run", kind=ValueError
    )
    yield _refused("a model file", kept(lambda path: model().save(path)), "run|checkpoint", kind=ValueError)
    yield _refused("a shape that is another", tampered(fewer), "run|checkpoint|shape", kind=ValueError)
    yield _refused("NaN in a factor", tampered(unreal), "run|checkpoint|nan|finite", kind=ValueError)
    yield _refused("no history", tampered(told(lambda m: m.pop("history"))), "history|keys|run", kind=ValueError)
    yield _refused(
        "history that is a number", tampered(told(lambda m: m.update(history=2))), "history|run", kind=ValueError
    )
    yield _refused(
        "history of texts", tampered(told(lambda m: m.update(history=["a", "b"]))), "history|run", kind=ValueError
    )
    yield _refused(
        "arguments that are a list",
        tampered(told(lambda m: m.update(asked=[]))),
        "run|checkpoint|asked",
        kind=ValueError,
    )
    yield _refused(
        "a seed that is a text",
        tampered(told(lambda m: m.update(entropy="0; import os"))),
        "run|checkpoint|seed|entropy",
        kind=ValueError,
    )
    yield _refused(
        "a negative seed",
        tampered(told(lambda m: m.update(entropy=-1))),
        "run|checkpoint|seed|entropy",
        kind=ValueError,
    )
    yield _refused("a folder", inside(lambda f: als(f)), "checkpoint|folder|director", kind=(ValueError, OSError))
    yield _refused("below what is not there", inside(lambda f: als(f / "no" / "run")), "no", kind=(ValueError, OSError))

    def fifo(folder: Path) -> Factors:
        os.mkfifo(folder / "run")
        return als(folder / "run")

    yield _refused("a pipe", inside(fifo), "run|checkpoint", kind=(ValueError, OSError))

    def empty(folder: Path) -> Factors:
        (folder / "run").touch()
        return als(folder / "run")

    yield Case(
        "gone on: an empty file", inside(empty), Either(Holds(lambda f: same(f, als())), raises(ValueError, "run"))
    )
    for every in (-1.0, float("nan"), float("inf"), "60", None, [1]):
        yield _refused(f"every={every!r}", inside(lambda f, e=every: als(Checkpoint(f / "run", e))), "every")
    yield _refused("no path in it", lambda: als(Checkpoint(None)), "path|checkpoint")  # type: ignore[arg-type]
    yield _refused("the number 3", lambda: als(3), "checkpoint", kind=TypeError)


class Stop(Exception):
    """Of a callback."""


def ended() -> Iterator[Case]:
    def after_sweep(number: int, act: Callable[[], Any]) -> Callable[..., None]:
        sweeps = itertools.count(1)
        return lambda record, factors: act() if next(sweeps) == number else None

    def raising(error: BaseException) -> Callable[[], None]:
        def act() -> None:
            raise error

        return act

    def interrupted(folder: Path, fit: Callable[..., Factors]) -> bool:
        act = after_sweep(3, lambda: os.kill(os.getpid(), signal.SIGINT))
        stopped = fit(folder / "run", callback=act)
        return stopped.status is Status.INTERRUPTED and len(stopped.history) < 6 and same(fit(folder / "run"), fit())

    for fit in (als, sgd):
        yield _right(f"{fit.__name__}, after Ctrl-C", inside(lambda f, fit=fit: interrupted(f, fit)))

    def raised(folder: Path, error: BaseException, **words: Any) -> bool:
        act = after_sweep(3, raising(error))
        try:
            als(folder / "run", callback=act, **words)
        except type(error) as found:
            return found is error and same(als(folder / "run"), als())
        return False

    for error in (Stop("enough"), SystemExit(3), GeneratorExit(), MemoryError("no more"), RecursionError("deep")):
        yield _right(f"after a callback raised {type(error).__name__}", inside(lambda f, e=error: raised(f, e)))
    yield _right(
        "after KeyboardInterrupt of a callback, raised",
        inside(lambda f: raised(f, KeyboardInterrupt(), raise_on_interrupt=True)),
    )

    def no_room(folder: Path) -> bool:
        als(folder / "run", iterations=2)
        try:
            with largest_file(600):
                als(folder / "run")
        except OSError:
            return [p.name for p in folder.iterdir()] == ["run"] and same(als(folder / "run"), als())
        return False

    yield _right("after there was no room", inside(no_room))

    def removed(folder: Path) -> Factors:
        (folder / "there").mkdir()
        act = after_sweep(2, lambda: shutil.rmtree(folder / "there"))
        return als(folder / "there" / "run", callback=act)

    yield _refused("its folder is removed under way", inside(removed), "there", kind=OSError)

    def elsewhere(folder: Path) -> bool:
        here = os.getcwd()
        (folder / "one").mkdir()
        (folder / "other").mkdir()
        os.chdir(folder / "one")
        try:
            als("run", callback=after_sweep(2, lambda: os.chdir(folder / "other")))
        finally:
            os.chdir(here)
        return [p.name for p in (folder / "one").iterdir()] == ["run"] and not list((folder / "other").iterdir())

    yield _right("a callback changes the folder", inside(elsewhere))
    yield _right(
        "two fits at once keep one file",
        inside(lambda f: all(isinstance(r, Factors) and same(r, als()) for r in together(2, lambda i: als(f / "run")))),
    )

    def backed_up(folder: Path) -> bool:
        copies = []
        als(
            folder / "run",
            callback=lambda r, f: copies.append((folder / "run").read_bytes()) if (folder / "run").exists() else None,
        )
        for number, held in enumerate(copies):
            (folder / f"copy{number}").write_bytes(held)
        return bool(copies) and all(same(als(folder / f"copy{number}"), als()) for number in range(len(copies)))

    yield _right("from a copy of every sweep's file", inside(backed_up))


def cases() -> list[Case]:
    return [*to_the_bit(), *others(), *damaged(), *ended()]
