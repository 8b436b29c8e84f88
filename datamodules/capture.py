"""Activations of chosen tokens at every layer, read by forward hooks in one pass; nothing else is kept.

Sites carry TransformerLens' names. Layer i is block i, counted from 0; `resid_pre` of a block is what enters it and
`resid_post` what leaves it, before any final norm.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

VERSION = 1  # part of the cache key: raise it when the same inputs would give other activations

# For each site: the path of the submodule below its block, and whether its input or its output is read.
_SITES = {
    "resid_pre": ("", "input"),
    "resid_post": ("", "output"),
    "attn_out": ("self_attn", "output"),
    "z": ("self_attn.o_proj", "input"),
    "mlp_post": ("mlp.down_proj", "input"),
    "mlp_out": ("mlp", "output"),
}
SITES = tuple(_SITES)


def check_site(site: str) -> None:
    """Raise ValueError, listing the valid names, when a site is not one of `SITES`."""
    if site not in _SITES:
        raise ValueError(f"site.name: expected one of {', '.join(SITES)}; got {site!r}")


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Return the model's decoder blocks: its one list of as many modules as its configuration counts layers."""
    depth = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"{type(model).__name__}: expected a list of {depth} blocks among its modules, found none")


def choose_layers(model_layers: int, layers: Sequence[int] | None) -> list[int]:
    """Return the layers to read, all where `layers` is None; ValueError for one outside the model."""
    if layers is not None and not (isinstance(layers, Sequence) and all(type(layer) is int for layer in layers)):
        raise ValueError(f"site.layers: expected a list of layers such as [0, 4], got {layers}")
    chosen = list(range(model_layers)) if layers is None else sorted(set(layers))
    outside = [layer for layer in chosen if not 0 <= layer < model_layers]
    if outside or not chosen:
        raise ValueError(
            f"site.layers: expected layers of the model, 0 to {model_layers - 1}, got {list(layers or [])}"
        )
    return chosen


@torch.inference_mode()
def capture(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], index: Tensor, site: str, layers: Sequence[int]
) -> Tensor:
    """Read one site at chosen tokens of a batch of sequences.

    Args:
        model: causal language model; the language-model head is not run.
        sequences: n token id sequences, prompt plus answer, of any lengths.
        index: [n, T] int64, the tokens wanted of each sequence.
        site: one of `SITES`.
        layers: L block numbers.

    Returns:
        [n, L, T, D] in the model's dtype, on its device.
    """
    check_site(site)
    path, side = _SITES[site]
    n, width = len(sequences), max(map(len, sequences))
    # Padded on the right: positions then count from 0 in every row, and causal attention never sees the padding.
    ids = torch.zeros(n, width, dtype=torch.long)
    mask = torch.zeros(n, width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    rows, at = torch.arange(n, device=model.device)[:, None], index.to(model.device)
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor], None]:
        return lambda tensor: found.__setitem__(layer, tensor[rows, at])

    with ExitStack() as hooks:
        every = blocks(model)
        for layer in layers:
            module = _submodule(every[layer], site, path)
            hooks.callback(_hook(module, side, keep(layer)).remove)
        model.base_model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
    return torch.stack([found[layer] for layer in layers], dim=1)


def _submodule(block: nn.Module, site: str, path: str) -> nn.Module:
    try:
        return block.get_submodule(path)
    except AttributeError:
        modules = dict(block.named_modules())
        there = ", ".join(name for name, (below, _) in _SITES.items() if below in modules)
        raise ValueError(f"site.name: expected one that {type(block).__name__} has: {there}; got {site}") from None


def _hook(module: nn.Module, side: str, keep: Callable[[Tensor], None]) -> torch.utils.hooks.RemovableHandle:
    # Any: blocks take their input by position or by name, and give a tensor or a tuple that starts with it.
    def read_input(_: nn.Module, args: Any, kwargs: Any) -> None:
        keep(args[0] if args else kwargs["hidden_states"])

    def read_output(_: nn.Module, args: Any, output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    if side == "input":
        return module.register_forward_pre_hook(read_input, with_kwargs=True)
    return module.register_forward_hook(read_output)


def check_finite(acts: Tensor, layers: Sequence[int], positions: Sequence[str], ids: Sequence[str]) -> None:
    """Raise ValueError naming layer, position and example of the first NaN or infinity in acts [n, L, T, D]."""
    if torch.isfinite(acts).all():
        return
    n, layer, position, unit = torch.nonzero(~torch.isfinite(acts))[0].tolist()
    raise ValueError(
        f"activations: expected finite numbers, got {acts[n, layer, position, unit].item()} at layer {layers[layer]}, "
        f"position {positions[position]}, example {ids[n]}; try model.dtype=bfloat16 or float32"
    )
