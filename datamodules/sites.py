"""Where in a model's blocks each site is read, found by structure.

A *block* is one of as many equal modules as the configuration counts layers. Its *output projection* is the last linear
map to the width of the residual stream within its attention, its *down projection* the same within what follows; the
four inner sites are what enters and leaves these two. What a family does around them is in docs/concepts.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

SITES = ("resid_pre", "resid_post", "attn_out", "z", "mlp_post", "mlp_out")


class Place(NamedTuple):
    """A module, and whether its `input` or its `output` is read."""

    module: nn.Module
    side: str


def check_site(site: str) -> None:
    """Raise ValueError, listing the valid names, when a site is not one of `SITES`."""
    if site not in SITES:
        raise ValueError(f"site.name: expected one of {', '.join(SITES)}; got {site!r}")


def decoder(model: PreTrainedModel) -> nn.Module:
    """Return the language part of a model without its head, or the whole of an encoder."""
    inner = model.get_decoder()
    return model.base_model if inner is None else inner


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Return the blocks of the language part, in order.

    Raises:
        ValueError: no list of as many modules as the configuration counts layers.
    """
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in decoder(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"{type(model).__name__}: expected a list of {depth} blocks among its modules, found none")


def places(block: nn.Module, width: int) -> dict[str, Place]:
    """Return where each site of a block is read, those that it has.

    Args:
        block: one of `blocks`.
        width: D of the residual stream.
    """
    found = {"resid_pre": Place(block, "input"), "resid_post": Place(block, "output")}
    children = list(block.children())
    attention = next((child for child in children if "Attention" in type(child).__name__), None)
    if attention is None:
        return found
    if projection := _last_projection(attention, width):
        found |= {"attn_out": Place(projection, "output"), "z": Place(projection, "input")}
    rest = [child for child in children if child is not attention and _has_matrices(child)]
    if not rest:
        return found
    mlp = rest[-1]
    if any(parameter.ndim > 2 for parameter in mlp.parameters()) or _contains(mlp, nn.ModuleList):
        return found | {
            "mlp_out": Place(mlp, "output")
        }  # experts: several down projections, of which a token takes a few
    if projection := _last_projection(mlp, width):
        found |= {"mlp_post": Place(projection, "input"), "mlp_out": Place(projection, "output")}
    return found


def place_of(site: str, block: nn.Module, width: int) -> Place:
    """Return where one site is read.

    Raises:
        ValueError: the block lacks it; names those it has.
    """
    check_site(site)
    there = places(block, width)
    if site not in there:
        names = ", ".join(name for name in SITES if name in there)
        raise ValueError(f"site.name: expected one that {type(block).__name__} has: {names}; got {site}")
    return there[site]


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


def _last_projection(module: nn.Module, width: int) -> nn.Module | None:
    linear = [m for m in module.modules() if getattr(m, "out_features", getattr(m, "nf", None)) == width]
    return linear[-1] if linear else None


def _has_matrices(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters())


def _contains(module: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(m, kind) for m in module.modules())
