"""Rows of a Parquet file, read a batch at a time and only the columns in use: the file may exceed memory."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.questions.arrow_rows import ArrowRows
from datamodules.questions.row import Row, list_columns

BATCH = 10_000  # rows that are Python values at once


class ParquetRows(Sequence[Row]):
    """Rows of a Parquet file, read on access; no more than a batch is held.

    Args:
        file: the file.
        columns: those that are wanted; dots lead into nested ones. Names that the file lacks are left out.
        expected: begins the message of an error.

    Raises:
        pyarrow.ArrowException, OSError: the file is no Parquet file.

    Example:
        >>> rows = ParquetRows(Path("q.parquet"), ["question", "answer"], "expected a file")  # doctest: +SKIP
        >>> rows[3]  # doctest: +SKIP
        {'question': 'Who wrote Faust?', 'answer': 'Goethe'}
    """

    def __init__(self, file: Path, columns: Sequence[str], expected: str) -> None:
        self._file = pq.ParquetFile(file)
        self._expected = expected
        wanted = {name for column in columns for name in (column, column.split(".")[0])}
        self._columns = [name for name in self._file.schema_arrow.names if name in wanted]
        groups = range(self._file.num_row_groups)
        self._sizes = [self._file.metadata.row_group(group).num_rows for group in groups]

    @property
    def names(self) -> list[str]:
        """All columns of the file, nested ones with dots."""
        return list(_list_names(self._file.schema_arrow))

    def __len__(self) -> int:
        return self._file.metadata.num_rows

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
        for batch in self._read(list(range(len(self._sizes)))):
            yield from self._convert(batch)

    def pick(self, numbers: Sequence[int]) -> dict[int, Row]:
        """Read some rows, by their numbers, in one pass over the row groups that hold them."""
        found: dict[int, Row] = {}
        wanted, start = sorted(set(numbers)), 0
        for group, size in enumerate(self._sizes):
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

    def _read(self, groups: list[int]) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._file.iter_batches(BATCH, row_groups=groups, columns=self._columns, use_threads=False)
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
