"""Rows of Parquet files, read a batch at a time and only the columns in use: the files may exceed memory."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.dataset as ds

from datamodules.questions.arrow_rows import ArrowRows
from datamodules.questions.row import Row, list_columns

BATCH = 10_000  # rows that are Python values at once
SPARING = {  # of memory, which grows with the file where Arrow reads ahead
    "batch_readahead": 0,
    "fragment_readahead": 0,
    "fragment_scan_options": ds.ParquetFragmentScanOptions(pre_buffer=False),
    "use_threads": False,
}


class ParquetRows(Sequence[Row]):
    """Rows of a Parquet file, or of a folder with the parts of one table, read on access; only batches are held.

    Args:
        path: the file, or the folder; the names of folders in it may be columns, as in `year=2020`.
        columns: those that are wanted; dots lead into nested ones. Names that the table lacks are left out.
        expected: begins the message of an error.

    Raises:
        pyarrow.ArrowException, OSError: it is no Parquet file, or has none.

    Example:
        >>> rows = ParquetRows(Path("q.parquet"), ["question", "answer"], "expected a file")  # doctest: +SKIP
        >>> rows[3]  # doctest: +SKIP
        {'question': 'Who wrote Faust?', 'answer': 'Goethe'}
    """

    def __init__(self, path: Path, columns: Sequence[str], expected: str) -> None:
        named = ds.HivePartitioning.discover(infer_dictionary=True)
        self._table = ds.dataset(path, format="parquet", partitioning=named)
        self._expected = expected
        wanted = {name for column in columns for name in (column, column.split(".")[0])}
        self._columns = [name for name in self._table.schema.names if name in wanted]
        self._groups = [group for file in self._table.get_fragments() for group in file.split_by_row_group()]
        self._sizes = [group.row_groups[0].num_rows for group in self._groups]

    @property
    def names(self) -> list[str]:
        """All columns of the table, nested ones with dots."""
        return list(_list_names(self._table.schema))

    def __len__(self) -> int:
        return sum(self._sizes)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | Sequence[Row]:
        if isinstance(at, slice):
            numbers = range(*at.indices(len(self)))
            found = self.pick(numbers)
            return [found[number] for number in numbers]
        number = range(len(self))[at]
        return self.pick([number])[number]

    def __iter__(self) -> Iterator[Row]:
        for batch in self._read(list(self._table.get_fragments())):
            yield from self._convert(batch)

    def pick(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Read some rows, by their numbers, in one pass over the row groups that hold them."""
        found: dict[int, Row] = {}
        wanted, start = sorted(set(numbers)), 0
        for group, size in zip(self._groups, self._sizes, strict=True):
            inside = wanted[bisect_left(wanted, start) : bisect_left(wanted, start + size)]
            first = start
            for batch in self._read([group]) if inside else ():
                here = [number for number in inside if first <= number < first + len(batch)]
                if here:
                    rows = self._convert(batch.take(pa.array([number - first for number in here])))
                    found |= zip(here, rows, strict=True)
                first += len(batch)
            start += size
        return found

    def _read(self, parts: Sequence[Any]) -> Iterator[pa.RecordBatch]:
        """Batches of files or of their row groups."""
        try:
            for part in parts:
                yield from part.to_batches(self._table.schema, self._columns, batch_size=BATCH, **SPARING)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{self._expected}: {' '.join(str(error).split())}") from None

    def _convert(self, batch: pa.RecordBatch) -> ArrowRows:
        try:
            return ArrowRows(batch.to_pylist(), batch.schema)
        except (pa.ArrowException, OverflowError) as error:  # a day after the year 9999 overflows
            raise ValueError(f"{self._expected}: {error}") from None


def list_names(rows: Sequence[Row], some: Iterable[int]) -> Iterable[str]:
    """Columns of a Parquet file, or of some rows of another table."""
    return rows.names if isinstance(rows, ParquetRows) else (name for i in some for name in list_columns(rows[i]))


def pick_rows(rows: Sequence[Row], numbers: Sequence[int]) -> Sequence[Row] | Mapping[int, Row]:
    """What gives these rows by their numbers; those of a Parquet file are read in one pass."""
    return rows.pick(numbers) if isinstance(rows, ParquetRows) else rows


def _list_names(fields: Any, before: str = "") -> Iterator[str]:
    for field in fields:
        yield f"{before}{field.name}"
        if pa.types.is_struct(field.type):
            yield from _list_names(field.type, f"{before}{field.name}.")
