"""Parquet tables: read whole or by ranges of rows, written whole, list columns as tensors."""

from __future__ import annotations

import bisect
import contextlib
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from deformlearn.errors import InputError
from deformlearn.files import AnyPath, write_atomically

BATCH = 8192
"""Rows decoded at once: enough to be fast, few enough to be small."""
_BUFFER = 1 << 20
"""Bytes read ahead of a column on a local disk, so that no column is ever held whole."""


def read_table(path: AnyPath, columns: list[str]) -> pa.Table:
    """The named columns of one shard; a truncated or foreign file is an InputError."""
    with opened(path, columns) as file, _readable(path):
        return file.read(columns)


@contextlib.contextmanager
def opened(
    path: AnyPath, columns: Sequence[str] = (), *, verified: bool = True
) -> Iterator[pq.ParquetFile]:
    """A Parquet file that has these columns, ready to be read; any other is an InputError.

    Pages that have changed since they were written are refused when they are read, if `verified`.
    """
    with contextlib.ExitStack() as stack:
        with _readable(path):
            if isinstance(path, Path):
                file = pq.ParquetFile(
                    path, buffer_size=_BUFFER, page_checksum_verification=verified
                )
            else:
                # Few large requests, not many small ones.
                source = stack.enter_context(path.open("rb"))
                file = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=verified)
            stack.enter_context(file)
            missing = [name for name in columns if name not in file.schema_arrow.names]
            if missing:
                raise pa.ArrowInvalid(f"it has no column {missing[0]}")
        yield file


def row_count(path: AnyPath) -> int:
    """How many rows a table has."""
    with opened(path) as file:
        return file.metadata.num_rows


def read_batches(
    path: AnyPath, columns: list[str], rows: int = BATCH, *, verified: bool = True
) -> Iterator[pa.Table]:
    """The whole table, no more than `rows` rows at a time (`verified` as for `opened`)."""
    with opened(path, columns, verified=verified) as file:
        for _, table in _batches(file, path, range(file.num_row_groups), columns, rows):
            yield table


def read_ranges(path: AnyPath, ranges: Sequence[range], columns: list[str]) -> Iterator[pa.Table]:
    """The rows of each range, in order. The ranges hold some row, ascend and do not overlap.

    Row groups that hold none of them are passed over, and no more than a batch is decoded at once.
    """
    with opened(path, columns) as file:
        wanted = iter(ranges)
        now = next(wanted, None)
        pieces: list[pa.Table] = []
        for start, table in _batches(file, path, _groups(file, ranges), columns, BATCH):
            while now is not None and now.start < start + len(table):
                first, last = max(now.start, start), min(now.stop, start + len(table))
                pieces.append(table.slice(first - start, max(last - first, 0)))
                if now.stop > start + len(table):
                    break
                yield pa.concat_tables(pieces)
                pieces, now = [], next(wanted, None)
            if now is None:
                return  # nobody wants the rest of the row group
        if now is not None:
            raise InputError(
                f"{path} has {file.metadata.num_rows} rows, row {now.stop - 1} was wanted; "
                f"it was changed while it was read"
            )


def _groups(file: pq.ParquetFile, ranges: Sequence[range]) -> Iterator[int]:
    """The row groups that hold some row of the ranges."""
    start = 0
    stops = [one.stop for one in ranges]
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        first = bisect.bisect_right(stops, start)
        if first < len(ranges) and ranges[first].start < stop:
            yield group
        start = stop


def _batches(
    file: pq.ParquetFile, path: AnyPath, groups: Iterable[int], columns: list[str], rows: int
) -> Iterator[tuple[int, pa.Table]]:
    """Every batch of some row groups, with the number of its first row in the file."""
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    starts = [0, *accumulate(sizes)]
    for group in groups:
        row = starts[group]
        batches = file.iter_batches(rows, row_groups=[group], columns=columns)
        while True:
            with _readable(path):
                batch = next(batches, None)
            if batch is None:
                break
            yield row, pa.Table.from_batches([batch])
            row += len(batch)


@contextlib.contextmanager
def _readable(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is not a whole Parquet shard ({reason}); "
            f"write it again, or delete it to go on without its rows"
        ) from error


def typed(path: AnyPath, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in the types of a schema: other writers' doubles and large lists are welcome."""
    wanted = pa.schema([schema.field(name) for name in table.column_names])
    if table.schema.equals(wanted):
        return table
    with _readable(path):
        return table.cast(wanted)


def facts(path: AnyPath) -> dict[str, int | None]:
    """Size, rows and checksum of the footer, which knows every column's extent and statistics.

    This tells one version of a file from another without reading it. Of a file that is not whole only
    the size is known.
    """
    size = path.stat().st_size
    try:
        with opened(path) as file:
            rows, length = file.metadata.num_rows, file.metadata.serialized_size
    except InputError:
        return {"bytes": size, "rows": None, "footer": None}
    with path.open("rb") as content:
        content.seek(-min(length + 8, size), io.SEEK_END)
        footer = content.read()
    return {"bytes": size, "rows": rows, "footer": zlib.crc32(footer)}


def write_table(path: AnyPath, table: pa.Table, *, words: Sequence[str] = ()) -> AnyPath:
    """Write one shard; `words` are the columns whose values occur again and again."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **written(words))
    write_atomically(path, sink.getvalue().to_pybytes())
    return path


def written(words: Sequence[str]) -> dict:
    """How tables are written: a dictionary of floats, which hardly ever repeat, costs much for nothing.

    Checksums tell a page that a disk or a copy has changed from a person at another place.
    """
    return {
        "compression": "zstd", "use_dictionary": list(words) or False, "write_page_checksum": True,
    }  # fmt: skip


def column(table: pa.Table, name: str) -> Tensor:
    """A column of numbers as (rows,), or one of lists of equal length as (rows, length)."""
    values = table[name].combine_chunks()
    if pa.types.is_list(values.type):
        return torch.from_numpy(values.flatten().to_numpy().copy()).reshape(len(values), -1)
    return torch.from_numpy(values.to_numpy(zero_copy_only=False).copy())


def padded(table: pa.Table, name: str) -> Tensor:
    """A column of lists as (rows, longest), zeros where a row is shorter."""
    values = table[name].combine_chunks()
    lengths = np.diff(values.offsets.to_numpy())
    flat = values.flatten().to_numpy()
    width = max(int(lengths.max(initial=0)), 1)
    if len(flat) == len(lengths) * width:
        return torch.from_numpy(flat.copy()).reshape(len(lengths), width)
    full = np.zeros((len(lengths), width), flat.dtype)
    full[np.arange(width) < lengths[:, None]] = flat
    return torch.from_numpy(full)


def lists(values: Tensor) -> pa.Array:
    """(rows, length) numbers as a column of lists."""
    flat = values.detach().cpu().contiguous().numpy()
    offsets = np.arange(len(flat) + 1, dtype=np.int32) * flat.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat.ravel()))


def repeated(words: pa.Array) -> np.ndarray:
    """Whether each word stands in an earlier row; none may be null."""
    codes = words.dictionary_encode().indices.to_numpy()
    # Codes are given in the order of first sight: a new word has a higher one than all before it.
    again = np.zeros(len(codes), bool)
    again[1:] = codes[1:] <= np.maximum.accumulate(codes[:-1])
    return again
