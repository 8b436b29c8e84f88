"""What the jobs of a sweep will want of the language model, so that the first reads all of it in one pass."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

POSITIONS = "datamodules.language.positions.Positions"


def gather(config: DictConfig, given: Sequence[str], swept: Mapping[str, Sequence[str] | None]) -> list[str]:
    """Overrides with which each job captures what the others read: `site.also`, and `positions.also`.

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
        named = swept.get("site.name") or [one.site.name for one in _compose_each(config, "site", swept)]
        if len(set(named)) > 1:
            shared.append(f"site.also=[{','.join(dict.fromkeys(named))}]")
    if "positions.also" not in keys:
        choices = [choice.positions for choice in _compose_each(config, "positions", swept)]
        alike = len({one.get("into_prompt") for one in choices}) == 1  # else the same rule reads other tokens
        if len(choices) > 1 and alike and all(one.get("_target_") == POSITIONS for one in choices):
            rules = [OmegaConf.to_container(rule, resolve=True) for one in choices for rule in one.rules]
            different = {json.dumps(rule, sort_keys=True): rule for rule in rules}
            shared.append(f"positions.also=[{','.join(_write(rule) for rule in different.values())}]")
    return shared


def _compose_each(config: DictConfig, group: str, swept: Mapping[str, Sequence[str] | None]) -> list[DictConfig]:
    """The configuration for each swept choice of a group."""
    fixed = [
        one
        for one in config.hydra.overrides.task
        if one.partition("=")[0].lstrip("+") not in swept and one.partition("=")[0] != group
    ]
    return [compose(config.hydra.job.config_name, [*fixed, f"{group}={choice}"]) for choice in swept.get(group) or ()]


def _write(value: Any) -> str:
    """A rule as a value of an override."""
    from probes.jobs.sweep.naming import quote

    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_write(one)}" for key, one in value.items()) + "}"
    return quote(value) if isinstance(value, str) else json.dumps(value)
