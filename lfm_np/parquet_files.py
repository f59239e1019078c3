"""The records of a data set of Parquet files, in batches that need little memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lfm_np.id_columns import workable_type
from lfm_np.signals import pass_on

_BUFFER = 1 << 18  # bytes of a column's file that are read at once


def parquet_batches(
    source: ds.Dataset, schema: pa.Schema, columns: Sequence[str], size: int
) -> Iterator[pa.RecordBatch]:
    """The columns, of the types of ``schema``, at most ``size`` records at once, one file after another.

    The scanner of a data set decodes whole row groups, and the next beside them: of ten million records that took 120
    MiB where this takes 18, and no less time.
    """
    fields = [_field(schema, name) for name in columns]
    for fragment in source.get_fragments():
        keys = ds.get_partition_keys(fragment.partition_expression)
        with fragment.open() as file:
            reader = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)
            names = reader.schema_arrow.names
            own = [name for name in columns if name in names and name not in keys]
            for batch in reader.iter_batches(size, columns=own, use_threads=False):
                yield pa.RecordBatch.from_arrays(
                    [_column(batch, field, keys) for field in fields], schema=pa.schema(fields)
                )


def common_schema(source: ds.Dataset, names: Mapping[str, str]) -> pa.Schema:
    """The data set's schema, in types that hold what every file has; Arrow takes those of the first file.

    Parameters
    ----------
    source : Dataset
        Of Parquet files.
    names : mapping of str to str
        The column of each argument. Ids that are floats in some files and integers in others are integers: pandas makes
        floats of integers some of which are null.
    """
    found: dict[str, dict[pa.DataType, None]] = {name: {} for name in names.values()}
    for fragment in source.get_fragments():
        keys = ds.get_partition_keys(fragment.partition_expression)
        with fragment.open() as file:
            own = _schema_of(file, fragment.path)
        for name in set(found).intersection(own.names).difference(keys):
            type = own.types[own.names.index(name)]
            found[name][type.value_type if pa.types.is_dictionary(type) else type] = None
    schema = source.schema
    for argument, name in names.items():
        if len(types := list(found[name])) > 1 or (types and name not in schema.names):
            field, place = _merged(name, types, argument in ("user", "item")), schema.get_field_index(name)
            schema = schema.append(field) if place < 0 else schema.set(place, field)
        if (place := schema.get_field_index(name)) >= 0:
            schema = schema.set(place, pa.field(name, workable_type(schema.field(place).type, argument)))
    return schema


def _schema_of(file: pa.NativeFile, path: str) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except pa.ArrowException as error:
        pass_on(error)
        raise pa.ArrowInvalid(f"{path}: {error}") from None


def _merged(name: str, types: list[pa.DataType], ids: bool) -> pa.Field:
    if ids and any(map(pa.types.is_integer, types)):
        types = [type for type in types if not pa.types.is_floating(type)]
    return pa.unify_schemas([pa.schema([(name, type)]) for type in types], promote_options="permissive").field(0)


def _field(schema: pa.Schema, name: str) -> pa.Field:
    if len(schema.get_all_field_indices(name)) > 1:
        raise pa.ArrowInvalid(f"several columns have the name {name!r}")
    return schema.field(name)


def _column(batch: pa.RecordBatch, field: pa.Field, keys: dict[str, object]) -> pa.Array:
    """A column of the file, or what the names of its folders say, or nulls."""
    if field.name in batch.schema.names:
        try:
            return batch.column(field.name).cast(field.type)
        except pa.ArrowException as error:
            pass_on(error)
            raise pa.ArrowInvalid(f"column {field.name!r}, which other files have as {field.type}: {error}") from None
    return pa.repeat(pa.scalar(keys.get(field.name), field.type), len(batch))
