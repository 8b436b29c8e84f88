"""Rows of Arrow columns, in which numbers of two and four bytes keep their original digits."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa

from datamodules.questions.row import Row


class ArrowRows(Sequence[Row]):
    """Rows of a table, read on access.

    Arrow returns every number with eight bytes: 0.1 of four bytes becomes 0.10000000149011612. This class returns 0.1
    for such columns; numbers of eight bytes are unchanged.

    Args:
        rows: rows of the table, as Python values.
        schema: types of its columns.

    Example:
        >>> table = pa.table({"x": pa.array([0.1], pa.float32())})
        >>> ArrowRows(table.to_pylist(), table.schema)[0]
        {'x': 0.1}
    """

    def __init__(self, rows: Sequence[Row], schema: pa.Schema) -> None:
        self._rows = rows
        self._short = {field.name: field.type for field in schema if _holds_short(field.type)}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | Sequence[Row]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return self._restore_row(self._rows[at])

    def __iter__(self) -> Iterator[Row]:
        return map(self._restore_row, self._rows)

    def _restore_row(self, row: Row) -> Row:
        if not self._short:
            return row
        return {**row, **{name: _restore(row[name], kind) for name, kind in self._short.items()}}


def _holds_short(kind: pa.DataType) -> bool:
    kind = _unwrap(kind)
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        return True
    return any(_holds_short(kind.field(i).type) for i in range(kind.num_fields))


def _restore(cell: Any, kind: pa.DataType) -> Any:
    kind = _unwrap(kind)
    if cell is None or not _holds_short(kind):
        return cell
    if pa.types.is_float16(kind):
        return float(str(np.float16(cell)))
    if pa.types.is_float32(kind):
        return float(str(np.float32(cell)))
    if pa.types.is_struct(kind):
        return {field.name: _restore(cell[field.name], field.type) for field in kind}
    if pa.types.is_map(kind):
        return [(_restore(key, kind.key_type), _restore(item, kind.item_type)) for key, item in cell]
    return [_restore(one, kind.value_type) for one in cell]


def _unwrap(kind: pa.DataType) -> pa.DataType:
    """Return a type without extension and dictionary encoding."""
    if isinstance(kind, pa.BaseExtensionType):
        return _unwrap(kind.storage_type)
    return _unwrap(kind.value_type) if pa.types.is_dictionary(kind) else kind
