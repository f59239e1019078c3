import enum
import itertools
import signal
import sys

import numpy as np
import oracles_sgd
import pytest
import scipy.sparse as sp

import lfm_np
from lfm_np import losses, sampling, sgd_grid

LOSSES = {
    "Squared": losses.Squared(),
    "Logistic": losses.Logistic(weighted=True),
    "Hinge": losses.Hinge(),
    "Poisson": losses.Poisson(),
    "BPR": losses.BPR(),
    "MarginHinge": losses.MarginHinge(0.5, weighted=True),
    "WARP": losses.WARP(0.3, trials=5),
    "SampledSoftmax": losses.SampledSoftmax(0.7),
    "CosineContrastive": losses.CosineContrastive(0.1, 2.0),
}
SAMPLERS = {
    "Uniform": sampling.Uniform(),
    "Popularity": sampling.Popularity(0.75),
    "Hard": sampling.Hard(3),
    None: None,
}


@pytest.fixture
def blocks(monkeypatch):
    """Set G, which the size of the data would choose."""
    return lambda G: monkeypatch.setattr(sgd_grid, "blocks_for", lambda stored, items, draws: G)


def matrix(m=13, n=24, density=0.3, seed=0):
    """Counts, with an empty row, an empty column and a full row."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 5, (m, n)) * (rng.random((m, n)) < density)
    dense[1], dense[:, 2], dense[3] = 0, 0, 2
    return sp.csr_array(dense.astype(np.float64))


def as_rows(X):
    return [dict(zip(X.indices[a:b].tolist(), X.data[a:b].tolist())) for a, b in itertools.pairwise(X.indptr)]


def seed_of(random_state):
    return int(np.random.default_rng(random_state).integers(2**62))


def assert_like_oracle(X, name, sampler, G, schedule, negatives, biases, epochs=2):
    options = {"user": 0.03, "item": 0.02, "negative": 0.01, "bias": 0.04}
    factors = lfm_np.sgd(
        X, LOSSES[name], sampler=SAMPLERS[sampler], negatives=negatives, factors=3, learning_rate=0.1, epochs=epochs,
        schedule=schedule, regularization=options, biases=biases, dtype=np.float64, random_state=5, num_threads=2,
    )  # fmt: skip
    loss = LOSSES[name]
    fields = {field: getattr(loss, field) for field in getattr(type(loss), "__dataclass_fields__", ())}
    run = oracles_sgd.Run(
        as_rows(X), X.shape[1], name, fields, seed_of(5), G, sampler=sampler, candidates=3 if sampler == "Hard" else 1,
        negatives=negatives if sampler else 0, schedule=schedule, biases=biases, mean=factors.global_bias or 0.0,
        **options,
    )  # fmt: skip
    for record in factors.history:
        total = run.epoch(record["iteration"])
        assert record["sampled_loss"] == pytest.approx(total / X.nnz, rel=1e-10)
    U, V = run.U, run.V
    if name == "CosineContrastive":
        U, V = (W / np.maximum(np.linalg.norm(W, axis=1), 1e-300)[:, None] for W in (U, V))
    np.testing.assert_allclose(factors.user_factors @ factors.item_factors.T, U @ V.T, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(factors.item_factors, axis=1), np.linalg.norm(V, axis=1), atol=1e-10)
    if biases:
        np.testing.assert_allclose(factors.item_bias, run.bi, rtol=1e-10, atol=1e-10)
    if biases is True:
        np.testing.assert_allclose(factors.user_bias, run.bu, rtol=1e-10, atol=1e-10)


@pytest.mark.small
@pytest.mark.parametrize("schedule", ["constant", "inverse", "adagrad"])
@pytest.mark.parametrize(
    ("name", "sampler"),
    [(n, s) for n in LOSSES for s in SAMPLERS if s or n in ("Squared", "Logistic", "Hinge", "Poisson")],
)
def test_epochs_equal_the_oracle(blocks, name, sampler, schedule):
    """Every loss × sampler × update, replayed draw by draw in plain Python."""
    blocks(2)
    negatives = 1 if name == "WARP" else 2
    biases = False if name == "CosineContrastive" else {"constant": True, "inverse": "item", "adagrad": True}[schedule]
    assert_like_oracle(matrix(), name, sampler, 2, schedule, negatives, biases)


@pytest.mark.small
@pytest.mark.parametrize("G", [1, 2, 4])
@pytest.mark.parametrize("name", ["BPR", "Logistic", "SampledSoftmax"])
def test_epochs_equal_the_oracle_on_any_grid(blocks, name, G):
    blocks(G)
    assert_like_oracle(matrix(30, 40), name, "Uniform", G, "constant", 1, False)


# ---- determinism ----------------------------------------------------------------------------------------------------


def bits(fit):
    arrays = [fit.user_factors, fit.item_factors, fit.user_bias, fit.item_bias]
    losses_seen = [record["sampled_loss"] for record in fit.history]
    return [a.tobytes() for a in arrays if a is not None], losses_seen


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {"loss": losses.BPR(), "biases": "item"},
        {"loss": losses.WARP(), "schedule": "adagrad"},
        {"loss": losses.SampledSoftmax(), "sampler": sampling.Popularity(), "negatives": 4},
        {"loss": losses.Squared(), "sampler": None, "biases": True},
    ],
    ids=lambda options: type(options["loss"]).__name__,
)
def test_every_number_of_threads_gives_the_same_bits(blocks, options, dtype):
    blocks(4)
    X = matrix(400, 90, 0.1)
    fits = [
        lfm_np.sgd(X, factors=5, epochs=3, random_state=1, num_threads=threads, dtype=dtype, **options)
        for threads in (1, 2, 3, 7)
    ]
    assert all(bits(fit) == bits(fits[0]) for fit in fits[1:])


@pytest.mark.small
def test_the_seed_decides_and_is_recorded():
    X = matrix()
    one, again, other = (lfm_np.sgd(X, factors=2, epochs=2, random_state=seed) for seed in (1, 1, 2))
    assert bits(one) == bits(again) != bits(other)
    assert one.params["seed"] == 1


@pytest.mark.small
def test_a_softmax_with_a_temperature_corrects_by_the_probability():
    """log(e^(s/T) + Σ e^(s_j/T)/(M·q_j)) − s/T; of one possible negative q is 1."""
    start = np.array([[0.7]]), np.array([[0.5], [1.1]])
    for negatives, temperature in itertools.product((1, 8), (0.1, 1.0, 3.0)):
        loss, asked = losses.SampledSoftmax(temperature), {"learning_rate": 1e-9, "dtype": "float64", "init": start}
        fit = lfm_np.sgd(sp.csr_array([[1.0, 0]]), loss, negatives=negatives, factors=1, epochs=1, **asked)
        expected = np.logaddexp(0.35 / temperature, 0.77 / temperature) - 0.35 / temperature
        assert fit.history[0]["sampled_loss"] == pytest.approx(expected, rel=1e-6)


class Cosines:
    """Softmax of cosines; ``shift`` is taken off those of the negatives."""

    cosine = True

    def __init__(self, correct_logq, shift=0.0):
        self.correct_logq, self.shift = correct_logq, shift

    def value(self, positive, negatives):
        return np.log(1.0 + np.exp(negatives - self.shift - positive).sum())

    def gradient(self, positive, negatives):
        shares = np.exp(negatives - self.shift - positive)
        shares /= 1.0 + shares.sum()
        return -shares.sum(), shares


def test_the_slope_of_a_corrected_cosine_is_that_of_the_cosine():
    X = sp.csr_array((np.arange(12 * 20).reshape(12, 20) % 5 == 0).astype(float))
    shift = np.log(3 / 16)  # M·q, the same for every item and row
    corrected, shifted = (
        lfm_np.sgd(X, loss, negatives=3, factors=4, epochs=3, dtype=np.float64, random_state=0)
        for loss in (Cosines(True), Cosines(False, shift))
    )
    np.testing.assert_allclose(corrected.item_factors, shifted.item_factors, atol=1e-10)


def test_float32_is_near_float64():
    X = matrix(60, 40)
    single, double = (lfm_np.sgd(X, factors=4, epochs=3, random_state=0, dtype=d) for d in (np.float32, np.float64))
    np.testing.assert_allclose(
        single.user_factors @ single.item_factors.T, double.user_factors @ double.item_factors.T, atol=1e-5
    )


@pytest.mark.small
def test_input_formats_give_the_same_bits():
    """Formats, index types, order, duplicates and flags; and the caller's arrays stay as they are."""
    X = matrix()
    wide = X.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    shuffled = X.tocoo()
    order = np.random.default_rng(0).permutation(X.nnz)
    shuffled = sp.coo_array((shuffled.data[order], (shuffled.row[order], shuffled.col[order])), shape=X.shape)
    frozen = X.copy()
    for array in (frozen.data, frozen.indices, frozen.indptr):
        array.flags.writeable = False
    first = bits(lfm_np.sgd(X, losses.BPR(weighted=True), factors=2, epochs=2, random_state=0))
    for other in (wide, shuffled, frozen, X.tocsc(), sp.csr_matrix(X)):
        before = [np.copy(part) for part in (other.data,)]
        assert bits(lfm_np.sgd(other, losses.BPR(weighted=True), factors=2, epochs=2, random_state=0)) == first
        np.testing.assert_array_equal(other.data, before[0])


# ---- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.small
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("Squared", "Poisson")])
def test_every_ranking_loss_learns_two_groups(name):
    """Users and items of two groups: held-out items of a user's own group mostly come before the other's."""
    rng = np.random.default_rng(0)
    same = np.arange(40)[:, None] % 2 == np.arange(30) % 2
    stored = same & (rng.random((40, 30)) < 0.7)
    rate = 0.5 if name == "CosineContrastive" else 0.1
    fit = lfm_np.sgd(
        sp.csr_array(stored, dtype=np.float32), LOSSES[name], factors=2, learning_rate=rate, epochs=40, random_state=0,
        negatives=1 if name == "WARP" else 2, regularization=0.05,
    )  # fmt: skip
    scores = fit.user_factors @ fit.item_factors.T
    auc = [np.mean(s[held][:, None] > s[other]) for s, held, other in zip(scores, same & ~stored, ~same) if held.any()]
    assert np.mean(auc) > 0.95
    assert fit.history[-1]["sampled_loss"] < fit.history[0]["sampled_loss"]


def test_ratings_with_biases_recover_a_low_rank_matrix():
    rng = np.random.default_rng(1)
    truth = 3 + rng.normal(size=(40, 1)) + rng.normal(size=30) + rng.normal(size=(40, 2)) @ rng.normal(size=(2, 30))
    stored = rng.random(truth.shape) < 0.7
    X = sp.csr_array((truth[stored], np.nonzero(stored)), shape=truth.shape)
    fit = lfm_np.sgd(
        X, losses.Squared(), sampler=None, biases=True, factors=2, learning_rate=0.05, schedule="inverse",
        regularization=1e-4, epochs=400, random_state=0, dtype=np.float64,
    )  # fmt: skip
    guess = fit.global_bias + fit.user_bias[:, None] + fit.item_bias + fit.user_factors @ fit.item_factors.T
    assert fit.global_bias == pytest.approx(X.data.mean())
    assert np.sqrt(np.mean((guess - truth)[~stored] ** 2)) < 0.1 * truth.std()


@pytest.mark.small
def test_the_constant_is_the_best_one():
    X = matrix()
    options = {"biases": True, "factors": 2, "epochs": 1}
    assert lfm_np.sgd(X, losses.Logistic(), negatives=3, **options).global_bias == pytest.approx(-np.log(3))
    poisson = lfm_np.sgd(X, losses.Poisson(), sampler=None, **options)
    assert poisson.global_bias == pytest.approx(np.log(X.data.mean()))
    assert lfm_np.sgd(X, losses.BPR(), **options).global_bias == 0
    assert lfm_np.sgd(X, losses.BPR(), biases="item", factors=2, epochs=1).global_bias is None


@pytest.mark.small
def test_zero_ratings_are_values_and_negative_ones_too():
    X = sp.csr_array((np.array([0.0, -1.0, 2.0]), ([0, 1, 2], [0, 1, 0])), shape=(3, 2))
    fit = lfm_np.sgd(X, losses.Squared(), sampler=None, factors=1, epochs=1, random_state=0)
    assert fit.user_factors[0].any()
    with pytest.raises(ValueError, match="negative value"):
        lfm_np.sgd(X, losses.Poisson(), sampler=None)


@pytest.mark.small
def test_rows_that_nothing_updates_are_zero():
    X = matrix()
    X.data[X.indptr[3] : X.indptr[4]] = 0
    fit = lfm_np.sgd(X, losses.Poisson(), sampler=None, factors=3, epochs=2, random_state=0)
    assert not fit.user_factors[[1, 3]].any()
    assert not fit.item_factors[2].any()
    cosine = lfm_np.sgd(matrix(), losses.CosineContrastive(), factors=3, epochs=2, random_state=0)
    lengths = np.linalg.norm(cosine.user_factors, axis=1)
    np.testing.assert_allclose(np.delete(lengths, [1, 3]), 1, atol=1e-6)
    assert not lengths[[1, 3]].any()  # an empty row, and a full one that leaves no negative


# ---- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.small
def test_callback_sees_every_epoch_and_may_stop():
    seen = []

    def callback(record, factors):
        record["norm"] = float(np.linalg.norm(factors.user_factors))
        seen.append(factors.user_factors.copy())
        if record["iteration"] == 2:
            raise StopIteration

    X = matrix()
    fit = lfm_np.sgd(X, factors=2, epochs=5, random_state=0, callback=callback)
    assert fit.status == "stopped"
    assert [record["iteration"] for record in fit.history] == [1, 2]
    assert fit.history[1]["norm"] > 0
    np.testing.assert_array_equal(fit.user_factors, seen[1])
    full = lfm_np.sgd(X, factors=2, epochs=2, random_state=0)
    assert full.status == "max_iterations"
    np.testing.assert_array_equal(full.user_factors, fit.user_factors)


@pytest.mark.small
def test_other_exceptions_of_the_callback_leave():
    def callback(record, factors):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lfm_np.sgd(matrix(), factors=2, epochs=2, callback=callback)


@pytest.mark.small
def test_ctrl_c_gives_the_last_whole_epoch():
    def callback(record, factors):
        if record["iteration"] == 2:
            signal.raise_signal(signal.SIGINT)

    fit = lfm_np.sgd(matrix(), factors=2, epochs=50, random_state=0, callback=callback)
    assert fit.status == "interrupted"
    assert len(fit.history) == 2


@pytest.mark.small
def test_ctrl_c_before_the_first_epoch_is_a_keyboard_interrupt(monkeypatch):
    module = sys.modules["lfm_np.sgd"]
    trainer = module.Trainer

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        return trainer(*args)

    monkeypatch.setattr(module, "Trainer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lfm_np.sgd(matrix(), factors=2, epochs=2, random_state=0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.small
def test_tolerance_stops_a_run_that_no_longer_falls():
    fit = lfm_np.sgd(matrix(), losses.Squared(), sampler=None, factors=2, epochs=500, tolerance=1e-3, random_state=0)
    assert fit.status == "converged"
    assert len(fit.history) < 500


@pytest.mark.small
def test_divergence_is_found_in_its_epoch():
    X = matrix()
    with pytest.raises(lfm_np.SolverError, match=r"diverged in epoch \d+ at learning_rate 50") as caught:
        lfm_np.sgd(X, losses.Squared(), factors=2, learning_rate=50.0, epochs=50, random_state=0)
    left = caught.value.factors
    assert np.isfinite(left.user_factors).all()
    assert f"epoch {len(left.history) + 1} " in str(caught.value)


@pytest.mark.small
def test_factors_too_large_for_their_gram_matrix_have_diverged():
    """Finite, but their squares are not: the message was that of als, about alpha."""
    X, init = sp.csr_array([[2.0]]), (np.ones((1, 2)), np.full((1, 2), 0.5))
    asked = {"sampler": None, "factors": 2, "learning_rate": 1e155, "epochs": 1, "init": init, "dtype": "float64"}
    with pytest.raises(lfm_np.SolverError, match=r"in epoch 1 at learning_rate 1e\+155, .* try .*2\.5e\+154") as caught:
        lfm_np.sgd(X, losses.Squared(), **asked)
    assert caught.value.factors is None


class Nowhere:
    """Defined for no score."""

    def value(self, difference):
        return np.nan

    def gradient(self, difference):
        return 0.0


@pytest.mark.small
def test_a_loss_that_returns_nan_is_named_beside_divergence():
    with pytest.raises(lfm_np.SolverError, match=r"in epoch 1 at learning_rate .*, or the loss returned nan"):
        lfm_np.sgd(matrix(), Nowhere(), factors=2, epochs=2, random_state=0)


@pytest.mark.small
def test_warm_start_goes_on_from_factors():
    X = matrix()
    first = lfm_np.sgd(X, losses.Logistic(), factors=2, epochs=30, biases="item", random_state=0, learning_rate=0.1)
    again = lfm_np.sgd(X, losses.Logistic(), factors=2, epochs=1, biases="item", random_state=1, init=first)
    assert again.history[0]["sampled_loss"] < first.history[0]["sampled_loss"]
    assert np.abs(again.item_bias - first.item_bias).max() < 0.5


@pytest.mark.small
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": losses.BPR(), "sampler": None}, "sampler must not be None"),
        ({"loss": losses.WARP(), "negatives": 2}, "negatives must be 1"),
        ({"loss": losses.CosineContrastive(), "biases": True}, "biases must be False"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"schedule": "adam"}, "schedule"),
        ({"regularization": {"users": 1}}, "users"),
        ({"regularization": {"user": -1}}, "regularization"),
        ({"biases": 1}, "biases"),
        ({"epochs": 0}, "epochs"),
        ({"checkpoint": 3}, "checkpoint"),
        ({"init": (np.zeros((2, 2)), np.zeros((2, 2)))}, "init"),
        ({"loss": "bpr"}, "loss"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lfm_np.sgd(matrix(), **options)


@pytest.mark.small
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 4)])
def test_empty_matrices(shape):
    fit = lfm_np.sgd(sp.csr_array(shape), factors=2, epochs=1)
    assert fit.user_factors.shape == (shape[0], 2)
    assert not fit.item_factors.any()


def test_parts_of_regularization_are_named_by_equal_keys():
    class Text(str, enum.Enum):  # noqa: UP042 (whose str is "Text.USER")
        USER = "user"

    class Other(enum.Enum):
        USER = "user"

        def __str__(self):
            return "user"

    X = lfm_np.to_csr([(0, 0), (1, 1), (2, 0)])
    factors = lfm_np.sgd(X, factors=2, epochs=1, regularization={Text.USER: 0.5})
    assert factors.params["regularization"]["user"] == 0.5
    with pytest.raises(ValueError, match="regularization must have keys among"):
        lfm_np.sgd(X, factors=2, epochs=1, regularization={Other.USER: 0.5})
