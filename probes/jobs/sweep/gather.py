"""What the jobs of a sweep will want of the language model, so that the first reads all of it in one pass."""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from probes.jobs.command.targets import load_target
from probes.jobs.sweep.naming import parse, quote

POSITIONS = "datamodules.language.positions.Positions"
SITES = "datamodules.language.site_names.check_sites"


def gather(config: DictConfig, given: Sequence[str], swept: Mapping[str, Sequence[str] | None]) -> list[str]:
    """Overrides with which each job captures what the others read: `site.also`, `site.also_layers`, `positions.also`.

    Args:
        config: of the sweep, without what is swept.
        given: overrides of the command line.
        swept: values by key.

    Returns:
        None of them where the jobs have nothing to share, or the command line sets it.
    """
    shared = []
    keys = {one.partition("=")[0].lstrip("+") for one in given}
    if "site.also" not in keys:
        named = [one.site.name for one in _compose_each(config, swept, "site", "site.name")]
        named = [name for name in named if _is_taken(SITES, name=name, also=[])]
        if len(set(named)) > 1:
            shared.append(f"site.also=[{','.join(dict.fromkeys(named))}]")
    lists: Any = [parse([f"site.layers={one}"])[0].value() for one in swept.get("site.layers") or ()]
    if "site.also_layers" not in keys and len(lists) > 1 and all(_lists_layers(one) for one in lists):
        shared.append(f"site.also_layers={sorted({layer for one in lists for layer in one})}".replace(" ", ""))
    if "positions.also" not in keys:
        choices = [choice.positions for choice in _compose_each(config, swept, "positions", "positions.rules")]
        choices = [one for one in choices if one.get("_target_") != POSITIONS or _is_taken(**_to_dict(one))]
        alike = len({one.get("into_prompt") for one in choices}) == 1  # else the same rule reads other tokens
        if len(choices) > 1 and alike and all(one.get("_target_") == POSITIONS for one in choices):
            rules = [OmegaConf.to_container(rule, resolve=True) for one in choices for rule in one.rules]
            different = {json.dumps(rule, sort_keys=True): rule for rule in rules}
            shared.append(f"positions.also=[{','.join(_write(rule) for rule in different.values())}]")
    return shared


def _compose_each(config: DictConfig, swept: Mapping[str, Sequence[str] | None], *keys: str) -> list[DictConfig]:
    """The configuration for each swept choice of a group, with each swept value below it."""
    chosen = [key for key in keys if swept.get(key)]
    given = [(one, one.partition("=")[0].lstrip("+")) for one in config.hydra.overrides.task]
    fixed = [one for one, key in given if key not in swept and key not in chosen]
    values = [[f"{key}={value}" for value in swept[key] or ()] for key in chosen]
    every = product(*values) if chosen else ()
    return [compose(config.hydra.job.config_name, [*fixed, *one]) for one in every]


def _is_taken(_target_: str, **arguments: Any) -> bool:
    """Whether a constructor or a check takes a value; the job that has another is refused, and no job beside it."""
    try:
        load_target("_target_", _target_)(**arguments)
    except (ValueError, TypeError):
        return False
    return True


def _lists_layers(value: Any) -> bool:
    """Whether a value of `site.layers` is a list of blocks; another is refused by the job that has it."""
    return isinstance(value, list) and all(type(layer) is int and layer >= 0 for layer in value)


def _to_dict(node: DictConfig) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(node, resolve=True)
    return content


def _write(value: Any) -> str:
    """A rule as a value of an override."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_write(one)}" for key, one in value.items()) + "}"
    return quote(value) if isinstance(value, str) else json.dumps(value)
