"""Alternating least squares on several machines, by dask.distributed. Needs the extra ``distributed``."""

from lfm_np.distributed.als import als

__all__ = ["als"]
