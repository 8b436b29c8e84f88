"""Reads the cells of a row: nested columns, texts with columns in braces, and cells as text."""

import datetime
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

Row = Mapping[str, Any]

MIDNIGHT = re.compile(r"(\d{4}-\d\d-\d\d)[ T]00:00:00(?:\.0+)?(?:Z|[+-]\d\d:?\d\d)?")  # of a date written as a time
PLAIN = (-10, 21)  # powers of ten between which a number is written without an exponent


def find_columns(template: str) -> list[str]:
    """List the columns that a text names in braces, or the one that it is.

    >>> find_columns("{s} Who is {who.name}?"), find_columns("question")
    (['s', 'who.name'], ['question'])
    """
    return re.findall(r"\{([^{}]+)\}", template) or [template]


def fill(template: str, row: Row) -> str:
    """Fill in the columns of a text; the result is empty if all of them are. A list is written as JSON on one line.

    >>> fill("{a} of {b}", {"a": 3, "b": ["x", "y"]})
    '3 of ["x", "y"]'
    """
    cells = {column: _format_on_one_line(read_cell(row, column)) for column in find_columns(template)}
    if "{" not in template or not any(map(str.strip, cells.values())):
        return cells[find_columns(template)[0]].strip()
    return re.sub(r"\{([^{}]+)\}", lambda match: cells[match[1]], template).strip()


def read_cell(row: Row, column: str) -> Any:
    """Read a cell; dots select nested cells, unless a column has this name. None if there is no such cell.

    >>> read_cell({"answer": {"aliases": ["a"]}}, "answer.aliases")
    ['a']
    """
    if column in row:
        return row[column]
    found: Any = row
    for key in column.split("."):
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found


def list_columns(row: Row, before: str = "") -> Iterator[str]:
    """List every column of a row, nested ones with dots.

    >>> list(list_columns({"q": "", "answer": {"aliases": []}}))
    ['q', 'answer', 'answer.aliases']
    """
    for key, cell in row.items():
        yield f"{before}{key}"
        if isinstance(cell, Mapping):
            yield from list_columns(cell, f"{before}{key}.")


def read_texts(cell: Any) -> list[str]:
    """Read the texts of a cell with one text or a list of texts, without empty ones and repetitions.

    >>> read_texts(["a", " ", "a", 9.0])
    ['a', '9']
    """
    several = cell if _is_list(cell) else [cell]
    return list(dict.fromkeys(text for one in several if (text := format_cell(one).strip())))


def format_cell(cell: Any) -> str:
    """Write a cell as text; a list becomes lines, and a nested list one line.

    Numbers keep all their digits; whole numbers have no point. A time at midnight is written as a date.

        >>> [format_cell(cell) for cell in (3.14159265, 9.0, datetime.datetime(2020, 1, 2), ["a", "b"])]
        ['3.14159265', '9', '2020-01-02', 'a\\nb']

    Raises:
        ValueError: it has nested columns.
    """
    if isinstance(cell, str):
        date = MIDNIGHT.fullmatch(cell.strip())
        return date[1] if date else cell
    if _is_list(cell):
        return "\n".join(
            " ".join(format_cell(part).strip() for part in one) if _is_list(one) else format_cell(one) for one in cell
        )
    if isinstance(cell, Mapping):
        raise ValueError(f"dataset: expected a column with text, got one with {', '.join(cell)}; name one after a dot")
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, float | np.floating):
        if not np.isfinite(cell):
            return str(cell)
        cell = Decimal(str(cell))  # the fewest digits that are unique at its precision
        if cell == cell.to_integral_value():
            cell = cell.to_integral_value() or Decimal(0)  # no -0
    if isinstance(cell, Decimal):
        return f"{cell:f}" if PLAIN[0] <= cell.adjusted() < PLAIN[1] else str(cell).lower()
    if isinstance(cell, datetime.datetime | np.datetime64):
        return format_cell(str(cell))
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def are_texts(value: object) -> bool:
    """Whether a value is a list of texts.

    >>> are_texts(["a"]), are_texts("a")
    (True, False)
    """
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


def _is_list(cell: object) -> bool:
    return isinstance(cell, list | tuple | np.ndarray)


def _format_on_one_line(cell: Any) -> str:
    """Write a cell for use inside a sentence."""
    if not _is_list(cell):
        return format_cell(cell)
    parts = (
        json.dumps(part, ensure_ascii=False) if isinstance(part, str) else _format_on_one_line(part) for part in cell
    )
    return f"[{', '.join(part or 'null' for part in parts)}]" if len(cell) else ""
