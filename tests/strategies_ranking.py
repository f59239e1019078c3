"""Hypothesis strategies for factors."""

import numpy as np
from hypothesis import strategies as st


@st.composite
def factor_models(draw, users=8, items=70, factors=20):
    """(U, V, biases as keywords): of very different spectra, with ties, equal rows, huge ranges and tight bounds."""
    m, n, k = draw(st.integers(1, users)), draw(st.integers(1, items)), draw(st.integers(0, factors))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    kind = draw(st.sampled_from(["decaying", "flat", "tied", "range", "equal", "parallel"]))
    U, V = rng.normal(size=(m, k)), rng.normal(size=(n, k))
    if kind == "decaying":
        V *= 0.7 ** np.arange(k) * rng.pareto(1.0, size=(n, 1))
    elif kind == "flat":
        V /= np.maximum(np.linalg.norm(V, axis=1, keepdims=True), 1e-9)
    elif kind == "tied":
        U, V = np.round(U), np.round(V)
    elif kind == "range":
        U, V = U * 10.0 ** rng.integers(-12, 8, (m, 1)), V * 10.0 ** rng.integers(-25, 8, (n, 1))
    elif kind == "parallel":  # where u·v = ±‖u‖‖v‖, the bounds are tight
        direction = rng.normal(size=k)
        U, V = rng.normal(size=(m, 1)) * direction, rng.normal(size=(n, 1)) * direction
    else:
        V = np.repeat(V[: n // 3 + 1], 3, axis=0)[:n]
    biases = {}
    if draw(st.booleans()):
        biases["item_bias"] = np.round(rng.normal(size=n) * 3, draw(st.integers(0, 3))).astype(dtype)
    if draw(st.booleans()):
        biases["user_bias"] = (rng.normal(size=m) * 100).astype(dtype)
    if draw(st.booleans()):
        biases["global_bias"] = 3.5
    return U.astype(dtype), V.astype(dtype), biases
