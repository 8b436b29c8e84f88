"""Whether a value, or what a node makes, is of a type."""

import inspect
import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig
from pydantic import ConfigDict, TypeAdapter, ValidationError

from probes.jobs.command.hints import read_returned
from probes.jobs.command.wording import name_class

CONFIG = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
LISTS = (list, Sequence, Iterable, set, frozenset)
MAPPINGS = (dict, Mapping)
SCALARS = (int, float, bool, str, type(None))
KINDS = {
    "probe": "LightningModule",
    "datamodule": "LightningDataModule",
    "callbacks": "Callback",
    "logger": "loggers.Logger",
    "trainer": "Trainer",
}


class _Node:
    """What only a node with a `_target_` makes: no value of a configuration is one."""


def fits(value: Any, hint: Any) -> bool:
    """Whether a value as YAML gives it is of a type, with nothing converted but whole numbers to numbers.

    >>> fits(3, float), fits(True, float), fits(2.5, int), fits("3", int), fits([1, 2], Sequence[int])
    (True, False, False, False, True)
    """
    try:
        # as JSON, where a list may be a tuple, and a text a path
        TypeAdapter(_simplify(hint), config=CONFIG).validate_json(json.dumps(value, default=str))
    except ValidationError:
        return False
    return True


def _simplify(hint: Any) -> Any:
    """A type of plain values, with every other class replaced by `_Node`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is None or hint is Any or hint in SCALARS or origin is Literal:
        return hint
    if origin is Annotated:
        return Annotated[(_simplify(arguments[0]), *arguments[1:])]  # type: ignore[return-value]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_simplify, arguments))]  # noqa: UP007
    if hint is Path:
        return str
    if (origin or hint) is tuple:
        return tuple[tuple(one if one is ... else _simplify(one) for one in arguments)] if arguments else list
    if (origin or hint) in LISTS:
        return list[_simplify(arguments[0])] if arguments else list
    if (origin or hint) in MAPPINGS:
        return dict[str, _simplify(arguments[1])] if arguments else dict
    if (origin or hint) in (Callable, type) or (inspect.isclass(hint) and hint is not object):
        return _Node
    return Any


def find_kind(group: str) -> type:
    """Lightning's class of what a group of the configuration makes."""
    found = import_module("pytorch_lightning")
    for part in KINDS[group].split("."):
        found = getattr(found, part)
    return found  # type: ignore[return-value]


def require_kind(name: str, node: DictConfig, hint: Any) -> None:
    """Hold what a node makes against a type.

    Raises:
        ValueError: it makes something else, or makes it without, or with, `_partial_: true`.
    """
    kinds = list(_list_classes(hint))
    target = str(node._target_)
    made = read_returned(target)
    if made is None or not kinds:
        return
    partial, wanted = bool(node.get("_partial_")), [kind for kind, _ in kinds]
    if not any(kind is None or _is_kind(made, kind) for kind in wanted):
        named = " or ".join(name_class(kind) for kind in wanted if kind)
        raise ValueError(f"{name}: expected a _target_ that makes {named}, got {target}")
    if all(called != partial for _, called in kinds):
        says = "_partial_: true beside its _target_" if kinds[0][1] else "a _target_ without _partial_"
        raise ValueError(f"{name}: expected {says}, got {target} {'with' if partial else 'without'} it")


def _list_classes(hint: Any) -> list[tuple[type | None, bool]]:
    """Classes in a type, each with whether a function that makes it is wanted; None is any."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _list_classes(arguments[0])
    if origin in (Union, types.UnionType):
        return [one for argument in arguments for one in _list_classes(argument)]
    if (origin or hint) is Callable:
        return [(arguments[-1] if arguments and inspect.isclass(arguments[-1]) else None, True)]
    if hint is Any or hint is object or hint is type:
        return [(None, False), (None, True)]
    return [(hint, False)] if inspect.isclass(hint) and hint not in SCALARS else []


def _is_kind(made: Any, kind: type) -> bool:
    if get_origin(made) in (Union, types.UnionType):
        return all(_is_kind(one, kind) for one in get_args(made))
    if getattr(kind, "_is_protocol", False):
        wanted = [one for one in vars(kind) if one == "__call__" or not one.startswith("_")]
        return all(callable(getattr(made, one, None)) for one in wanted)
    return inspect.isclass(made) and issubclass(made, kind)
