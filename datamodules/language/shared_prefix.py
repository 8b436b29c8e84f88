"""The beginning that the prompts of a batch share, such as a system prompt or examples: read once for all of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from datamodules.language.sites import get_decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHORTEST = 8  # tokens; reading fewer of them once does not repay the forward that it takes


def count_shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all prompts share; each prompt keeps at least one token of its own.

    >>> count_shared([[1, 2, 3], [1, 2, 4, 5]])
    2
    >>> count_shared([[1, 2], [1, 2]])
    1
    """
    columns = zip(*prompts, strict=False)
    shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, columns))
    return min(shared, min(map(len, prompts)) - 1)


@torch.inference_mode()
def read_shared(model: PreTrainedModel, cache: DynamicCache, prompts: Sequence[Sequence[int]]) -> None:
    """Read the P first tokens that the prompts of a batch share, in a forward of one row without the head.

    Prompts are padded on the left to the width of the longest. Token j of the shared beginning has place j whatever the
    padding, so the keys and values of one row serve every row, moved to the right by its padding. Of the batch, the
    first P columns hold nothing but padding and shared tokens. These are put into the cache, and a forward of all
    columns has only the others to read. Its mask, places and windows stay those of a batch that shares nothing.

    Nothing is read if the prompts share fewer than `SHORTEST` tokens, if the model takes no places, or if it forgets
    keys within P tokens, as layers with a short window do.

    Args:
        model: causal language model.
        cache: its keys and values, empty; filled with P columns of B rows.
        prompts: [B] token ids.

    Example:
        >>> cache = DynamicCache(config=model.config)  # doctest: +SKIP
        >>> read_shared(model, cache, [[*range(5, 25), 3], [*range(5, 25), 4, 5]])  # doctest: +SKIP
        >>> cache.get_seq_length()  # doctest: +SKIP
        20
    """
    P, decoder = count_shared(prompts), get_decoder(model)
    if len(prompts) == 1 or P < SHORTEST or "position_ids" not in inspect.signature(decoder.forward).parameters:
        return
    one = copy.deepcopy(cache)
    decoder(input_ids=torch.tensor([prompts[0][:P]], device=model.device), past_key_values=one, use_cache=True)
    kept = [(layer.keys, layer.values) for layer in one.layers if isinstance(layer, DynamicLayer)]
    read = [(keys, values) for keys, values in kept if keys is not None and values is not None and keys.shape[-2] == P]
    if len(read) < len(cache.layers):
        return
    width = max(map(len, prompts))
    padding = torch.tensor([width - len(prompt) for prompt in prompts])
    tokens = (torch.arange(P) - padding[:, None]).clamp(min=0)  # [B, P]; padding is masked, so any token may fill it
    for layer, (keys, values) in enumerate(read):
        at = tokens.to(keys.device)
        cache.update(keys[0][:, at].transpose(0, 1), values[0][:, at].transpose(0, 1), layer)
