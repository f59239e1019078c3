"""Every check of every argument. The only package that raises for bad input.

Kernels index without bounds checks, so nothing reaches one before it has passed here. A message names the argument,
what was given and what is allowed. The caller's arrays are never changed: a matrix that needs sorting, summing or a
new dtype is copied.
"""

from lfm_np.validation.formats import share_csr, wrap_csr
from lfm_np.validation.matrices import MOST_ROWS, check_cells, check_matrix, frozen, read_only
from lfm_np.validation.models import check_bias, check_dense, check_dict, check_factors, check_init, check_records
from lfm_np.validation.rankings import check_length, check_negatives, check_row, check_seen
from lfm_np.validation.records import (
    as_ids,
    check_column,
    check_id,
    check_ids,
    check_mask,
    check_new_ids,
    check_pairs,
    check_positions,
    check_record_ids,
    check_shape,
    check_timestamps,
    check_values,
    check_whole,
    sorting,
)
from lfm_np.validation.scalars import (
    MAX_THREADS,
    as_array,
    check_bool,
    check_callback,
    check_choice,
    check_dtype,
    check_float,
    check_int,
    check_names,
    check_num_threads,
    check_path,
    check_random_state,
    shown,
)

__all__ = [
    "MAX_THREADS",
    "MOST_ROWS",
    "as_array",
    "as_ids",
    "check_bias",
    "check_bool",
    "check_callback",
    "check_cells",
    "check_choice",
    "check_column",
    "check_dense",
    "check_dict",
    "check_dtype",
    "check_factors",
    "check_float",
    "check_id",
    "check_ids",
    "check_init",
    "check_int",
    "check_length",
    "check_mask",
    "check_matrix",
    "check_names",
    "check_negatives",
    "check_new_ids",
    "check_num_threads",
    "check_pairs",
    "check_path",
    "check_positions",
    "check_random_state",
    "check_record_ids",
    "check_records",
    "check_row",
    "check_seen",
    "check_shape",
    "check_timestamps",
    "check_values",
    "check_whole",
    "frozen",
    "read_only",
    "share_csr",
    "shown",
    "sorting",
    "wrap_csr",
]
