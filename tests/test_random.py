import numpy as np
import pytest
from scipy import stats

from lfm_np.kernels import random
from lfm_np.kernels.jit import jit

pytestmark = pytest.mark.small
plain = getattr(random.mix, "py_func", random.mix)
MASK = 2**64 - 1


def mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def python_draw(seed, epoch, cell, position):
    """The definition in Python's integers."""
    gamma = 0x9E3779B97F4A7C15
    key = mix((seed + gamma) & MASK)
    key = mix(((key ^ epoch) * 0x94D049BB133111EB + gamma) & MASK)
    key = mix(((key ^ cell) * 0xBF58476D1CE4E5B9 + gamma) & MASK)
    return mix((key + (position + 1) * gamma) & MASK)


@jit
def _scalars(seed, epoch, cell, out):
    key = random.stream(seed, epoch, cell)
    for position in range(out.shape[0]):
        out[position] = random.draw(key, position)


def numpy_draws(seed, epoch, cell, count):
    """The library's own functions on arrays, as another backend would call them."""
    with np.errstate(over="ignore"):
        key = random.stream(seed, epoch, cell)
        function = getattr(random.draw, "py_func", random.draw)
        return function(np.uint64(key), np.arange(count))


@pytest.mark.parametrize(("seed", "epoch", "cell"), [(0, 0, 0), (1, 0, 2), (0, 1, 2), (2**62 + 5, 999, 123456)])
def test_kernel_numpy_and_definition_agree(seed, epoch, cell):
    out = np.empty(50, np.uint64)
    with np.errstate(over="ignore"):
        _scalars(seed, epoch, cell, out)
    expected = [python_draw(seed, epoch, cell, p) for p in range(50)]
    assert out.tolist() == expected
    assert numpy_draws(seed, epoch, cell, 50).tolist() == expected


def chi_square(values, bins):
    counts = np.bincount(values, minlength=bins)
    return stats.chisquare(counts).pvalue


@pytest.mark.parametrize("bins", [2, 7, 64, 1000])
def test_draws_are_uniform(bins):
    """Chi-square over one long stream, and over the first draws of many cells and many epochs."""
    below = getattr(random.below, "py_func", random.below)
    with np.errstate(over="ignore"):
        cells = np.array([random.draw(np.uint64(random.stream(3, 0, c)), 0) for c in range(20_000)], np.uint64)
        epochs = np.array([random.draw(np.uint64(random.stream(3, e, 0)), 0) for e in range(20_000)], np.uint64)
    for bits in (numpy_draws(3, 1, 4, 200_000), cells, epochs):
        assert chi_square(below(bits, bins), bins) > 1e-4


def correlations(bits, lags):
    x = (bits >> np.uint64(11)) * 2.0**-53 - 0.5
    return np.array([np.mean(x[:-lag] * x[lag:]) / np.mean(x * x) for lag in lags])


def test_no_serial_correlation():
    """Lags within a stream, and the same position in streams of neighbouring cells, epochs and seeds."""
    n = 200_000
    assert np.abs(correlations(numpy_draws(5, 2, 7, n), [1, 2, 3, 7, 64, 1024])).max() < 4.5 / np.sqrt(n)
    base = numpy_draws(5, 2, 7, n)
    for other in (numpy_draws(5, 2, 8, n), numpy_draws(5, 3, 7, n), numpy_draws(6, 2, 7, n), numpy_draws(5, 7, 2, n)):
        assert abs(np.corrcoef(base * 2.0**-64, other * 2.0**-64)[0, 1]) < 4.5 / np.sqrt(n)


def test_the_test_sees_correlated_streams():
    """The guard itself: a plain counter, and a stream that repeats."""
    assert np.abs(correlations(np.arange(10_000, dtype=np.uint64) << np.uint64(50), [1])).max() > 0.5
    repeated = np.repeat(numpy_draws(0, 0, 0, 5000), 2)
    assert abs(correlations(repeated, [1])[0]) > 0.3


def test_streams_do_not_overlap():
    """No number occurs twice among the streams of many (epoch, cell) pairs."""
    draws = np.concatenate([numpy_draws(1, e, c, 1000) for e in range(10) for c in range(20)])
    assert len(np.unique(draws)) == draws.size


@pytest.mark.parametrize("bound", [1, 2, 3, 1000, 2**31, 2**53])
def test_below_stays_below(bound):
    for bits in (0, 1, 2**11 - 1, 2**63, MASK):
        value = random.below(np.uint64(bits), bound)
        assert 0 <= value < bound
    assert random.below(np.uint64(MASK), bound) == bound - 1
    assert random.below(np.uint64(0), bound) == 0


def test_mix_is_a_bijection_on_a_sample():
    x = np.arange(100_000, dtype=np.uint64)
    assert len(np.unique(plain(x))) == len(x)
