"""Latent factor models on the CPU: exact ALS and deterministic parallel SGD for sparse matrices."""

from lfm_np._version import __version__
from lfm_np.errors import SolverError
from lfm_np.factors import Factors, Status

__all__ = ["Factors", "SolverError", "Status", "__version__"]
