"""Arguments that only lfm_np's solvers have, on both backends."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

import lfm_np
from lfm_np import losses, sampling

from .case import Case, Either, Holds, raises
from .matrices import M, N, at, changed, duplicated, plain

BAD = (TypeError, ValueError)
START = (np.zeros((M, 4), np.float32), np.full((N, 4), 0.1, np.float32))


def is_finite(result: Any, **_: Any) -> bool:
    return bool(np.isfinite(result.user_factors).all() and np.isfinite(result.item_factors).all())


FINE = Holds(is_finite)


def _boom(record: Any, factors: Any) -> None:
    raise ZeroDivisionError("the callback's own")


def _stop(record: Any, factors: Any) -> None:
    raise StopIteration


def _write(record: Any, factors: Any) -> None:
    factors.item_factors[:] = np.nan


def _vandalise(record: Any, factors: Any) -> None:
    factors.history.clear()
    record["extra"] = factors.item_factors.sum()


def _misremember(record: Any, factors: Any) -> None:
    factors.params.clear()


def _nested(record: Any, factors: Any) -> None:
    record["inner"] = lfm_np.als(plain(), factors=2, iterations=1, random_state=0).history[-1]["objective"]


BOTH: dict[str, tuple[dict[str, Any], Any]] = {
    "callback not callable": ({"callback": 3}, raises(TypeError, "callback", "callable")),
    "callback raises": ({"callback": _boom}, raises(ZeroDivisionError, "the callback's own")),
    "callback stops": ({"callback": _stop}, Holds(lambda f, **_: f.status == "stopped" and len(f.history) == 1)),
    "callback writes": ({"callback": _write}, raises(ValueError, "read-only")),
    "callback vandalises": (
        {"callback": _vandalise},
        Holds(lambda f, **_: len(f.history) >= 2 and all("extra" in r for r in f.history) and bool(f.params)),
    ),
    "callback empties params": ({"callback": _misremember}, raises(TypeError, "params cannot be changed")),
    "callback fits": ({"callback": _nested}, FINE),
    "callback of one argument": ({"callback": lambda record: None}, raises(TypeError, "argument")),
    "progress text": ({"progress": "yes"}, raises(TypeError, "progress", "True or False")),
    "raise_on_interrupt 1": ({"raise_on_interrupt": 1}, raises(TypeError, "raise_on_interrupt", "True or False")),
    "tolerance nan": ({"tolerance": np.nan}, raises(ValueError, "tolerance")),
    "tolerance negative": ({"tolerance": -1e-3}, raises(ValueError, "tolerance")),
    "tolerance one": ({"tolerance": 1}, Holds(lambda f, **_: f.status == "converged")),
    "dtype float16": ({"dtype": np.float16}, raises(ValueError, "dtype", "float32 or float64")),
    "dtype int": ({"dtype": int}, raises(ValueError, "dtype", "float32 or float64")),
    "dtype big-endian": ({"dtype": ">f4"}, raises(ValueError, "dtype", "native")),
    "dtype nonsense": ({"dtype": "float33"}, raises(TypeError, "dtype", "float32 or float64")),
    "dtype long double": ({"dtype": np.longdouble}, raises(ValueError, "dtype")),
    "dtype text": ({"dtype": "float64"}, Holds(lambda f, **_: f.user_factors.dtype == np.float64)),
    "init of the wrong shape": ({"init": (START[0], START[1][:-1])}, raises(ValueError, "init", "V", f"({N}, 4)")),
    "init with nan": ({"init": (START[0], START[1] * np.nan)}, raises(ValueError, "init", "non-finite", "V")),
    "init complex": ({"init": (START[0], START[1] * 1j)}, raises(BAD, "init", "real")),
    "init text": ({"init": "warm"}, raises(TypeError, "init")),
    "init alone": ({"init": START[0]}, raises(BAD, "init")),
    "init ragged": ({"init": ([[1.0], [1.0, 2.0]], START[1])}, raises(BAD, "init", "U")),
    "init too large for float32": (
        {"init": (START[0], START[1].astype(float) * 1e300)},
        raises(ValueError, "init", "float32"),
    ),
    "init read": ({"init": START}, FINE),
    "init of lists": ({"init": (START[0].tolist(), START[1].tolist())}, FINE),
    "seed sequence": ({"random_state": np.random.SeedSequence(3)}, FINE),
    "seed generator": ({"random_state": np.random.default_rng(3)}, FINE),
    "seed RandomState": ({"random_state": np.random.RandomState(3)}, FINE),
    "seed module": ({"random_state": np.random}, raises(TypeError, "random_state")),
    "seed True": ({"random_state": True}, raises(TypeError, "random_state")),
    "biases text": ({"biases": "both"}, raises(BAD, "biases")),
    "biases 1": ({"biases": 1}, raises(BAD, "biases")),
    "unknown argument": ({"n_factors": 3}, raises(TypeError, "n_factors")),
    "X an Interactions": ({"X": lfm_np.Interactions.from_arrays([1, 1, 2], [5, 6, 5])}, FINE),
    "X of another kind of Interactions": (
        {"X": type("Other", (), {"matrix": np.eye(3)})()},
        raises(TypeError, "X", "sparse"),
    ),
}

ALS: dict[str, tuple[dict[str, Any], Any]] = {
    "solver unknown": ({"solver": "magic"}, raises(ValueError, "solver", "exact")),
    "weighting unknown": ({"weighting": "bm25"}, raises(ValueError, "weighting", "hu-koren")),
    "weighting None": ({"weighting": None}, raises(ValueError, "weighting", "hu-koren")),
    "unobserved_weight negative": ({"unobserved_weight": -1.0}, raises(ValueError, "unobserved_weight")),
    "unobserved_weight nan": ({"unobserved_weight": np.nan}, raises(ValueError, "unobserved_weight")),
    "unobserved_weight 1e30": ({"unobserved_weight": 1e30}, FINE),
    "unobserved_weight 1e39": ({"unobserved_weight": 1e39}, raises(ValueError, "unobserved_weight", "float32")),
    "unobserved_weight 1e-30": ({"unobserved_weight": 1e-30}, FINE),
    "unobserved_weight 0": ({"unobserved_weight": 0}, FINE),
    "unobserved_weight with ratings": (
        {"weighting": "ratings", "unobserved_weight": 0.5},
        raises(ValueError, "unobserved_weight", "ratings"),
    ),
    "exponent overflows": (
        {"regularization_exponent": 1e3},
        raises(ValueError, "regularization_exponent", "overflow"),
    ),
    "exponent negative": ({"regularization_exponent": -1}, raises(ValueError, "regularization_exponent")),
    "exponent with an empty row and alpha0 = 0": (
        {"weighting": "ratings", "regularization_exponent": 1.0},
        FINE,
    ),
    "regularization 1e39": ({"regularization": 1e39}, raises(ValueError, "regularization", "float32")),
    "alpha times value overflows": ({"alpha": 3e38}, raises(ValueError, "alpha", "overflow")),
    "alpha times value sums overflow": (
        {"alpha": 1e38},
        Either(FINE, raises((RuntimeError, ValueError), "regularization", "row")),
    ),
    "biases without ratings": ({"biases": True}, raises(ValueError, "biases", "ratings")),
    "ratings repeated": ({"weighting": "ratings", "X": duplicated()}, raises(ValueError, "X", "more than once")),
    "ratings nan": ({"weighting": "ratings", "X": changed("data", at(2, np.nan))}, raises(ValueError, "X", "row")),
    "ratings negative": ({"weighting": "ratings", "X": changed("data", at(2, -3.0))}, FINE),
    "ratings all equal, with biases": ({"weighting": "ratings", "biases": True, "X": plain() > 0}, FINE),
    "ratings 1e30, with biases": (
        {"weighting": "ratings", "biases": True, "X": plain() * np.float32(1e30)},
        Either(FINE, raises((RuntimeError, ValueError), "regularization|overflow")),
    ),
    "ratings, lambda = 0": (
        {"weighting": "ratings", "regularization": 0.0},
        Either(FINE, raises(RuntimeError, "row", "regularization")),
    ),
    "confidence, alpha = 0": ({"weighting": "confidence", "alpha": 0.0}, FINE),
    "confidence below alpha0": ({"weighting": "confidence", "alpha": 1e-3, "unobserved_weight": 2.0}, FINE),
    "ials, alpha0 = 0 and alpha = 0": ({"weighting": "ials", "unobserved_weight": 0.0, "alpha": 0.0}, FINE),
    "float64 at 1e30": ({"dtype": np.float64, "alpha": 1e30, "regularization": 1e-30}, FINE),
}

SGD: dict[str, tuple[dict[str, Any], Any]] = {
    "learning_rate 0": ({"learning_rate": 0.0}, raises(ValueError, "learning_rate")),
    "learning_rate -1": ({"learning_rate": -1}, raises(ValueError, "learning_rate")),
    "learning_rate nan": ({"learning_rate": np.nan}, raises(ValueError, "learning_rate")),
    "learning_rate 1e30": ({"learning_rate": 1e30}, raises(RuntimeError, "epoch", "learning_rate")),
    "learning_rate 1e-300": ({"learning_rate": 1e-300}, FINE),
    "learning_rate 10, adagrad": (
        {"learning_rate": 10.0, "schedule": "adagrad"},
        Either(FINE, raises(RuntimeError, "epoch", "learning_rate")),
    ),
    "squared, learning_rate 5": (
        {"learning_rate": 5.0, "loss": losses.Squared()},
        Either(FINE, raises(RuntimeError, "epoch", "learning_rate")),
    ),
    "schedule unknown": ({"schedule": "cosine"}, raises(ValueError, "schedule", "adagrad")),
    "regularization of an unknown part": (
        {"regularization": {"users": 0.1}},
        raises(ValueError, "regularization", "user"),
    ),
    "regularization of a part nan": (
        {"regularization": {"user": np.nan}},
        raises(ValueError, "regularization", "user"),
    ),
    "negatives 0": ({"negatives": 0}, raises(ValueError, "negatives")),
    "negatives 2.0": ({"negatives": 2.0}, raises(TypeError, "negatives")),
    "negatives 1000 of 30 items": ({"negatives": 1000}, Either(FINE, raises(RuntimeError, "epoch", "learning_rate"))),
    "negatives 10^9": ({"negatives": 10**9}, raises(ValueError, "negatives")),
    "sampler a class": ({"sampler": sampling.Uniform}, raises(TypeError, "sampler", "Uniform()")),
    "sampler text": ({"sampler": "uniform"}, raises(TypeError, "sampler")),
    "Popularity(nan)": ({"sampler": sampling.Popularity(np.nan)}, raises(ValueError, "beta")),
    "Popularity(-1)": ({"sampler": sampling.Popularity(-1)}, raises(ValueError, "beta")),
    "Popularity(10)": ({"sampler": sampling.Popularity(10)}, FINE),
    "Hard(0)": ({"sampler": sampling.Hard(0)}, raises(ValueError, "candidates")),
    "Hard(1.5)": ({"sampler": sampling.Hard(1.5)}, raises(TypeError, "candidates")),
    "no sampler for a pairwise loss": ({"sampler": None}, raises(ValueError, "sampler", "BPR")),
    "Popularity of a full matrix": (
        {"sampler": sampling.Popularity(1.0), "X": plain() * 0 + np.ones((M, N))},
        raises(TypeError, "X", "sparse"),
    ),
    "Squared, repeated": ({"loss": losses.Squared(), "X": duplicated()}, raises(ValueError, "X", "more than once")),
    "Squared, 1e30": (
        {"loss": losses.Squared(), "X": plain() * np.float32(1e30)},
        Either(FINE, raises(RuntimeError, "epoch", "learning_rate")),
    ),
    "Poisson, negative": (
        {"loss": losses.Poisson(), "X": changed("data", at(2, -1))},
        raises(ValueError, "X", "negative"),
    ),
    "Poisson, 1e30": (
        {"loss": losses.Poisson(), "X": plain() * np.float32(1e30)},
        Either(FINE, raises(RuntimeError, "epoch", "learning_rate")),
    ),
    "WARP with two negatives": ({"loss": losses.WARP(), "negatives": 2}, raises(ValueError, "negatives", "WARP")),
    "cosine with biases": (
        {"loss": losses.CosineContrastive(), "biases": True},
        raises(ValueError, "biases", "cosine"),
    ),
    "biases user": ({"biases": "user"}, raises(ValueError, "biases", "item")),
}


def cases() -> list[Case]:
    found = []
    for side in ("", "torch ") if importlib.util.find_spec("torch") else ("",):
        module = lfm_np.torch_backend if side else lfm_np
        for solver, own in (("als", ALS), ("sgd", SGD)):
            found += [_case(side + solver, getattr(module, solver), name, *pair) for name, pair in (BOTH | own).items()]
    if importlib.util.find_spec("torch"):
        for name, (asked, expect) in TORCH.items():
            found.append(_case("torch als", lfm_np.torch_backend.als, name, asked, expect))
            found.append(_case("torch sgd", lfm_np.torch_backend.sgd, name, asked, expect))
    return found


TORCH: dict[str, tuple[dict[str, Any], Any]] = {
    "device unknown": ({"device": "tpu"}, raises(ValueError, "device", "cpu")),
    "device absent": ({"device": "cuda:77"}, raises(ValueError, "device", "cuda")),
    "device number": ({"device": 0}, raises(TypeError, "device")),
    "device None": ({"device": None}, raises(TypeError, "device")),
    "memory_budget 0": ({"memory_budget": 0}, raises(ValueError, "memory_budget")),
    "memory_budget text": ({"memory_budget": "1 GB"}, raises(TypeError, "memory_budget")),
    "memory_budget smallest": ({"memory_budget": 1 << 20}, FINE),
}


def _case(solver: str, function: Any, name: str, asked: dict[str, Any], expect: Any) -> Case:
    sweeps = "epochs" if solver.endswith("sgd") else "iterations"
    usual = {"factors": 4, sweeps: 3, "random_state": 0, "num_threads": 1}

    def call(X: Any, **given: Any) -> Any:
        return function(X, **(usual | given))

    return Case(f"{solver}: {name}", call, expect, lambda: {"X": plain()} | asked)
