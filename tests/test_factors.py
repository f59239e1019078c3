"""Factors: an immutable value with checked arrays."""

import copy
import dataclasses
import json
import pickle
import threading

import numpy as np
import pytest

from lfm_np import Factors, Status

pytestmark = pytest.mark.small


def model(dtype=np.float32, biases=True):
    rng = np.random.default_rng(3)
    bias = {"user_bias": rng.normal(size=5), "item_bias": rng.normal(size=7), "global_bias": 0.25} if biases else {}
    return Factors(
        rng.normal(size=(5, 3)).astype(dtype),
        rng.normal(size=(7, 3)).astype(dtype),
        history=[{"iteration": 1, "objective": 2.5}],
        status=Status.CONVERGED,
        params={"factors": 3},
        **bias,
    )


def arrays(factors):
    return [factors.user_factors, factors.item_factors, factors.user_bias, factors.item_bias]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_are_read_only_contiguous_and_of_one_dtype(dtype):
    for array in arrays(model(dtype)):
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert not array.flags.writeable


def test_the_callers_arrays_stay_writable_and_are_shared():
    U, V = np.ones((4, 2), np.float32), np.ones((3, 2), np.float32)
    factors = Factors(U, V)
    assert U.flags.writeable
    assert np.shares_memory(U, factors.user_factors)


def test_biases_are_its_own():
    users, items = np.ones(4, np.float32), np.ones(3, np.float32)
    factors = Factors(np.ones((4, 2), np.float32), np.ones((3, 2), np.float32), user_bias=users, item_bias=items)
    before = factors.scores([0], [0])
    users[:] = items[:] = 9
    assert factors.user_bias.tolist() == [1] * 4
    assert factors.item_bias.tolist() == [1] * 3
    assert factors.scores([0], [0]) == before
    assert np.shares_memory(dataclasses.replace(factors, params={}).user_bias, factors.user_bias)


def test_non_contiguous_arrays_are_copied():
    U = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    factors = Factors(U, np.ones((2, 2)))
    np.testing.assert_array_equal(factors.user_factors, U)


def test_attributes_cannot_be_assigned():
    with pytest.raises(dataclasses.FrozenInstanceError):
        model().status = Status.STOPPED


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copy_and_pickle_keep_everything_and_read_only(clone):
    factors = model()
    twin = clone(factors)
    for mine, its in zip(arrays(factors), arrays(twin)):
        np.testing.assert_array_equal(mine, its)
        assert not its.flags.writeable
        assert not np.shares_memory(mine, its)
    assert (twin.global_bias, twin.history, twin.status, twin.params) == (
        factors.global_bias,
        factors.history,
        factors.status,
        factors.params,
    )


def test_status_is_a_string_and_may_be_given_as_one():
    assert json.dumps(Status.CONVERGED) == '"converged"'
    assert Factors(np.ones((1, 1)), np.ones((1, 1)), status="stopped").status is Status.STOPPED


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"user_factors": np.ones(3)}, ValueError, "user_factors must have 2 dimensions"),
        ({"user_factors": np.ones((3, 4))}, ValueError, "same number of columns"),
        ({"user_factors": np.ones((3, 2), np.float32)}, TypeError, "one dtype"),
        ({"item_factors": np.array([["a", "b"]])}, TypeError, "item_factors must hold real numbers"),
        ({"item_factors": np.array([[1.0, np.nan]])}, ValueError, "item_factors has a non-finite value"),
        ({"item_factors": np.ones((2, 2), complex)}, TypeError, "real numbers"),
        ({"user_bias": np.ones(2)}, ValueError, "user_bias must have 3 values"),
        ({"item_bias": [np.inf, 0]}, ValueError, "item_bias has a non-finite value"),
        ({"global_bias": "much"}, TypeError, "global_bias"),
        (
            {name: np.ones((2, 2), np.float32) for name in ("user_factors", "item_factors")} | {"global_bias": 1e39},
            ValueError,
            r"global_bias must be a finite number in \[-3.4\S*e\+38",
        ),
        ({"status": "unheard of"}, ValueError, "unheard of"),
        ({"params": {"lock": threading.Lock()}}, TypeError, "params must hold what JSON can"),
    ],
)
def test_bad_input_is_named(changes, error, says):
    good = {"user_factors": np.ones((3, 2)), "item_factors": np.ones((2, 2))}
    with pytest.raises(error, match=says):
        Factors(**(good | changes))


WRITES = {
    "set": lambda params: params.__setitem__("alpha", 9.0),
    "delete": lambda params: params.__delitem__("alpha"),
    "update": lambda params: params.update(alpha=9.0),
    "or": lambda params: params.__ior__({"alpha": 9.0}),
    "setdefault": lambda params: params.setdefault("more", 1),
    "pop": lambda params: params.pop("alpha"),
    "popitem": lambda params: params.popitem(),
    "clear": lambda params: params.clear(),
    "inside": lambda params: params["user_rows"].clear(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("twin", [lambda f: f, copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_params_cannot_be_changed(write, twin):
    """Fold-in takes its defaults from them: it would solve for other parameters than the fit's."""
    params = {"alpha": 2.0, "user_rows": {"dual": 3}, "seed": [1]}
    factors = twin(Factors(np.ones((2, 1)), np.ones((3, 1)), params=params))
    with pytest.raises(TypeError, match=r"params cannot be changed; .* dataclasses\.replace"):
        write(factors.params)
    assert factors.params == params
    params["user_rows"]["dual"] = 4  # nor by what the caller has
    assert factors.params["user_rows"] == {"dual": 3}


def test_params_make_others():
    factors = Factors(np.ones((2, 1)), np.ones((3, 1)), params={"alpha": 2.0})
    for mine in (factors.params | {"note": 1}, {**factors.params, "note": 1}, dict(factors.params, note=1)):
        mine["more"] = 2
        other = dataclasses.replace(factors, params=mine)
        assert other.params == {"alpha": 2.0, "note": 1, "more": 2}
        assert repr(other.params) == "{'alpha': 2.0, 'note': 1, 'more': 2}"
        assert json.dumps(other.params) == json.dumps(mine)
    mine = factors.params.copy()
    mine["alpha"] = 1.0
    assert factors.params == {"alpha": 2.0}
