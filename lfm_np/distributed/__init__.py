"""Alternating least squares on several machines, by dask.distributed. Needs the extra ``distributed``."""

import importlib

from lfm_np.errors import missing_extra

for _name in ("distributed", "pyarrow"):  # before the modules that import them
    try:
        importlib.import_module(_name)
    except ImportError:
        raise missing_extra(_name, "distributed") from None

from lfm_np.distributed.als import als  # noqa: E402
from lfm_np.distributed.parquet import ShardedInteractions, from_parquet  # noqa: E402

__all__ = ["ShardedInteractions", "als", "from_parquet"]
