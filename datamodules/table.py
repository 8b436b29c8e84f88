"""What the cells of a row say: nested columns, texts with columns in braces, and cells as text."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Row = Mapping[str, Any]


def fields(template: str) -> list[str]:
    """Columns that a text names in braces, or the one that it is."""
    return re.findall(r"\{([^{}]+)\}", template) or [template]


def filled(template: str, row: Row) -> str:
    """A text with its columns filled in; empty where all of them are."""
    cells = {column: as_text(value(row, column)) for column in fields(template)}
    if "{" not in template or not any(map(str.strip, cells.values())):
        return cells[fields(template)[0]].strip()
    return re.sub(r"\{([^{}]+)\}", lambda match: cells[match[1]], template).strip()


def value(row: Row, column: str) -> Any:
    """A cell; dots lead into nested ones, where no column has them in its name."""
    if column in row:
        return row[column]
    found: Any = row
    for key in column.split("."):
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found


def names(row: Row, before: str = "") -> Iterator[str]:
    """Every column of a row, nested ones with dots."""
    for key, cell in row.items():
        yield f"{before}{key}"
        if isinstance(cell, Mapping):
            yield from names(cell, f"{before}{key}.")


def texts(cell: Any) -> list[str]:
    """The texts of a cell that holds one or a list of them, without empty ones and repetitions."""
    several = cell if isinstance(cell, list | tuple) else [cell]
    return list(dict.fromkeys(text for one in several if (text := as_text(one).strip())))


def as_text(cell: Any) -> str:
    """A cell as text; a list becomes lines, a list within it one of them.

    Raises:
        ValueError: it has columns of its own.
    """
    if isinstance(cell, str):
        return cell
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, Mapping):
        raise ValueError(f"dataset: expected a column with text, got one with {', '.join(cell)}; name one after a dot")
    if isinstance(cell, list | tuple):
        return "\n".join(
            " ".join(as_text(part).strip() for part in one) if isinstance(one, list | tuple) else as_text(one)
            for one in cell
        )
    if isinstance(cell, float):
        single = np.float32(cell)  # 0.1 of four bytes is 0.10000000149 in eight
        return str(int(cell)) if cell.is_integer() else str(single if single == cell else cell)
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)
