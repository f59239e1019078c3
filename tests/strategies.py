"""Hypothesis strategies that several test modules share."""

import numpy as np
from hypothesis import strategies as st

DUPLICATES = ("sum", "last", "mean", "max")


@st.composite
def records(draw, rows=12, columns=9, most=40):
    """(pairs, values): pairs in any order, repeats likely; values are small multiples of ¼, exact in any order."""
    pair = st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1))
    pairs = draw(st.lists(pair, max_size=most))
    values = draw(st.lists(st.integers(-20, 20), min_size=len(pairs), max_size=len(pairs)))
    dtype = draw(st.sampled_from([np.int32, np.int64, np.uint16]))
    return np.array(pairs, dtype).reshape(-1, 2), np.array(values, np.float64) / 4
