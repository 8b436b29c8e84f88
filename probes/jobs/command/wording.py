"""Types in the words of a message: `int | None` above 0 is "a whole number above 0 or null"."""

import inspect
import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import DocInfo, Ge, Gt, Le, Lt, Predicate

NAMES = {int: "whole number", float: "number", str: "text", Path: "path", dict: "mapping", Mapping: "mapping"}
LONGEST = 80  # characters of a value that are shown
LISTS = (list, tuple, set, frozenset, Sequence, Iterable)


def describe(hint: Any) -> str:
    """What a type takes, in words.

    >>> from annotated_types import MinLen
    >>> describe(Annotated[int, Gt(0)] | None)
    'a whole number above 0 or null'
    >>> describe(Annotated[list[float], MinLen(1)] | Literal["auto"])
    'a list of numbers, or auto'
    """
    alternatives = list(dict.fromkeys(_list_alternatives(hint)))
    if len(alternatives) > 1 and "null" in alternatives:
        alternatives.sort(key=lambda one: one == "null")
    *some, last = alternatives
    comma = "," if len(some) > 1 or any(word in one for one in some for word in (" of ", ", ", " or ")) else ""
    return f"{', '.join(some)}{comma} or {last}" if some else last


def _list_alternatives(hint: Any) -> list[str]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        numbers = {int, float} <= {*arguments}  # every whole number is a number
        named = [argument for argument in arguments if not (numbers and argument is int)]
        return [one for argument in named for one in _list_alternatives(argument)]
    if origin is Literal:
        words = [_write(value) for value in arguments]
        return [f"one of {', '.join(words)}"] if len(words) > 2 else words
    return [_name(hint, many=False)]


def _name(hint: Any, many: bool) -> str:
    """One type, as one or as many."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        base, *limits = arguments
        if said := [limit.documentation for limit in limits if isinstance(limit, DocInfo)]:
            return said[0]
        different = any(isinstance(limit, Predicate) for limit in limits)
        return _name(base, many).replace("list of ", "list of different ", different) + _limit(limits, base)
    if origin in LISTS or hint in LISTS:
        of = [argument for argument in arguments if argument is not ...]
        return f"{'lists' if many else 'a list'} of {_name(of[0], many=True) if of else 'values'}"
    if origin in (Union, types.UnionType):
        return " or ".join(_name(one, many) for one in arguments)
    if origin is Literal:
        return ", ".join(map(_write, arguments))
    if hint in (None, type(None)):
        return "null"
    if hint is bool:
        return "true or false"
    if name := NAMES.get(origin or hint):
        return f"{name}s" if many else f"a {name}"
    if (origin or hint) is Callable:
        return "a node with a _target_ and _partial_: true"
    if hint is type or not inspect.isclass(hint):
        return "values" if many else "a value"
    return f"nodes with a _target_ of {name_class(hint)}" if many else f"{name_class(hint)} by a _target_"


def name_class(kind: Any) -> str:
    """A class as people know it."""
    return getattr(kind, "__name__", str(kind))


def show(value: Any) -> str:
    """A value as YAML has it, shortened.

    >>> show(None), show("no"), show([True, 2.5])
    ('null', "'no'", '[true, 2.5]')
    """
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _limit(limits: Iterable[Any], base: Any) -> str:
    """The range of a number."""
    signs = {Gt: ("above", "gt"), Ge: ("of at least", "ge"), Lt: ("below", "lt"), Le: ("of at most", "le")}
    ends = {type(limit): getattr(limit, signs[type(limit)][1]) for limit in limits if type(limit) in signs}
    if {Ge, Le} <= ends.keys():
        return f" from {ends[Ge]} to {ends[Le]}"
    if base is int:
        ends.pop(Lt, None)  # so high that nobody means it
    parts = [f"{signs[kind][0]} {end}" for kind, end in ends.items()]
    return f" {' and '.join(parts)}" if parts else ""


def _write(value: Any) -> str:
    """A value as YAML has it."""
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))
