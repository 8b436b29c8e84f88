"""Values of a configuration, held against the types of the arguments that take them, before anything is built."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

OF_RUN = ("probe", "datamodule", "callbacks", "logger", "trainer")  # what is in them takes the import of Lightning
BY_NAME = ("checks", "callbacks", "logger")  # groups of nodes
REFERENCE = re.compile(r"\$\{\s*(?:oc\.select:\s*)?([\w.]+)\s*(?:,[^{}]*)?\}")


def refuse_wrong_values(cfg: DictConfig, light: bool = True) -> None:
    """Refuse a value that is not of the type of the argument that takes it, anywhere in a composed configuration.

    The types are those of constructors and functions, so that a new argument is checked as soon as it has one. A number
    is no truth value, 2.5 no whole number, 5 no text. A value that is there for another key is told by that key. What
    nothing in the run takes is left alone, as is what has no value yet.

    Args:
        cfg: composed configuration.
        light: leave out what takes the import of torch or Lightning.

    Raises:
        ValueError: names the first such key, its value, and what is expected.

    Example:
        >>> refuse_wrong_values(OmegaConf.create({"seed": 2.5}))
        Traceback (most recent call last):
        ValueError: seed: expected a whole number of at least 0, got 2.5
    """
    Check(cfg, light).check()


class Check:
    """A walk through a configuration, which stops at the first wrong value.

    Attributes:
        hints: the types that the value of each key was held against.
    """

    def __init__(self, cfg: DictConfig, light: bool) -> None:
        self.cfg, self.light, self.hints = cfg, light, dict[str, list[Any]]()

    def check(self) -> None:
        """Check what a run takes; for another command its own node."""
        from probes.settings import TOP

        for key, hint in TOP.items():
            place, _, last = key.rpartition(".")
            holder = OmegaConf.select(self.cfg, place) if place else self.cfg
            if isinstance(holder, DictConfig) and last in holder:
                self.check_value(holder, last, key, hint)
        if self.cfg.get("command") is not None:
            if not isinstance(self.cfg.command, DictConfig):
                raise ValueError(f"command: expected what a choice of experiment sets, got {self.cfg.command!r}")
            self.check_node(self.cfg.command, "command")
            return
        for group in ("checks", *OF_RUN):
            if isinstance(node := self.cfg.get(group), DictConfig):
                self.check_group(group, node)

    def check_group(self, group: str, node: DictConfig) -> None:
        """Check a group of nodes by name, or the one node of a group."""
        kind = None
        if not self.light and group in OF_RUN:
            from probes.jobs.command.kinds import find_kind

            kind = find_kind(group)
        if group not in BY_NAME:
            self.check_value(self.cfg, group, group, kind)
            return
        for name in node:
            self.check_value(node, str(name), f"{group}.{name}", kind)

    def check_node(self, node: DictConfig, name: str) -> None:
        """Check the arguments of a `_target_`, and the nodes among them."""
        from probes.jobs.command.hints import find_hints, find_required

        keys = [str(key) for key in node if not str(key).startswith("_")]
        light = self.light and name.partition(".")[0] in OF_RUN
        hints = find_hints(str(node._target_), keys, light)
        if not (light or node.get("_partial_") or "_args_" in node):
            for key, hint in find_required(str(node._target_)).items():
                if key not in keys:
                    from probes.jobs.command.wording import describe

                    raise ValueError(f"{name}.{key}: expected {describe(hint)}, got none; leave it in")
        for key in keys:
            self.check_value(node, key, self.find_name(node, key, f"{name}.{key}"), hints.get(key))

    def check_value(self, holder: DictConfig, key: str, name: str, hint: Any) -> None:
        """Check one value; a node with a `_target_` by its own arguments, and by what it makes."""
        from probes.jobs.command.kinds import fits, require_kind

        try:
            value = holder[key]
            if isinstance(value, DictConfig) and "_target_" in value:
                if hint is not None:
                    require_kind(name, value, hint)
                self.check_node(value, name)
                return
            plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException:  # no value yet, or one that refers to such
            return
        if found := _find_nul(plain, name):  # files can have no such name
            raise ValueError(f"{found[0]}: expected no NUL character, got {ascii(found[1])[:80]}; take it out")
        if hint is None or "_target_" in repr(plain):  # nodes in a list are Lightning's to refuse
            return
        self.hints.setdefault(name, []).append(hint)
        if not fits(plain, hint):
            from probes.jobs.command.wording import describe, show

            of_group = isinstance(plain, dict) and "by a _target_" in describe(hint)
            cure = "; start its file with defaults: [NAME], where NAME is an existing configuration" * of_group
            raise ValueError(f"{name}: expected {describe(hint)}, got {show(plain)}{cure}")

    def find_name(self, holder: DictConfig, key: str, name: str) -> str:
        """The key that a person sets: where a value only refers to another, that one."""
        node = holder._get_node(key)
        written = node._value() if node is not None and node._is_interpolation() else None  # pyright: ignore[reportAttributeAccessIssue]
        found = REFERENCE.fullmatch(written) if isinstance(written, str) else None
        if found is None:
            return name
        place, _, last = found[1].rpartition(".")
        above = OmegaConf.select(self.cfg, place) if place else self.cfg
        there = isinstance(above, DictConfig) and last in above
        return self.find_name(above, last, found[1]) if there else found[1]


def _find_nul(value: Any, name: str) -> tuple[str, str] | None:
    """The first text with a NUL character in a value, after its key."""
    if isinstance(value, str):
        return (name, value) if "\0" in value else None
    parts = [(one, f"{name}.{key}") for key, one in value.items()] if isinstance(value, dict) else []
    parts += [(one, name) for one in value] if isinstance(value, list) else []
    return next((found for one in parts if (found := _find_nul(*one))), None)
