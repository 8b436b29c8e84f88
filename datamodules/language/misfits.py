"""Settings of a model that do not fit its weights, and that transformers takes without a word."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.language.gguf_header import list_gguf_tensors

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


def list_tensors(path: Path) -> list[str]:
    """Names of the tensors in a safetensors or a GGUF file; none of a safetensors file that cannot be read.

    >>> list_tensors(folder / "model.safetensors")[:1]  # doctest: +SKIP
    ['model.embed_tokens.weight']
    """
    if path.suffix != ".safetensors":
        return list_gguf_tensors(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError):  # told when it is loaded
        return []


def require_gguf_blocks(named: str, tensors: Iterable[str], n: int) -> None:
    """Refuse a GGUF file with more blocks than its own settings say: transformers leaves the others out.

    >>> require_gguf_blocks("model.gguf", ["blk.0.attn_q.weight", "blk.1.attn_q.weight"], n=2)

    Raises:
        ValueError: there is a tensor of a block behind the last one.
    """
    numbers = [int(found[1]) for tensor in tensors if (found := re.match(r"blk\.(\d+)\.", tensor))]
    if numbers and max(numbers) >= n:
        raise ValueError(
            f"{named}: expected as many blocks as its settings say, got {n} there and tensors of {max(numbers) + 1}; "
            "fetch it again, or choose another file"
        )


def require_room(named: str, n_tensors: int, room: int, layers: object, count: Callable[[], int]) -> None:
    """Refuse settings of a model far larger than its files, before anything of that size is made.

    Args:
        named: the model in messages.
        n_tensors: tensors in the files.
        room: most numbers that the files can hold.
        layers: how many the settings ask for; a model of millions takes hours to lay out.
        count: how many numbers the weights of these settings are.

    Raises:
        ValueError: there are more layers than tensors, or more numbers than room for them.
    """
    if isinstance(layers, int) and layers > n_tensors:
        raise ValueError(
            f"{named}: expected settings with as many layers as the weights, got {layers:,} layers beside "
            f"{n_tensors:,} tensors; correct the number in config.json, or fetch the model again"
        )
    if (n := count()) > room:
        raise ValueError(
            f"{named}: expected settings with the sizes of the weights, got those of {n:,} numbers beside files that "
            f"hold at most {room:,}; correct the sizes in config.json, or fetch the model again"
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
