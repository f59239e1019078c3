"""Files as a data set of Arrow's, with the columns that the names of their folders give."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from lfm_np import paths
from lfm_np.id_columns import workable_type
from lfm_np.reading import without_query
from lfm_np.signals import signals_held
from lfm_np.validation import absolute

_PACKED = {".gz": ".gz", ".bz2": ".bz2", ".zst": ".zstd"}  # what files end in, in any case, and what Arrow knows it by
_NULL = "__HIVE_DEFAULT_PARTITION__"  # what a folder says where there is no value


def data_set(name: str, filesystem: Any, format: Any, columns: Mapping[str, str]) -> ds.Dataset:
    """A folder, whose folders ``column=value`` give columns; or a file, to which those above it give what it lacks.

    Parameters
    ----------
    name : str
    filesystem : fsspec filesystem, optional
    format : str or FileFormat
    columns : mapping of str to str
        Those that are asked for, by what they are: user, item, value, timestamp.
    """
    options = {"filesystem": filesystem or fs.LocalFileSystem(), "format": format}
    if filesystem is None:
        name = absolute(name)  # Arrow takes "day:1.csv" for a URI
    folder = not _is_file(name, filesystem)
    names = _files_below(name, filesystem, format) if folder else [name]
    if format != "parquet" and any(map(_alias, names)):
        name, options["filesystem"] = name if folder else name + _alias(name), _renamed(filesystem)
    if folder:
        return _of_folder(name, options, columns)
    source = ds.dataset(name, **options)
    above = _named(name.replace(os.sep, "/").split("/")[:-1])
    lacking = above.keys() & set(columns.values()) - set(source.schema.names)
    told = _told(format)
    keys = pa.schema([(key, told.get(key) or _type_of([above[key]], key, columns)) for key in lacking])
    return ds.dataset(name, partitioning=ds.HivePartitioning(keys), **options) if lacking else source


def _of_folder(name: str, options: dict[str, Any], columns: Mapping[str, str]) -> ds.Dataset:
    """All files below a folder. What its folders say is of the type that the files have it in, if they have it too."""
    told = _told(options["format"])
    try:
        source = ds.dataset(name, partitioning="hive", **options)
        types = {field.name: field.type for field in source.schema}
        texts = any(types.get(columns.get(argument, "")) == pa.string() for argument in ("value", "timestamp"))
        if not texts and all(types.get(column, type) == type for column, type in told.items()):
            return source
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # as of types that differ
        pass
    files = ds.dataset(name, **options)
    said: dict[str, list[str]] = {}
    for file in files.files:
        for column, text in _named(file.removeprefix(name.replace(os.sep, "/")).split("/")[:-1]).items():
            said.setdefault(column, []).append(text)
    schema = files.schema
    for column, values in said.items():
        if (place := schema.get_field_index(column)) < 0:
            schema = schema.append(pa.field(column, told.get(column) or _type_of(values, column, columns)))
        else:
            schema = schema.set(place, pa.field(column, workable_type(schema.field(place).type)))
    keys = ds.HivePartitioning(pa.schema([field for field in schema if field.name in said]))
    return ds.dataset(name, schema=schema, partitioning=keys, **options)


def _told(format: Any) -> dict[str, pa.DataType]:
    """The types of columns of CSV that are not to be guessed."""
    if format == "parquet":
        return {}
    types = format.default_fragment_scan_options.convert_options.column_types
    return {name: workable_type(type) for name, type in types.items()}


def _alias(name: str) -> str:
    """What to add to a file's name, that Arrow knows how it is packed; nothing where it does."""
    known = _PACKED.get(os.path.splitext(without_query(name))[1].lower(), "")
    return "" if name.endswith(known) else known


def _is_file(name: str, filesystem: Any) -> bool:
    if filesystem is None:
        return paths.is_file(name)
    with signals_held():  # fsspec takes whatever is raised for a "no"
        return filesystem.isfile(name)


def _files_below(folder: str, filesystem: Any, format: Any) -> list[str]:
    """The names of all files, of a folder elsewhere unless they are Parquet files, whose names say nothing."""
    if filesystem is None:
        return paths.files_below(folder)  # also because it refuses links in circles
    with signals_held():
        return [] if format == "parquet" else filesystem.find(folder)


def _renamed(filesystem: Any) -> fs.PyFileSystem:
    """The file system, in which files have names that Arrow knows."""
    within = fs.LocalFileSystem() if filesystem is None else fs.PyFileSystem(fs.FSSpecHandler(filesystem))
    return fs.PyFileSystem(_Renamed(within))


class _Renamed(fs.FSSpecHandler):
    """Of a file system of Arrow's, to read only; fsspec's own local one does not see what links in a folder lead to."""

    def get_type_name(self) -> str:
        return "renamed"

    def normalize_path(self, path: str) -> str:
        return self.fs.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [_called(path, info) for path, info in zip(paths, self.fs.get_file_info(list(map(_own, paths))))]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return [_called(info.path + _alias(info.path), info) for info in self.fs.get_file_info(selector)]

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.fs.open_input_stream(_own(path), compression=None)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self.fs.open_input_file(_own(path))


def _own(path: str) -> str:
    """The name without its alias."""
    name, ending = os.path.splitext(path)
    return name if ending and _alias(name) == ending else path


def _called(path: str, info: fs.FileInfo) -> fs.FileInfo:
    return fs.FileInfo(path, info.type, size=info.size, mtime=info.mtime)


def _named(folders: list[str]) -> dict[str, str]:
    """What folders ``column=value`` say."""
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _type_of(texts: list[str], column: str, columns: Mapping[str, str]) -> pa.DataType:
    """Of what folders say: int32 where Arrow reads such in all, as it does itself; numbers and times as asked for."""
    kinds = [pa.int32()]
    if column not in (columns["user"], columns["item"]):
        kinds += [pa.float64()] * (column == columns.get("value"))
        kinds += [pa.int64(), pa.float64(), pa.timestamp("us")] * (column == columns.get("timestamp"))
    known = pa.array([text for text in texts if text != _NULL], pa.string())
    for kind in kinds if len(known) else ():
        with contextlib.suppress(pa.ArrowInvalid):
            return known.cast(kind).type
    return pa.string()


def one_of(root: str, file: str, schema: pa.Schema) -> ds.Dataset:
    """A Parquet file of the folder ``root`` with the columns that it has there, of the types of ``schema``."""
    names = _named(os.path.relpath(file, root).split(os.sep)[:-1])
    keys = ds.HivePartitioning(pa.schema([field for field in schema if field.name in names]))
    options = ds.FileSystemFactoryOptions(partition_base_dir=root, partitioning=keys)
    return ds.FileSystemDatasetFactory(fs.LocalFileSystem(), [file], ds.ParquetFileFormat(), options).finish(schema)
