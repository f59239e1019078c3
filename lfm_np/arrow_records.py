"""From batches of Arrow records to cells."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from lfm_np import validation as check
from lfm_np.cells import cells_of, ids_in, matrix_of
from lfm_np.signals import pass_on

if TYPE_CHECKING:
    import pyarrow as pa

    from lfm_np.interactions import Interactions
    from lfm_np.reading import Plan


def assemble(
    cls: type[Interactions], plan: Plan, schema: pa.Schema, batches: Iterable[pa.RecordBatch], backend: str | None
) -> Interactions:
    from lfm_np.id_columns import IdEncoder, joined

    users, items = (IdEncoder(argument, schema.field(plan.names[argument]).type) for argument in ("user", "item"))
    values: list[np.ndarray] = []
    times: list[pa.Array] = []
    for batch in without_nulls(plan, batches):
        users.add(batch.column(plan.names["user"]))
        items.add(batch.column(plan.names["item"]))
        if "value" in plan.names:
            values.append(numbers("value", plan.names["value"], batch))
        if "timestamp" in plan.names:
            times.append(batch.column(plan.names["timestamp"]))
    user_ids, rows = users.finish()
    item_ids, columns = items.finish()
    del users, items
    value = None
    if "value" in plan.names:
        whole = joined(values, np.dtype(np.float64))
        value = check.check_values("value", whole, len(rows), unknown=True, noun=plan.noun)
    timestamps = _times(times, schema.field(plan.names["timestamp"]).type) if "timestamp" in plan.names else None
    cells = cells_of(rows, columns, value, timestamps, plan.duplicates, ids_in(user_ids, item_ids))
    del rows, columns, value, timestamps
    matrix = matrix_of(cells, (len(user_ids), len(item_ids)))
    return cls._own(matrix, user_ids, item_ids, cells.timestamps, backend).core(*plan.least)


def without_nulls(plan: Plan, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches without the records that have nulls; at the end ValueError if there were some and they must not be."""
    import pyarrow.compute as pc

    counts = dict.fromkeys(plan.required, 0)
    records = 0
    for batch in batches:
        check_arrow(batch)
        records += len(batch)
        nulls = {name: pc.is_null(batch.column(plan.names[name]), nan_is_null=True) for name in plan.required}
        for argument, null in nulls.items():
            counts[argument] += null.true_count
        bad = functools.reduce(pc.or_, nulls.values())
        yield batch.filter(pc.invert(bad)) if bad.true_count else batch
    if plan.nulls != "drop" and any(counts.values()):
        found = ", ".join(f"{count} in {plan.names[argument]!r}" for argument, count in counts.items() if count)
        keep = "; nulls='keep' makes values and times unknown" if plan.nulls == "error" else ""
        raise ValueError(f"of {records} records some have nulls: {found}. nulls='drop' leaves these records out{keep}")


def check_arrow(data: Any) -> None:
    """Offsets, dictionaries and UTF-8, which no reader of Arrow looks at before it follows them."""
    import pyarrow as pa

    try:
        data.validate(full=True)
    except pa.ArrowException as error:
        pass_on(error)
        raise ValueError(f"the data hold an invalid Arrow array: {error}") from None


def numbers(argument: str, name: str, batch: pa.RecordBatch) -> np.ndarray:
    """The column of that name as float64, NaN where null."""
    import pyarrow as pa

    types, column = pa.types, batch.column(name)
    tests = types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null
    if not any(test(column.type) for test in tests):
        raise TypeError(f"{argument} must be a column of numbers, got {column.type} in {name!r}{_example(column)}")
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _example(column: pa.Array) -> str:
    """The first text that is no number; of other columns the type says enough."""
    import pyarrow as pa

    types = pa.types
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not any(test(kind) for test in (types.is_string, types.is_large_string, types.is_string_view)):
        return ""
    first = next((text for text in column.to_pylist() if not _is_number(text)), None)
    return "" if first is None else f", such as {check.shown(first)}"


def _is_number(text: str | None) -> bool:
    try:
        return text is None or isinstance(float(text), float)
    except ValueError as error:
        pass_on(error)
        return False


def _times(parts: list[pa.Array], type: pa.DataType) -> np.ndarray:
    """Integers, floats (NaN where null) or datetime64 (NaT where null)."""
    import pyarrow as pa

    types = pa.types
    kinds = types.is_integer, types.is_floating, types.is_timestamp, types.is_date, types.is_null
    if not any(test(type) for test in kinds):
        raise TypeError(f"timestamp must be a column of integers, floats, dates or times, got {type}")
    column = pa.chunked_array(parts, type)
    if types.is_null(type):  # a column without a single time
        column = column.cast(pa.float64())
    if types.is_integer(type) and column.null_count:
        with contextlib.suppress(pa.ArrowInvalid):
            return column.cast(pa.float64()).to_numpy()
        raise ValueError("timestamp has nulls beside integers beyond 2⁵³; make it a column of times, or nulls='drop'")
    return column.to_numpy()
