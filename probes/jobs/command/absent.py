"""Keys that a run needs and that its configuration lacks, as after `dataset=null` or `~probe.l2`."""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from probes.jobs.command.shipped import Key, list_choices, read_shipped
from probes.settings import TOP

NODES = ("probe", "datamodule", "trainer", "checks")  # what train.py builds
# `${a.b}`; not `${oc.select:a.b,null}`, `${.b}`, `\${a}`
WHOLE = re.compile(r"(?<!\\)(?:\\\\)*\$\{\s*([\w@-]++(?:\.[\w@-]++)*+)\s*\}")


def refuse_absent_keys(cfg: DictConfig) -> None:
    """Refuse a configuration that lacks a key which train.py reads, or to which a value of it refers.

    The keys are those of `probes.settings.TOP`, `NODES`, what the values themselves refer to, and the `_target_` of a
    group in which every choice has one. Another command than a run needs what its own node refers to.

    Raises:
        ValueError: names the first such key, or the group or the node that it would stand in, and what is expected.

    Example:
        >>> refuse_absent_keys(OmegaConf.create({"datamodule": {"split": "${split}"}}))
        Traceback (most recent call last):
        ValueError: split: expected one of group, got none; choose one
    """
    tree: Any = OmegaConf.to_container(cfg)
    is_run = tree.get("command") is None
    referring = [name for name in ("checks", *tree) if name in tree] if is_run else ["command"]  # checks have types
    for holder in referring:
        for place, key in _find_references(tree[holder], (holder,)):
            _require(key, tree, place)
    for key in (*NODES, *TOP) if is_run else TOP:
        _require(key, tree)
    for group in read_shipped().nodes if is_run else ():
        node = tree.get(group)
        if isinstance(node, dict) and "_target_" not in node:
            raise ValueError(
                f"{group}._target_: expected the name of what {group} makes, got none; leave it in, or start its file "
                "with defaults: [NAME], where NAME is an existing configuration"
            )


def _require(key: str, tree: dict[str, Any], place: Key | None = None) -> None:
    """Refuse a tree that lacks a key, to which the value at `place` refers."""
    node: Any = tree
    parts = key.split(".")
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth])
        if isinstance(node, str) and "${" in node:  # what that refers to is looked at by itself
            return
        if not isinstance(node, dict):
            from probes.jobs.command.wording import show

            raise ValueError(f"{here}: expected keys with values, as in {key}=..., got {show(node)}; leave it out")
        if part not in node:
            name = f"{here}.{part}" if here else part
            cure = "choose one" if list_choices(name) else "leave it in"
            raise ValueError(f"{name}: expected {_describe(name, key, tree, place)}, got none; {cure}")
        node = node[part]
    if key in NODES and node is None:
        raise ValueError(f"{key}: expected {_describe(key, key, tree, place)}, got null; leave it out")


def _describe(name: str, key: str, tree: dict[str, Any], place: Key | None) -> str:
    """What is expected of a key or, where it has `name` as a parent that is absent, of that."""
    if choices := list_choices(name):
        return f"one of {', '.join(choices)}"
    if name != key or name in NODES:
        return f"keys with values, as in {key}=..." if name != key else "keys with values"
    from probes.jobs.command.hints import find_hints
    from probes.jobs.command.wording import describe

    hint = TOP.get(key)
    for *above, last in filter(None, (key.split("."), place)):  # what takes the key itself, then what refers to it
        holder: Any = tree
        for part in above:
            holder = holder[int(part) if isinstance(holder, list) else part]
        if hint is None and isinstance(holder, dict) and "_target_" in holder:
            hint = find_hints(str(holder["_target_"]), [last], light=False).get(last)
    return "a value" if hint is None else describe(hint)


def _find_references(node: Any, place: Key) -> Iterator[tuple[Key, str]]:
    """Every key that a value refers to and that has no substitute, with the place of the value."""
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _find_references(value, (*place, str(name)))
    elif isinstance(node, str):
        yield from ((place, key) for key in WHOLE.findall(node))
