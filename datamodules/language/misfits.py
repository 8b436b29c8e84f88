"""Settings of a model that do not fit its weights, and that transformers takes without a word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The list of blocks and the number of a block in the name of a weight: model.layers. and 3 of model.layers.3.mlp.weight
_BLOCK = re.compile(r"((?:\D\w*\.)*?)(\d+)\.")


def require_all_blocks(named: str, model: PreTrainedModel, unexpected: Iterable[str]) -> None:
    """Refuse a configuration with fewer blocks than the weights have: half a model would run.

    Args:
        named: the model in messages.
        model: as it was loaded.
        unexpected: names of weights in the files that the model has no place for.

    Raises:
        ValueError: one of them is of a block behind the last one.
    """
    sizes: dict[str, int] = {}
    for name in model.state_dict():
        if found := _BLOCK.match(name):
            sizes[found[1]] = max(sizes.get(found[1], 0), int(found[2]) + 1)
    for name in sorted(unexpected):
        if not (found := _BLOCK.match(name)):
            continue
        for blocks, n in sizes.items():
            # Names begin otherwise without a head. Parts that read images have lists of blocks of their own.
            alike = f".{found[1]}".endswith(f".{blocks}") or f".{blocks}".endswith(f".{found[1]}")
            if alike and int(found[2]) >= n:
                raise ValueError(
                    f"{named}: expected a config.json with as many layers as the weights, got {n} layers beside "
                    f"{name}; correct its number of layers, or fetch the model again"
                )


def require_token_ids(named: str, ends: object) -> None:
    """Refuse stop tokens that are no token ids.

    >>> require_token_ids("model", [2, 7])

    Raises:
        ValueError: they are not.
    """
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(type(token) is int and token >= 0 for token in listed):
        raise ValueError(
            f"{named}: expected token ids as eos_token_id of generation_config.json, got {repr(ends)[:100]}; correct it"
        )
