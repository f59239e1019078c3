"""Latent factor models on the CPU: exact ALS and deterministic parallel SGD for sparse matrices."""

import importlib
from types import ModuleType

import lfm_np._starting  # before all that takes time

# isort: split
import lfm_np.kernels.als_shares  # noqa: F401 (every kernel now, of the sources that the cache on disk hashes now)
from lfm_np import datasets, losses, sampling
from lfm_np._version import __version__
from lfm_np.als import als
from lfm_np.cells import build_dict, to_csr
from lfm_np.checkpoint import Checkpoint
from lfm_np.errors import SolverError
from lfm_np.evaluation import evaluate
from lfm_np.factors import Factors, Status
from lfm_np.interactions import Interactions
from lfm_np.memory import estimate_memory
from lfm_np.objective import objective
from lfm_np.recommendations import recommend_frame, recommend_parquet
from lfm_np.sgd import sgd
from lfm_np.stored import StoredMatrix

__all__ = [
    "Checkpoint",
    "Factors",
    "Interactions",
    "SolverError",
    "Status",
    "StoredMatrix",
    "__version__",
    "als",
    "build_dict",
    "datasets",
    "estimate_memory",
    "evaluate",
    "losses",
    "objective",
    "recommend_frame",
    "recommend_parquet",
    "sampling",
    "sgd",
    "to_csr",
]

_LAZY = (
    "ann",
    "distributed",
    "plots",
    "sklearn",
    "torch_backend",
)  # modules that need an extra: loaded on first access


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"lfm_np.{name}")
    raise AttributeError(f"module 'lfm_np' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
