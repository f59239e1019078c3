"""The same fits by the libraries that are installed, judged leniently.

Any exception that is not an accident (`problems.LENIENT`) counts as a clear refusal, whatever it says, also of input
that lfm_np accepts; so only silence, crashes, hangs, accidents and changed data count against a peer.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import scipy.sparse as sp

from . import problems
from .case import Case
from .problems import Solver

Result = tuple[np.ndarray, np.ndarray]


def _csr(X: Any) -> Any:
    """The class that peers know, sharing the arrays where X is CSR."""
    if not sp.issparse(X) or X.format != "csr":
        return X
    other = sp.csr_matrix(X.shape, dtype=X.dtype if X.dtype.kind in "biuf" and X.dtype.isnative else np.float32)
    other.data, other.indices, other.indptr = X.data, X.indices, X.indptr
    return other


def implicit_als(X: Any, **w: Any) -> Result:
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=w["factors"],
        regularization=w["regularization"],
        alpha=w["alpha"],
        iterations=w["iterations"],
        num_threads=w["threads"],
        random_state=w["seed"],
        use_cg=False,
    )
    model.fit(_csr(X), show_progress=False)
    return np.asarray(model.user_factors, float), np.asarray(model.item_factors, float)


def implicit_bpr(X: Any, **w: Any) -> Result:
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=w["factors"],
        regularization=w["regularization"],
        iterations=w["iterations"],
        num_threads=w["threads"],
        random_state=w["seed"],
    )
    model.fit(_csr(X), show_progress=False)
    return np.asarray(model.user_factors, float), np.asarray(model.item_factors, float)


def irspack_ials(X: Any, **w: Any) -> Result:
    from irspack import IALSRecommender

    model = IALSRecommender(
        _csr(X),
        n_components=w["factors"],
        alpha0=0.1,
        reg=w["regularization"],
        train_epochs=w["iterations"],
        n_threads=w["threads"],
        random_seed=w["seed"],
        solver_type="CHOLESKY",
    )
    model.learn()
    return np.asarray(model.get_user_embedding(), float), np.asarray(model.get_item_embedding(), float)


def lightfm_bpr(X: Any, **w: Any) -> Result:
    from lightfm import LightFM

    model = LightFM(
        no_components=w["factors"],
        loss="bpr",
        user_alpha=w["regularization"],
        item_alpha=w["regularization"],
        random_state=w["seed"],
    )
    model.fit(_csr(X), epochs=w["iterations"], num_threads=w["threads"])
    return np.asarray(model.user_embeddings, float), np.asarray(model.item_embeddings, float)


def cmfrec_implicit(X: Any, **w: Any) -> Result:
    from cmfrec import CMF_implicit

    model = CMF_implicit(
        k=w["factors"],
        lambda_=w["regularization"],
        alpha=w["alpha"],
        niter=w["iterations"],
        nthreads=w["threads"],
        random_state=w["seed"],
        use_cg=False,
        verbose=False,
    )
    model.fit(_csr(X).tocoo() if sp.issparse(X) else X)
    return np.asarray(model.A_, float), np.asarray(model.B_, float)


PLAIN = {"factors": "", "regularization": "", "iterations": "", "threads": "", "seed": ""}
PEERS = {
    "implicit als": ("implicit", implicit_als, PLAIN | {"alpha": ""}),
    "implicit bpr": ("implicit", implicit_bpr, PLAIN),
    "irspack ials": ("irspack", irspack_ials, PLAIN),
    "lightfm bpr": ("lightfm", lightfm_bpr, PLAIN),
    "cmfrec": ("cmfrec", cmfrec_implicit, PLAIN | {"alpha": ""}),
}


def cases() -> list[Case]:
    """The cases of `problems` for every peer that is installed."""
    found = []
    for name, (package, fit, names) in PEERS.items():
        ordered = name.endswith("bpr")
        if importlib.util.find_spec(package):
            importlib.import_module(package)  # before the processes are forked
            found += problems.cases(Solver(name, fit, names, lenient=True, ordered=ordered))
    return found
