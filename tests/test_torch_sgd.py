"""torch_backend.sgd: losses and draws of the Numba side, and whole epochs replayed in plain Python."""

import inspect
import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from optional import require
from oracles_minibatch import MinibatchRun
from torch_memory import Counter

import lfm_np
from lfm_np import losses, sampling
from lfm_np.kernels import random, sgd_loss
from lfm_np.losses import protocol

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
POINTWISE = ("Squared", "Logistic", "Hinge", "Poisson")


@pytest.fixture(scope="module")
def torch():
    return require("torch")


@pytest.fixture(scope="module")
def backend(torch):
    return lfm_np.torch_backend


def matrix(m=13, n=24, density=0.3, seed=0):
    """Counts, with an empty row, an empty column and a full row."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 5, (m, n)) * (rng.random((m, n)) < density)
    dense[1], dense[:, 2], dense[3] = 0, 0, 2
    return sp.csr_array(dense.astype(np.float64))


def as_rows(X):
    return [dict(zip(X.indices[a:b].tolist(), X.data[a:b].tolist())) for a, b in itertools.pairwise(X.indptr)]


# ---- losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_slopes_equal_numba(torch, name):
    from lfm_np.torch_backend.losses import evaluate

    loss = LOSSES[name]
    read, function = protocol.read(loss), protocol.compiled(loss)
    points = np.array([-1e3, -5.0, -0.7, -1e-3, 0.0, 0.013, 0.4, 1.7, 5.0, 1e3])
    if read.cosine:
        points = np.array([-1.0, -0.63, -1e-3, 0.0, 0.29, 0.81, 1.0])
    scores = np.stack([points, np.roll(points, 1), np.roll(points, 3)], 1)
    x = np.tile([1.0, 3.0, 0.5, 2.0], len(scores))[: len(scores)]
    rank_weight = np.linspace(0.5, 2, len(scores)) if name == "WARP" else np.ones(len(scores))
    values, slopes = evaluate(loss, read, torch.tensor(scores), torch.tensor(x), torch.tensor(rank_weight))
    for row, value, slope, own, weight in zip(scores, values.numpy(), slopes.numpy(), x, rank_weight):
        expected, by_score = numba_loss(read, function, row, own)
        assert value == pytest.approx(weight * expected, rel=1e-12, abs=1e-12)
        np.testing.assert_allclose(slope, weight * by_score, rtol=1e-12, atol=1e-12)


def numba_loss(read, function, scores, x):
    weight, slopes = x if read.weighted else 1.0, np.zeros(len(scores))
    if read.kind == "list":
        value = sgd_loss.call_ranked(function, scores, slopes)
        return weight * value, weight * slopes
    value = 0.0
    if read.kind == "pairwise":
        for m in range(1, len(scores)):
            part, slope = sgd_loss.call_point(function, scores[0] - scores[m], 0.0)
            value, slopes[0], slopes[m] = value + weight * part, slopes[0] + weight * slope, -weight * slope
        return value, slopes
    stored, negative = read.targets or (x, 0.0)
    for m, score in enumerate(scores):
        part, slopes[m] = sgd_loss.call_point(function, score, negative if m else stored)
        value, slopes[m] = value + (1.0 if m else weight) * part, (1.0 if m else weight) * slopes[m]
    return value, slopes


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "WARP"])
def test_slopes_equal_autograd(torch, name):
    from lfm_np.torch_backend.losses import evaluate

    loss = LOSSES[name]
    scores = torch.tensor(np.random.default_rng(0).normal(size=(50, 4)) * 0.9, requires_grad=True)
    values, slopes = evaluate(loss, protocol.read(loss), scores, torch.linspace(0.5, 3, 50, dtype=torch.float64))
    (expected,) = torch.autograd.grad(values.sum(), scores)
    np.testing.assert_allclose(slopes.detach().numpy(), expected.numpy(), rtol=1e-12, atol=1e-12)


def test_slopes_of_logistic_far_out(torch):
    from lfm_np.torch_backend.losses import evaluate

    loss, scores = losses.Logistic(), torch.tensor([[100.0, -100.0]], dtype=torch.float64)
    _, slopes = evaluate(loss, protocol.read(loss), scores, torch.ones(1, dtype=torch.float64))
    np.testing.assert_allclose(slopes.numpy(), [[-np.exp(-100.0), np.exp(-100.0)]], rtol=1e-12)


class Cubed:
    """A pairwise loss of one's own, with a form for torch."""

    targets = None

    def value(self, difference):
        return max(0.0, 1.0 - difference) ** 3

    def gradient(self, difference):
        return -3.0 * max(0.0, 1.0 - difference) ** 2

    def torch_value(self, difference):
        return (1.0 - difference).clamp_min(0.0) ** 3


class Other(Cubed):
    torch_value = None


def test_a_loss_of_ones_own_runs_by_autograd(backend, torch):
    from lfm_np.torch_backend.losses import evaluate

    scores = torch.tensor(np.random.default_rng(0).normal(size=(20, 3)))
    _, slopes = evaluate(Cubed(), protocol.read(Cubed()), scores, torch.ones(20, dtype=torch.float64))
    difference = scores[:, :1] - scores[:, 1:]
    expected = 3 * (1 - difference).clamp_min(0) ** 2
    np.testing.assert_allclose(slopes[:, 1:], expected, rtol=1e-12)
    found = backend.sgd(matrix(), Cubed(), factors=3, epochs=3, random_state=0)
    assert found.history[-1]["sampled_loss"] < found.history[0]["sampled_loss"]
    with pytest.raises(TypeError, match="torch_value"):
        backend.sgd(matrix(), Other())


# ---- draws ----------------------------------------------------------------------------------------------------------


class Shifted:
    scale = 1.0

    def __init__(self, shift):
        self.shift = shift

    def value(self, difference):
        return 0.5 * self.scale * (difference - self.shift) ** 2

    def gradient(self, difference):
        return self.scale * (difference - self.shift)

    def torch_value(self, difference):
        return 0.5 * self.scale * (difference - self.shift) ** 2


class ShiftedCosines:
    """A list loss of cosines: of what is added to the negatives it only knows ``shift``."""

    cosine = True

    def __init__(self, correct_logq, shift):
        self.correct_logq, self.shift = correct_logq, shift

    def value(self, positive, negatives):
        return np.exp(negatives + self.shift).sum() - positive

    def gradient(self, positive, negatives):
        return -1.0, np.exp(negatives + self.shift)

    def torch_value(self, positive, negatives):
        return (negatives + self.shift).exp().sum(1) - positive


@pytest.mark.parametrize("solver", ["numba", "torch"])
def test_the_correction_by_log_q_leaves_the_gradient_of_cosines(backend, solver):
    """Where all rows are as long, it is one number, which the loss may add by itself."""
    sgd = lfm_np.sgd if solver == "numba" else backend.sgd
    rng, M = np.random.default_rng(0), 2
    X = sp.csr_array(np.array([rng.permutation(np.arange(12) < 4) for _ in range(10)], np.float64))
    words = {"factors": 3, "negatives": M, "epochs": 5, "learning_rate": 0.3, "random_state": 0, "dtype": np.float64}
    fits = [sgd(X, ShiftedCosines(*how), **words) for how in ((True, 0.0), (False, -np.log(M / 8)))]
    assert fits[0].history[-1]["sampled_loss"] == pytest.approx(fits[1].history[-1]["sampled_loss"], rel=1e-9)
    np.testing.assert_allclose(*(fit.user_factors @ fit.item_factors.T for fit in fits), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("of_class", [False, True])
@pytest.mark.parametrize("solver", ["numba", "torch"])
def test_a_loss_is_that_of_the_start_whatever_a_callback_sets(backend, monkeypatch, solver, of_class):
    sgd = lfm_np.sgd if solver == "numba" else backend.sgd
    X = sp.csr_array(np.random.default_rng(0).random((20, 15)) < 0.3, dtype=np.float32)
    loss, words = Shifted(1.0), {"factors": 3, "epochs": 3, "random_state": 0, "num_threads": 1}

    def callback(record, factors):
        monkeypatch.setattr(*(Shifted, "scale") if of_class else (loss, "shift"), 5.0)

    whole = sgd(X, Shifted(1.0), **words)
    found = sgd(X, loss, callback=callback, **words)
    np.testing.assert_array_equal(found.item_factors, whole.item_factors)


def test_random_bits_equal_the_reference(torch):
    from lfm_np.torch_backend.draws import bits

    positions = np.array([0, 1, 2, 1000, 2**31, 2**40])
    with np.errstate(over="ignore"):
        key = np.uint64(random.stream(np.int64(7), np.int64(3), np.int64(1)))
        expected = np.array([random.draw(key, np.int64(p)) for p in positions], np.uint64)
    found = bits(key, torch.tensor(positions)).numpy().view(np.uint64)
    np.testing.assert_array_equal(found, expected)


# ---- epochs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "inverse", "adagrad"])
@pytest.mark.parametrize(("name", "sampler"), [(n, s) for n in LOSSES for s in SAMPLERS if s or n in POINTWISE])
def test_epochs_equal_the_oracle(backend, name, sampler, schedule):
    """Every loss × sampler × update, every argument at a value that is not its default."""
    X, loss, negatives = matrix(), LOSSES[name], 1 if name == "WARP" else 2
    biases = False if name == "CosineContrastive" else {"constant": True, "inverse": "item", "adagrad": True}[schedule]
    regularization = {"user": 0.03, "item": 0.02, "negative": 0.01, "bias": 0.04}
    factors = backend.sgd(
        X, loss, sampler=SAMPLERS[sampler], negatives=negatives, factors=3, learning_rate=0.1, epochs=2,
        schedule=schedule, regularization=regularization, biases=biases, dtype=np.float64, random_state=5,
        batch_size=7, num_threads=1,
    )  # fmt: skip
    fields = {field: getattr(loss, field) for field in getattr(type(loss), "__dataclass_fields__", ())}
    run = MinibatchRun(
        as_rows(X), X.shape[1], name, fields, int(np.random.default_rng(5).integers(2**62)), 1, sampler=sampler,
        candidates=3 if sampler == "Hard" else 1, negatives=negatives if sampler else 0, schedule=schedule,
        biases=biases, mean=factors.global_bias or 0.0, batch=7, **regularization,
    )  # fmt: skip
    for record in factors.history:
        assert record["sampled_loss"] == pytest.approx(run.epoch(record["iteration"]) / X.nnz, rel=1e-9)
    U, V = run.U, run.V
    if name == "CosineContrastive":
        U, V = (W / np.maximum(np.linalg.norm(W, axis=1), 1e-300)[:, None] for W in (U, V))
    np.testing.assert_allclose(factors.user_factors @ factors.item_factors.T, U @ V.T, rtol=1e-9, atol=1e-9)
    if biases:
        np.testing.assert_allclose(factors.item_bias, run.bi, rtol=1e-9, atol=1e-9)
    if biases is True:
        np.testing.assert_allclose(factors.user_bias, run.bu, rtol=1e-9, atol=1e-9)


def test_same_arguments_and_defaults(backend):
    here = dict(inspect.signature(lfm_np.sgd).parameters)
    there = dict(inspect.signature(backend.sgd).parameters)
    for name in ("device", "memory_budget", "batch_size"):
        there.pop(name)
    assert {name: p.default for name, p in there.items()} == {name: p.default for name, p in here.items()}


@pytest.mark.parametrize(
    "bad",
    [
        {"sampler": "uniform"},
        {"negatives": 0},
        {"factors": 0},
        {"learning_rate": 0.0},
        {"schedule": "fast"},
        {"regularization": {"users": 1.0}},
        {"biases": "user"},
        {"epochs": 0},
        {"tolerance": -1.0},
        {"init": 3},
        {"dtype": "int8"},
        {"num_threads": -2},
        {"random_state": "x"},
        {"callback": 1},
        {"progress": 2},
        {"checkpoint": 3},
    ],
    ids=str,
)
def test_refuses_what_numba_refuses(backend, bad):
    with pytest.raises((TypeError, ValueError)) as here:
        lfm_np.sgd(matrix(), **bad)
    with pytest.raises(here.type) as there:
        backend.sgd(matrix(), **bad)
    assert str(there.value) == str(here.value)


def test_the_same_start_and_the_same_quality(backend):
    train, test = lfm_np.datasets.make_interactions_train_test(3000, 200, 8, random_state=0)
    X, held_out = (lfm_np.to_csr(pairs, shape=(3000, 200)) for pairs in (train, test))
    options = {"factors": 8, "epochs": 15, "random_state": 0}
    recalls = [
        lfm_np.evaluate(solver(X, **options), X, held_out, metrics="recall@10")["recall@10"]
        for solver in (lfm_np.sgd, backend.sgd)
    ]
    assert recalls[1] > 0.9 * recalls[0]


def test_divergence_names_the_epoch_and_keeps_the_last_good_factors(backend):
    with pytest.raises(lfm_np.SolverError, match=r"diverged in epoch \d+ at learning_rate") as caught:
        backend.sgd(matrix(), losses.Squared(), sampler=None, learning_rate=30.0, epochs=50)
    assert np.isfinite(caught.value.factors.user_factors).all()


def test_a_batch_beyond_the_budget_is_made_smaller(backend):
    X = matrix(60, 50, 0.2)
    found = backend.sgd(X, factors=256, negatives=20, epochs=1, memory_budget=1 << 20, batch_size=500)
    assert 1 <= found.params["batch_size"] < 500 < X.nnz


@pytest.mark.parametrize("name", ["BPR", "WARP", "CosineContrastive"])
def test_batches_stay_within_the_byte_budget(backend, name):
    import torch

    X, k = matrix(1000, 800, 0.03), 64
    resident = 72 * X.nnz + 2 * 8 * k * sum(X.shape)
    peaks = []
    for budget in (1 << 20, 1 << 24):
        counter = Counter(torch)
        with counter.mode:
            options = {"negatives": 10 if name == "CosineContrastive" else 1, "batch_size": X.nnz}
            backend.sgd(X, getattr(losses, name)(), factors=k, epochs=1, memory_budget=budget, num_threads=1, **options)
        assert counter.peak < resident + budget
        peaks.append(counter.peak)
    assert peaks[0] + (1 << 20) < peaks[1], "the larger budget is used, and the counter sees it"


def test_warm_start_and_empty_matrix(backend):
    first = backend.sgd(matrix(), factors=3, epochs=2, random_state=0)
    again = backend.sgd(matrix(), factors=3, epochs=1, random_state=0, init=first)
    assert again.history[0]["sampled_loss"] < first.history[0]["sampled_loss"]
    assert not backend.sgd(sp.csr_array((4, 5)), factors=2, epochs=1).user_factors.any()
