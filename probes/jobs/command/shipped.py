"""What the files of `conf/` set: arguments by `_target_`, and keys by place."""

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Key = tuple[str, ...]  # ("dataset", "limit")
CONF = Path(__file__).resolve().parents[3] / "conf"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # reads the whole of conf/ in 10 ms, the other one in 50
PACKAGE = re.compile(r"^# @package (\S+)", re.MULTILINE)


class Shipped(NamedTuple):
    """What all files of a configuration folder set, whatever is chosen.

    Attributes:
        arguments: names of arguments by `_target_`.
        plain: keys of nodes that have no `_target_`, by the place of the node; `()` is the top.
        extra: what adds a key that only a file of a group without a default choice sets, as in `experiment=analyse`.
        nodes: groups in which every choice has a `_target_`.
    """

    arguments: dict[str, set[str]]
    plain: dict[Key, set[str]]
    extra: dict[Key, str]
    nodes: set[str]


@cache
def read_shipped(conf: Path = CONF) -> Shipped:
    """Read every file of a configuration folder; the parents in its defaults list are merged under each."""
    shipped = Shipped({}, {(): set()}, {}, set())
    root = yaml.load((conf / "config.yaml").read_text(), LOADER)
    root.pop("hydra", None)
    chosen = {group for entry in root.pop("defaults") if isinstance(entry, dict) for group in entry if entry[group]}
    shipped.plain[()] |= chosen
    shipped.nodes.update(chosen)
    _record(root, (), shipped)
    for path in sorted(conf.glob("*/*.yaml")):
        group, name = path.parent.name, path.stem
        tree = _read(conf, group, name)
        if group in chosen:
            _record(tree, (), shipped)
            if "_target_" not in (tree.get(group) or {}):
                shipped.nodes.discard(group)
        else:
            _record_extra(tree, (), f"{group}={name}", shipped)
    return shipped


def list_choices(group: str, conf: Path = CONF) -> list[str]:
    """What a group may be set to, as far as `conf/` has it.

    >>> list_choices("split")
    ['group']
    """
    return sorted(path.stem for path in conf.glob(f"{group}/*.yaml")) if group.isidentifier() else []


def _read(conf: Path, group: str, name: str) -> dict[str, Any]:
    """What a file and its parents set, from the top of the configuration."""
    text = (conf / group / f"{name}.yaml").read_text()
    content = yaml.load(text, LOADER) or {}
    package = PACKAGE.search(text)
    tree: dict[str, Any] = {}
    for parent in content.pop("defaults", []):
        if isinstance(parent, str) and parent != "_self_":
            *folder, base = parent.partition("@")[0].strip("/").split("/")
            tree = _merge(tree, _read(conf, folder[-1] if folder else group, base))
    place = package[1] if package else group
    for part in reversed([] if place == "_global_" else place.split(".")):
        content = {part: content}
    tree = _merge(tree, content)
    tree.pop("hydra", None)
    return tree


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        merged[key] = _merge(under[key], value) if both else value
    return merged


def _record(node: dict[str, Any], place: Key, shipped: Shipped) -> None:
    keys = shipped.arguments if "_target_" in node else shipped.plain
    keys.setdefault(node.get("_target_", place), set()).update(node)  # pyright: ignore[reportArgumentType]
    for key, value in node.items():
        if isinstance(value, dict):
            _record(value, (*place, key), shipped)


def _record_extra(node: dict[str, Any], place: Key, choice: str, shipped: Shipped) -> None:
    """Of a group that is chosen by nobody who does not name it: arguments, and which keys it adds."""
    if "_target_" in node:
        _record(node, place, shipped)
        return
    for key, value in node.items():
        if isinstance(value, dict):
            _record_extra(value, (*place, key), choice, shipped)
        elif key not in shipped.plain.get(place, set()):
            shipped.extra.setdefault((*place, key), choice)
