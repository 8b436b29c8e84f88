"""Activations of chosen tokens at every layer, read by forward hooks in one pass; nothing else is kept.

Layer i is block i, counted from 0; `resid_pre` is the input of a block and `resid_post` its output, before any
final norm. `sites` finds the other sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from datamodules.language.sites import find_blocks, find_place, get_decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = 2  # part of the cache key: raise it when the same inputs would give other activations


@torch.inference_mode()
def capture(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    tokens: Tensor,
    sites: Sequence[str],
    layers: Sequence[int],
) -> dict[str, Tensor]:
    """Read sites at chosen tokens of a batch of sequences, all of them in one forward.

    Args:
        model: causal language model, whose head is not run, or an encoder.
        sequences: n token id sequences, prompt plus answer, of any lengths.
        tokens: [n, T, 2] int64, first and last token of each position; where they differ, the mean is taken of all
            from one to the other, or the elementwise maximum where the last comes first.
        sites: from `SITES`.
        layers: L block numbers.

    Returns:
        for each site [n, L, T, D] in the model's dtype, on the device of its first weights; D is that of the site.

    Raises:
        ValueError: the model lacks a site; the message lists the sites that it has.

    Example:
        >>> tokens = torch.tensor([[[2, 2]]])  # one sequence, one position: token 2
        >>> capture(model, [[5, 6, 7]], tokens, ["resid_post"], layers=[0, 4])["resid_post"].shape  # doctest: +SKIP
        torch.Size([1, 2, 1, 768])
    """
    n, width = len(sequences), max(map(len, sequences))
    # Padded on the right: positions then count from 0 in every row, and causal attention never sees the padding.
    ids, mask = torch.zeros(2, n, width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    language, every, stream = (
        get_decoder(model),
        find_blocks(model),
        model.config.get_text_config(decoder=True).hidden_size,
    )
    gather = _TokenReader(tokens, width, model.device)
    found: dict[tuple[str, int], Tensor | torch.Size] = {}
    settings = {"use_cache": False} if hasattr(model.config.get_text_config(decoder=True), "use_cache") else {}
    with ExitStack() as hooks:
        for site in dict.fromkeys(sites):
            for layer in layers:
                place = find_place(site, every[layer], stream)
                for module in place.modules:  # the last call overwrites the entry in `found`
                    hooks.callback(_add_hook(module, place.side, gather, found, (site, layer)).remove)
        language(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **settings)
    if missed := next((key for key in product(sites, layers) if key not in found), None):
        raise ValueError(f"site: expected {missed[0]} of block {missed[1]} to be computed, got a forward without it")
    taken = {key: h for key, h in found.items() if isinstance(h, Tensor)}
    if shape := next((shape for key, shape in found.items() if key not in taken), None):
        raise ValueError(f"site: expected activations [{n}, {width}, D], got {list(shape)}; choose another site")
    return {site: torch.stack([taken[site, layer].to(model.device) for layer in layers], 1) for site in sites}


class _TokenReader:
    """Selects the wanted tokens from the input or output of a module."""

    def __init__(self, tokens: Tensor, width: int, device: torch.device) -> None:
        first, last = tokens.to(device).unbind(-1)
        self.shape = (len(tokens), width)
        self.rows, self.at = torch.arange(len(tokens), device=device)[:, None], first
        self.several = (last != first).any(0).nonzero()[:, 0].tolist()  # positions that pool somewhere
        self.largest = (last < first).any(0).tolist()  # [T] those that take a maximum
        low, high, at = first.minimum(last), first.maximum(last), torch.arange(width, device=device)
        self.within = (at >= low[:, self.several, None]) & (at <= high[:, self.several, None])  # [n, .., width]

    def __call__(self, tensor: Tensor) -> Tensor | torch.Size:
        """[n, T, D] of [n, width, D], or of the same with its first two axes in one; of another shape, the shape."""
        n, width = self.shape
        if tensor.shape[:-1] not in ((n, width), (n * width,)):
            return tensor.shape  # not an error if another of the modules is called later
        tensor, device = tensor.reshape(n, width, -1), tensor.device
        taken = tensor[self.rows.to(device), self.at.to(device)]
        for t, within in zip(self.several, self.within.to(device).unbind(1), strict=True):
            if self.largest[t]:
                taken[:, t] = tensor.masked_fill(~within[..., None], -torch.inf).amax(1)
                continue
            total = tensor.masked_fill(~within[..., None], 0).sum(1, dtype=torch.float32)
            taken[:, t] = (total / within.sum(1, keepdim=True)).to(taken.dtype)
        return taken


def _add_hook(
    module: nn.Module,
    side: str,
    gather: _TokenReader,
    found: dict[tuple[str, int], Tensor | torch.Size],
    key: tuple[str, int],
) -> torch.utils.hooks.RemovableHandle:
    # Any: blocks take their input by position or by name, and return a tensor or a tuple that starts with it.
    def read_input(_: nn.Module, args: Any, kwargs: Any) -> None:
        found[key] = gather(args[0] if args else kwargs["hidden_states"])

    def read_output(_: nn.Module, args: Any, output: Any) -> None:
        found[key] = gather(output[0] if isinstance(output, tuple | list) else output)

    if side == "input":
        return module.register_forward_pre_hook(read_input, with_kwargs=True)
    return module.register_forward_hook(read_output)


def check_finite(acts: Tensor, layers: Sequence[int], positions: Sequence[str], ids: Sequence[str]) -> None:
    """Raise ValueError naming layer, position and example of the first NaN or infinity in acts [n, L, T, D].

    >>> check_finite(torch.zeros(1, 2, 1, 8), [0, 4], ["last"], ["q0"])
    """
    if torch.isfinite(acts).all():
        return
    n, layer, position, unit = torch.nonzero(~torch.isfinite(acts))[0].tolist()
    raise ValueError(
        f"activations: expected finite numbers, got {acts[n, layer, position, unit].item()} at layer {layers[layer]}, "
        f"position {positions[position]}, example {ids[n]}; try model.dtype=bfloat16 or float32"
    )
