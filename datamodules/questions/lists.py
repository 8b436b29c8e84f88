"""Lists in the fields of a CSV file, as JSON, Python or numpy write them."""

import ast
import io
import json
import re
import tokenize
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any

_UNREADABLE = (ValueError, SyntaxError, RecursionError, MemoryError)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<open>(?:array\()?\[)
      | (?P<close>\](?:(?:,\s*dtype=[\w<>'.]+)?\))?)
      | (?P<comma>,)
      | (?P<dots>\.\.\.)(?=[\s,\]])
      | (?P<value>b?'(?:[^'\\]|\\.)*' | b?"(?:[^"\\]|\\.)*" | (?:True|False|None)\b
        | [-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf))(?=[\s,\]])
    )""",
    re.VERBOSE | re.DOTALL,
)
MOST_AXES = 64  # of an array
DEEPEST = re.compile(r"(?:\[\s*){100}")  # no list of answers; how deep a parser can go depends on Python's version
_CONSTANTS = {"True": True, "False": False, "None": None}


def parse_list(field: str) -> Any:
    """Parse a field that is a list; return any other field unchanged.

    numpy separates the elements of an array by blanks and line breaks; Python would join two such texts into one.

        >>> parse_list("['Paris' 'City of Light']"), parse_list('["a", "b"]'), parse_list("[sic]")
        (['Paris', 'City of Light'], ['a', 'b'], '[sic]')

    Raises:
        ValueError: an array that numpy has abbreviated.
    """
    field_ = field.strip()
    if not (field_.startswith("[") and field_.endswith("]")) or DEEPEST.match(field_):
        return field
    with suppress(*_UNREADABLE):
        return json.loads(field_, parse_float=parse_number)
    values, abbreviated = _parse_array(field_)
    if values is not None:
        if abbreviated:
            raise ValueError(
                f"expected a list with all its elements, got {' '.join(field_.split())[:60]!r}, which numpy has "
                "abbreviated; write the file again with lists (array.tolist()) in place of arrays"
            )
        return values
    with suppress(*_UNREADABLE, tokenize.TokenError):
        if _is_plain(field_):
            return ast.literal_eval(field_)
    return field


def parse_number(text: str) -> float | Decimal:
    """Parse a number with a point or an exponent, as a float if this keeps all its digits.

    Raises:
        ValueError: an exponent of more than 18 digits.

    Example:
        >>> parse_number("0.5"), parse_number("0.12345678901234567890")
        (0.5, Decimal('0.12345678901234567890'))
    """
    try:
        number, exact = float(text), Decimal(text)
    except InvalidOperation:
        raise ValueError(f"expected a number that can be held, got {text[:40]}") from None
    return number if exact.is_nan() or Decimal(str(number)) == exact else exact


def _parse_array(text: str) -> tuple[list[Any] | None, bool]:
    """Parse a printed array; None where the text is not an array. Also return whether elements are left out."""
    opened: list[tuple[str, list[Any]]] = []
    at, dots = 0, False
    while match := _TOKEN.match(text, at):
        at, kind, token = match.end(), match.lastgroup, match[match.lastgroup or 0]
        if kind == "open" and len(opened) < MOST_AXES:
            opened.append((token, []))
        elif kind == "open" or not opened:
            break
        elif kind == "close":
            opener, values = opened.pop()
            if opener.startswith("array") != token.endswith(")") or ... in (values[:1] + values[-1:]):
                break  # dots at an end are part of the text, as in [...]
            dots |= ... in values
            if not opened:
                return (values if at == len(text) else None), dots
            opened[-1][1].append(values)
        elif kind != "comma":
            opened[-1][1].append(... if kind == "dots" else _parse_value(token))
    return None, False


def _parse_value(token: str) -> Any:
    if token in _CONSTANTS:
        return _CONSTANTS[token]
    if token[-1] in "'\"":
        return ast.literal_eval(token)
    return int(token) if re.fullmatch(r"[-+]?\d+", token) else parse_number(token)


def _is_plain(text: str) -> bool:
    """Whether Python reads the text as written: without joining adjacent strings, and without dots as a value."""
    written = sum(token.type == tokenize.STRING for token in tokenize.generate_tokens(io.StringIO(text).readline))
    values = [node.value for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Constant)]
    return ... not in values and written == sum(isinstance(value, str | bytes) for value in values)
