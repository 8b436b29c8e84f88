"""The types of the arguments that a `_target_` takes, from its signature."""

import inspect
import logging
from collections.abc import Collection
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_type_hints

from probes.jobs.command.foreign import OPTIMISATION, SHARPER
from probes.jobs.command.targets import OURS, load_target


def find_hints(target: str, keys: Collection[str], light: bool) -> dict[str, Any]:
    """Types by name of argument; what has none there may be anything.

    Args:
        target: of a node of the configuration.
        keys: arguments that are given.
        light: leave out what takes the import of torch or Lightning.
    """
    sharper = SHARPER.get(target) or (OPTIMISATION if target.startswith("torch.optim.") else {})
    if light or sharper.keys() >= {*keys}:
        return sharper
    own = read_hints(target)
    return own | {key: hint for key, hint in sharper.items() if key in own}


def find_required(target: str) -> dict[str, Any]:
    """Types by name of the arguments without which a `_target_` cannot be called.

    >>> sorted(find_required("datamodules.language.site_names.check_sites"))
    ['also', 'name']
    """
    try:
        parameters = inspect.signature(load_target("_target_", target)).parameters.values()
    except (ValueError, TypeError):  # told when it is built
        return {}
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    hints = read_hints(target)
    return {one.name: hints.get(one.name, Any) for one in named if one.default is one.empty}


def read_returned(target: str) -> Any:
    """The class that a `_target_` makes; None where nobody says."""
    try:
        taker = load_target("_target_", target)
    except ValueError:
        return None
    return taker if inspect.isclass(taker) else _read(taker).get("return")


@cache
def read_hints(target: str) -> dict[str, Any]:
    """Types of the arguments of a class or a function, by name.

    Functions of this project pass their `**settings` on to what they return.
    """
    lightning = logging.getLogger("pytorch_lightning")
    level = lightning.level
    try:
        taker = load_target("_target_", target)
    except ValueError:  # told when it is built
        return {}
    finally:
        lightning.setLevel(level)  # importing Lightning sets its own
    hints = _read(taker)
    parameters = inspect.signature(taker).parameters
    returned = hints.pop("return", None)
    names = {name for name, one in parameters.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
    found = {name: hint for name, hint in hints.items() if name in names}
    passes_on = any(one.kind is one.VAR_KEYWORD for one in parameters.values()) and target.startswith(OURS)
    return _read(returned) | found if passes_on and inspect.isclass(returned) else found


def _read(taker: Any) -> dict[str, Any]:
    owner = taker
    if inspect.isclass(taker):
        owner = taker if is_dataclass(taker) else taker.__init__
    try:
        return get_type_hints(owner, include_extras=True)
    except Exception:  # a name that only type checkers know
        return {name: _evaluate(hint, owner) for name, hint in getattr(owner, "__annotations__", {}).items()}


def _evaluate(hint: Any, owner: Any) -> Any:
    try:
        return get_type_hints(_Holder(hint), getattr(owner, "__globals__", None), include_extras=True)["hint"]
    except Exception:
        return Any


class _Holder:
    """One annotation by itself."""

    def __init__(self, hint: Any) -> None:
        self.__annotations__ = {"hint": hint}
