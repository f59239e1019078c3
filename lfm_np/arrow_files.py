"""Files as a data set of Arrow's, with the columns that the names of their folders give."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from lfm_np.validation import absolute


def data_set(name: str, filesystem: Any, format: Any, columns: Iterable[str]) -> ds.Dataset:
    """A folder, whose folders ``column=value`` give columns; or a file, to which those above it give what it lacks.

    Parameters
    ----------
    name : str
    filesystem : fsspec filesystem, optional
    format : str or FileFormat
    columns : iterable of str
        Those that are asked for.
    """
    options = {"filesystem": filesystem, "format": format}
    if filesystem is None:
        name = absolute(name)  # Arrow takes "day:1.csv" for a URI
    if not (os.path.isfile(name) if filesystem is None else filesystem.isfile(name)):
        return ds.dataset(name, partitioning="hive", **options)
    source = ds.dataset(name, **options)
    above = _named(name.replace(os.sep, "/").split("/")[:-1])
    lacking = [(column, _type_of(above[column])) for column in above.keys() & set(columns) - set(source.schema.names)]
    return ds.dataset(name, partitioning=ds.HivePartitioning(pa.schema(lacking)), **options) if lacking else source


def _named(folders: list[str]) -> dict[str, str]:
    """What folders ``column=value`` say."""
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _type_of(text: str) -> pa.DataType:
    """What Arrow makes of a folder's value: int32 where it reads one."""
    try:
        pa.scalar(text).cast(pa.int32())
    except pa.ArrowInvalid:
        return pa.string()
    return pa.int32()


def one_of(root: str, file: str, schema: pa.Schema) -> ds.Dataset:
    """A Parquet file of the folder ``root`` with the columns that it has there, of the types of ``schema``."""
    names = _named(os.path.relpath(file, root).split(os.sep)[:-1])
    keys = ds.HivePartitioning(pa.schema([field for field in schema if field.name in names]))
    options = ds.FileSystemFactoryOptions(partition_base_dir=root, partitioning=keys)
    return ds.FileSystemDatasetFactory(fs.LocalFileSystem(), [file], ds.ParquetFileFormat(), options).finish(schema)
