"""Hypothesis strategies that several test modules share."""

import numpy as np
import scipy.sparse as sp
from hypothesis import settings
from hypothesis import strategies as st

DUPLICATES = ("sum", "last", "mean", "max", "count")


def examples(count):
    """Settings for a property that CI tries ``count`` times and ``--hypothesis-profile=thorough`` 100,000 times."""
    usual = settings.default.max_examples == 100  # Hypothesis's own number
    return settings(max_examples=count if usual else settings.default.max_examples)


many = examples(2000)


@st.composite
def records(draw, rows=12, columns=9, most=40):
    """(pairs, values): pairs in any order, repeats likely; values are small multiples of ¼, exact in any order."""
    pair = st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1))
    pairs = draw(st.lists(pair, max_size=most))
    values = draw(st.lists(st.integers(-20, 20), min_size=len(pairs), max_size=len(pairs)))
    dtype = draw(st.sampled_from([np.int32, np.int64, np.uint16]))
    return np.array(pairs, dtype).reshape(-1, 2), np.array(values, np.float64) / 4


@st.composite
def csr_matrices(draw, rows=40, columns=40, most=120, values=(0.25, 0.5, 1.0, 2.0, 5.0), least=0):
    """Canonical csr_array of shape 0 … rows × 0 … columns with positive values; empty rows and columns are likely."""
    m, n = draw(st.integers(least, rows)), draw(st.integers(least, columns))
    cells = st.tuples(st.integers(0, max(m - 1, 0)), st.integers(0, max(n - 1, 0)))
    chosen = sorted(draw(st.sets(cells, max_size=most))) if m and n else []
    data = draw(st.lists(st.sampled_from(values), min_size=len(chosen), max_size=len(chosen)))
    coordinates = np.array(chosen, np.int64).reshape(-1, 2)
    return sp.csr_array((np.array(data, np.float64), (coordinates[:, 0], coordinates[:, 1])), shape=(m, n))


@st.composite
def als_settings(draw, smallest=1e-8, largest=1e8):
    """Keyword arguments of als that every matrix of positive values allows."""
    weighting = draw(st.sampled_from(["hu-koren", "ials", "confidence", "ratings"]))
    logs = st.floats(np.log10(smallest), np.log10(largest))
    return {
        "weighting": weighting,
        "regularization": 10 ** draw(logs),
        "alpha": draw(st.sampled_from([0.0, 0.3, 1.0, 40.0])),
        "unobserved_weight": 0.0 if weighting == "ratings" else draw(st.sampled_from([0.0, 0.1, 1.0, 3.0])),
        "regularization_exponent": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "factors": draw(st.sampled_from([1, 3, 16, 17])),
    }


@st.composite
def raw_csr(draw, rows=5, columns=5):
    """Any csr_array: both index types, rows unsorted, cells twice, zeros, strange values, and sometimes corrupt."""
    m, n = draw(st.integers(0, rows)), draw(st.integers(1, columns))
    lengths = draw(st.lists(st.integers(0, 4), min_size=m, max_size=m))
    stored = sum(lengths)
    good = st.lists(st.integers(0, n - 1), min_size=stored, max_size=stored)
    ascending = st.tuples(*(st.sets(st.integers(0, n - 1), min_size=min(s, n), max_size=min(s, n)) for s in lengths))
    indices = draw(good | ascending.map(lambda sets: [j for row in sets for j in sorted(row)]))
    lengths = lengths if len(indices) == stored else [min(s, n) for s in lengths]
    value = st.sampled_from([1.0, 0.5, 3.0] * 3 + [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 1e-45, 3e38])
    kind = draw(st.sampled_from([np.float32, np.float32, np.float64, np.int64]))
    data = draw(
        st.lists(value if kind != np.int64 else st.integers(-1, 3), min_size=len(indices), max_size=len(indices))
    )
    index = draw(st.sampled_from([np.int32, np.int64]))
    X = sp.csr_array((m, n), dtype=kind)
    X.data, X.indices = np.array(data, kind), np.array(indices, index)
    X.indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(index)
    broken = draw(st.sampled_from([None] * 6 + ["indices", "indptr"]))
    array = getattr(X, broken) if broken else []
    if len(array):
        array[draw(st.integers(0, len(array) - 1))] = draw(st.sampled_from([-1, n, 7, 100, 2**31 - 1]))
    return X
