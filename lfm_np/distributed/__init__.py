"""Alternating least squares on several machines, by dask.distributed. Needs the extra ``distributed``."""

from lfm_np.distributed.als import als
from lfm_np.distributed.parquet import ShardedInteractions, from_parquet

__all__ = ["ShardedInteractions", "als", "from_parquet"]
