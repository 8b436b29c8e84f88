"""probes.safetensors: the probes of a run, with the card they were fitted on and every AUC."""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from datamodules.card import Card
from probes.analysis.auc_map import AUCMap
from probes.analysis.reading import nested

PROBES = "probes.safetensors"


class Probes(NamedTuple):
    """Linear probes of a run.

    Attributes:
        weight: [K, L, T, D] float32, NaN where there is no probe.
        bias: [K, L, T] float32, likewise.
        card: of the data that they were fitted on.
        auc: for each split that was scored, [K][L][T], None where there is none.
    """

    weight: Tensor
    bias: Tensor
    card: Card
    auc: dict[str, list[list[list[float | None]]]]


def save_probes(path: Path, tensors: dict[str, Tensor], card: Card, maps: dict[str, list[AUCMap]]) -> None:
    """Write the tensors [K, L, T, ..] of a grid as safetensors, the card and every AUC as its metadata."""
    auc = {split: [nested(one.auc) for one in of_split] for split, of_split in maps.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry of metadata: safetensors writes several in any order. Not save_file: only its owner could read the file.
    path.write_bytes(save(tensors, {"card": json.dumps(card.to_json() | {"auc": auc}, allow_nan=False)}))


def load_probes(path: str | Path) -> Probes:
    """Read probes.safetensors, also one of version 0.1, whose probes have no axis of targets.

    >>> weight, bias, card, auc = load_probes("outputs/latest/probes.safetensors")  # doctest: +SKIP

    Raises:
        ValueError: the file was not written by a run, or holds probes that are not linear.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if "card" not in metadata:
            raise ValueError(f"expected the probes of a run, got {path} without a card; point to its {PROBES}")
        if (names := sorted(file.keys())) != ["bias", "weight"]:
            raise ValueError(f"expected linear probes, got {path} with {', '.join(names)}; open it with safetensors")
        weight, bias, card = file.get_tensor("weight"), file.get_tensor("bias"), json.loads(metadata["card"])
    if bias.ndim == 2:
        return Probes(weight[None], bias[None], Card.from_json(card), {k: [v] for k, v in card["auc"].items()})
    return Probes(weight, bias, Card.from_json(card), card["auc"])
