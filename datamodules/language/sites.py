"""Finds where each site is read in the blocks of a model, from the structure of its modules.

A *block* is one of a list of modules, one for each layer in the configuration, and some contain an attention. Its
*output projection* is the linear map to the width of the residual stream that its attention calls last, its *down
projection* the one that its feed-forward part calls last; the four inner sites are the inputs and outputs of these
two. Which of several maps is called last is known in the forward pass. docs/concepts.md lists what each family does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from datamodules.language.site_names import SITES, check_site

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Place(NamedTuple):
    """Candidate modules, of which the last called is read, and the side to read: `input` or `output`."""

    modules: Sequence[nn.Module]
    side: str


def get_width(config: PretrainedConfig, site: str) -> int:
    """Return the width of a site for one token and layer, from the configuration of the language part.

    >>> from transformers import PretrainedConfig
    >>> get_width(PretrainedConfig(hidden_size=64, num_attention_heads=4, intermediate_size=256), "mlp_post")
    256
    """
    if site == "z":
        heads = config.num_attention_heads
        return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return getattr(config, "intermediate_size", 4 * config.hidden_size) if site == "mlp_post" else config.hidden_size


def get_decoder(model: PreTrainedModel) -> nn.Module:
    """Return the language part of a model without its head, or the whole of an encoder."""
    inner = model.get_decoder()
    return model.base_model if inner is None else inner


def find_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Return the blocks of the language part, in order.

    Raises:
        ValueError: no list has one module for each layer of the configuration, or several have and none has attentions.

    Example:
        >>> len(find_blocks(AutoModelForCausalLM.from_pretrained("gpt2")))  # doctest: +SKIP
        12
    """
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = [m for m in get_decoder(model).modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    attending = [m for m in lists if any(_find_attention(block) is not None for block in m)]
    found = attending[:1] or lists
    if len(found) != 1:
        raise ValueError(f"{type(model).__name__}: expected one list of {depth} blocks in it, found {len(found)}")
    return found[0]


def find_places(block: nn.Module, width: int) -> dict[str, Place]:
    """Return where each site of a block is read; sites that the block lacks are missing.

    A block with two feed-forward parts, such as experts and a shared expert, has no `mlp_post` and no `mlp_out`.

    Args:
        block: one of those that `find_blocks` returns.
        width: D of the residual stream.

    Example:
        >>> sorted(find_places(find_blocks(model)[0], width=768))  # doctest: +SKIP
    """
    found = {"resid_pre": Place([block], "input"), "resid_post": Place([block], "output")}
    attention = _find_attention(block)
    if attention is None:
        return found
    if not _has_experts(attention) and (projections := _find_projections(attention, width)):
        found |= {"attn_out": Place(projections, "output"), "z": Place(projections, "input")}
    others = [child for child in block.children() if not _attends(child)]
    linear = [child for child in others if _ends_in(child, width)]
    parts = [
        child for child in others if child not in linear and (_find_projections(child, width) or _has_experts(child))
    ]
    if len(parts) > 1:
        return found
    if parts and _has_experts(parts[0]):
        return found | {"mlp_out": Place(parts, "output")}  # several down projections; each token uses a few of them
    if projections := _find_projections(parts[0], width) if parts else linear:
        found |= {"mlp_post": Place(projections, "input"), "mlp_out": Place(projections, "output")}
    return found


def find_place(site: str, block: nn.Module, width: int) -> Place:
    """Return where one site is read.

    Raises:
        ValueError: the block lacks it; the message lists the sites that it has.

    Example:
        >>> find_place("resid_pre", find_blocks(model)[0], width=768).side  # doctest: +SKIP
        'input'
    """
    check_site(site)
    there = find_places(block, width)
    if site not in there:
        names = ", ".join(name for name in SITES if name in there)
        raise ValueError(f"site.name: expected one that {type(block).__name__} has: {names}; got {site}")
    return there[site]


def choose_layers(model_layers: int, layers: Sequence[int] | None) -> list[int]:
    """Return the layers to read, all where `layers` is None; ValueError for one outside the model.

    >>> choose_layers(8, None), choose_layers(8, [4, 0])
    ([0, 1, 2, 3, 4, 5, 6, 7], [0, 4])
    """
    if layers is not None and not (isinstance(layers, Sequence) and all(type(layer) is int for layer in layers)):
        raise ValueError(f"site.layers: expected a list of layers such as [0, 4], got {layers}")
    chosen = list(range(model_layers)) if layers is None else sorted(set(layers))
    outside = [layer for layer in chosen if not 0 <= layer < model_layers]
    if outside or not chosen:
        raise ValueError(
            f"site.layers: expected layers of the model, 0 to {model_layers - 1}, got {list(layers or [])}"
        )
    return chosen


def _find_attention(block: nn.Module) -> nn.Module | None:
    return next(filter(_attends, block.children()), None)


def _attends(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__


def _ends_in(module: nn.Module, width: int) -> bool:
    return getattr(module, "out_features", getattr(module, "nf", None)) == width


def _find_projections(module: nn.Module, width: int) -> list[nn.Module]:
    return [m for m in module.modules() if _ends_in(m, width)]


def _has_experts(module: nn.Module) -> bool:
    stacked = any(parameter.ndim > 2 for parameter in module.parameters())
    return stacked or any(isinstance(m, nn.ModuleList) for m in module.modules())
