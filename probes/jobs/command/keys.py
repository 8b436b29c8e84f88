"""Keys of a configuration that nothing reads, such as mistyped ones: a run would go on without what they ask for."""

import inspect
import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from probes.jobs.command.absent import refuse_absent_keys
from probes.jobs.command.shipped import Key, Shipped, read_shipped
from probes.jobs.command.targets import load_target, refuse_other_targets
from probes.jobs.command.values import refuse_wrong_values

OF_INSTANTIATE = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
OF_NODES = ("callbacks", "logger", "checks")  # any name may stand in these, before a node with a _target_
# `${a.b}`, `${oc.select:a.b,null}` and `${..b}`, not `${now:%Y}`; of `${a.${b}}` the first part
OF_COLUMNS = ("dataset", "target")  # names a column, which a set that makes its questions lacks
REFERENCE = re.compile(r"\$\{\s*(?:oc\.[a-z.]+:\s*)?(\.*)([\w@-]++(?:\.[\w@-]++)*+)(?=\s*[},.\[])")
SIMILAR = 0.6  # least likeness of a key that is offered, as difflib measures it
NAMESAKE = 0.8  # likeness of a key of the same last name elsewhere
MANY = 30  # keys in a place that are listed


def refuse_mistakes(cfg: DictConfig) -> None:
    """Refuse what is wrong with a composed configuration, as far as that is known without torch and Lightning.

    Raises:
        ValueError: a `_target_` that may not be named, a key that is absent, one that nothing reads, or a value of a
            wrong type.
    """
    refuse_other_targets(cfg)
    refuse_absent_keys(cfg)
    refuse_unknown_keys(cfg)
    refuse_wrong_values(cfg)


def refuse_unknown_keys(cfg: DictConfig) -> None:
    """Refuse a key that nothing reads, anywhere in a composed configuration.

    A key is read where a file of `conf/` has it in that place, where another value refers to it, or where it is an
    argument of the `_target_` beside it. The signature of a `_target_` is looked up only for an argument that no file
    of `conf/` gives it, because that imports its module. A value that is a dict without a `_target_`, such as
    `model.template`, is left to the code that takes it.

    Raises:
        ValueError: names the first such key, and the closest one that is read.

    Example:
        >>> refuse_unknown_keys(OmegaConf.create({"seed": 0, "prob": "mlp"}))
        Traceback (most recent call last):
        ValueError: prob: expected a key of the configuration, got one that nothing reads; did you mean probe?
    """
    tree: Any = OmegaConf.to_container(cfg)
    tree.pop("hydra", None)  # Hydra holds it against its own schema
    references = set(_find_references(tree, ()))
    if HydraConfig.initialized():
        _check_schema(HydraConfig.get(), "hydra")  # pyright: ignore[reportArgumentType]
        # hydra.run.dir, too, may refer to a key
        references |= set(_find_references(OmegaConf.to_container(HydraConfig.instance().cfg), ()))  # pyright: ignore
    _Check(tree, read_shipped(), references).check_plain(tree, ())


def tell_unadded_key(error: ConfigCompositionException, override: str) -> str:
    """What is wrong with an override, without a +, of a key that the configuration lacks.

    Args:
        error: what Hydra raised.
        override: KEY=VALUE as it was written.
    """
    key, _, value = override.partition("=")
    root = error.__cause__.parent_node._get_root()  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    place = key.rpartition(".")[0]
    around = OmegaConf.select(root, place) if place else root
    if around is not None and not (isinstance(around, DictConfig) and around):  # Hydra has put an empty node there
        return f"{key}: expected a key that is there, got one below {place}, which holds a single value; set {place}"
    if key.startswith("hydra."):
        there = [f"{place}.{name}" for name in around or ()]
        return f"{key}: expected an option of Hydra, got a name that it does not have; {offer_closest(key, there)}"
    cfg: Any = OmegaConf.create(OmegaConf.to_container(root))
    OmegaConf.update(cfg, key, value, force_add=True)
    try:
        refuse_other_targets(cfg)
        refuse_unknown_keys(cfg)
    except ValueError as unknown:
        return str(unknown)
    return f"{key}: expected a + before a key that has no value yet, got none; write +{override}"


def _check_schema(node: DictConfig, place: str) -> None:
    """Check a node of Hydra's own configuration, which + lets people add keys to as well."""
    schema = OmegaConf.get_type(node)
    for name in node:
        value = node._get_node(name)
        there = [field.name for field in fields(schema)] if is_dataclass(schema) else None
        if there and name not in there and f"{place}.{name}" != "hydra.env":  # Hydra's own, outside its schema
            if there == ["_target_"]:  # the schema of a sampler leaves the rest to its class
                there = sorted(find_arguments(str(node._get_node("_target_"))) or ())
                if not there or name in there:
                    continue
            offer = offer_closest(f"{place}.{name}", [f"{place}.{other}" for other in there])
            raise ValueError(f"{place}.{name}: expected an option of Hydra, got a name that it does not have; {offer}")
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation():
            _check_schema(value, f"{place}.{name}")


class _Check:
    """A walk through a configuration `tree` of plain dicts, which stops at the first unknown key."""

    def __init__(self, tree: dict[str, Any], shipped: Shipped, references: set[Key]) -> None:
        self.tree = tree
        self.shipped = shipped
        self.references = references

    def check_plain(self, node: dict[str, Any], place: Key) -> None:
        """Check a node without a `_target_`."""
        depth = len(place)
        known = {key[depth] for key in self.references if key[:depth] == place and len(key) > depth}
        known |= self.shipped.plain.get(place, set())
        for name, value in node.items():
            here = (*place, name)
            if place and place[-1] in OF_NODES and depth == 1:
                if isinstance(value, dict) and "_target_" not in value:
                    self.refuse(here, node.keys() - {name}, "a node with a _target_, got none")
            elif name not in known:
                self.refuse(here, known, "a key of the configuration, got one that nothing reads")
            if isinstance(value, dict) and ("_target_" in value or here not in self.references):
                self.check_value(value, here, plain=True)

    def check_value(self, value: Any, place: Key, plain: bool = False) -> None:
        """Check a value; a dict without a `_target_` is data unless it is `plain`."""
        if isinstance(value, dict) and "_target_" in value:
            self.check_arguments(value, place)
        elif isinstance(value, dict) and plain:
            self.check_plain(value, place)
        elif isinstance(value, dict | list):
            for name, part in value.items() if isinstance(value, dict) else enumerate(value):
                self.check_value(part, (*place, str(name)))

    def check_arguments(self, node: dict[str, Any], place: Key) -> None:
        """Check a node with a `_target_`."""
        target = node["_target_"]
        shipped = self.shipped.arguments.get(target, set()) | OF_INSTANTIATE
        if unshipped := [name for name in node if name not in shipped]:
            accepted = find_arguments(target)
            for name in unshipped:
                if accepted is not None and name not in accepted:
                    if (*place, name) == OF_COLUMNS:
                        raise ValueError(
                            f"dataset.target: expected a question set with columns, which classes can be taken from, "
                            f"got {target.split('.')[-1]}, whose questions are made without any; leave it out, or "
                            "choose dataset=csv, jsonl, parquet, hub or statements"
                        )
                    self.refuse((*place, name), accepted, f"an argument of {target}, got one that it does not take")
        for name, value in node.items():
            self.check_value(value, (*place, name))

    def refuse(self, key: Key, known: Collection[str], expected: str) -> NoReturn:
        """Say that a key is unknown, and which of those known in its place, or anywhere, is the closest."""
        name = ".".join(key)
        there = [".".join((*key[:-1], other)) for other in sorted(known)]
        offer = self.shipped.extra.get(key)
        others = [other for other in _find_paths(self.tree, ()) if other != name and not other.startswith(name + ".")]
        offer = f"it belongs to {offer}" if offer else offer_closest(name, there, others)
        raise ValueError(f"{name}: expected {expected}; {offer}")


def find_arguments(target: str) -> set[str] | None:
    """Names of the arguments that a `_target_` takes; None where it takes any, or where nobody can tell.

    Functions of this project pass their `**settings` on to what they return.
    """
    lightning = logging.getLogger("pytorch_lightning")
    level = lightning.level
    try:
        taker = load_target("_target_", target)
        try:
            signature = inspect.signature(taker, eval_str=True)
        except NameError:  # an annotation that only type checkers know
            signature = inspect.signature(taker)
    except Exception:  # what importing it raises is told when it is built
        return None
    finally:
        lightning.setLevel(level)  # importing Lightning sets its own
    parameters = signature.parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        returned = signature.return_annotation
        if target.split(".")[0] not in ("datamodules", "probes") or not inspect.isclass(returned):
            return None
        parameters = [*parameters, *inspect.signature(returned).parameters.values()]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in parameters if parameter.kind in named}


def offer_closest(name: str, there: Collection[str], elsewhere: Collection[str] = ()) -> str:
    """The end of a message: which key is the closest to `name`, or all keys that are known in its place.

    Args:
        name: the unknown key in full, such as `dataset.limt`.
        there: keys that are known in its place, in full as well.
        elsewhere: all other keys. One of the same last name is close, and `split.seed` is close to `split_seed`.
    """
    last = _last(name)
    scores = {other: SequenceMatcher(None, last, _last(other)).ratio() for other in there}
    for other in elsewhere:
        likeness = SequenceMatcher(None, name, other).ratio() if name == last else 0.0
        namesake = NAMESAKE if _last(other) == last != other else 0.0
        scores[other] = max(scores.get(other, 0.0), likeness, namesake)
    best = max(scores, key=lambda other: scores[other], default=name)
    if scores.get(best, 0.0) >= SIMILAR:
        return f"did you mean {best}?"
    names = ", ".join(map(_last, there))
    return f"choose one of {names}" if 0 < len(there) <= MANY else "take it out"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _find_references(node: Any, place: Key) -> Iterator[Key]:
    """Every key that a value refers to."""
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _find_references(value, (*place, str(name)))
    elif isinstance(node, str):
        for dots, name in REFERENCE.findall(node):
            start = place[: len(place) - len(dots)] if dots else ()
            yield (*start, *name.split("."))


def _find_paths(node: dict[str, Any], place: Key) -> Iterator[str]:
    """Every key of the configuration in full, but for those that pass others on."""
    for name, value in node.items():
        here = (*place, str(name))
        if here[0] in ("checks", "command") or (isinstance(value, str) and value.startswith("${")):
            continue
        yield ".".join(here)
        if isinstance(value, dict):
            yield from _find_paths(value, here)
