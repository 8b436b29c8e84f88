"""probes.safetensors: the probes of a run, with the card they were fitted on and every AUC."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
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
        ValueError: the file was not written by a run, was damaged, or holds probes that are not linear.
    """
    card, tensors = read_tensors(Path(path))
    if (names := sorted(tensors)) != ["bias", "weight"]:
        raise ValueError(f"expected linear probes, got {path} with {', '.join(names)[:200]}; open it with safetensors")
    weight, bias = tensors["weight"], tensors["bias"]
    try:
        content = json.loads(card)
        found, auc = Card.from_json(content), content["auc"]
        if bias.ndim == 2:
            weight, bias, auc = weight[None], bias[None], {split: [of_one] for split, of_one in auc.items()}
        fault = _find_fault(weight, bias, found) or _find_fault_of_auc(auc, found)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected the probes of a run, got {path} with another card ({error}); run again") from None
    if fault:
        raise ValueError(f"expected the probes of a run, got {path} with {fault}; run again")
    return Probes(weight, bias, found, auc)


def read_tensors(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Read the card as JSON, and the tensors by name, of probes of any kind.

    Raises:
        ValueError: the file was not written by a run, or can't be read.
    """
    if path.exists() and not path.is_file():  # a pipe would wait for its writer
        what = "a folder" if path.is_dir() else "no regular file"
        raise ValueError(f"expected the probes of a run, got {path}, {what}; point to its {PROBES}")
    try:
        with safe_open(path, "pt") as file:
            if "card" not in (metadata := file.metadata() or {}):
                raise ValueError(f"expected the probes of a run, got {path} without a card; point to its {PROBES}")
            return metadata["card"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise FileNotFoundError(f"expected the probes of a run, got {path}: no such file") from None
    except (SafetensorError, OSError, RuntimeError, AttributeError) as error:  # also a type that torch does not have
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"expected the probes of a run, got {path}, which can't be read ({reason})") from None


def _find_fault(weight: Tensor, bias: Tensor, card: Card) -> str | None:
    """What does not fit in the tensors [K, L, T, D] and [K, L, T] beside the card; None where all fits."""
    for name, tensor, shape in (("weight", weight, card.shape), ("bias", bias, card.shape[:3])):
        if tensor.shape != shape:
            return f"{name} {list(tensor.shape)} where its card asks for {list(shape)}"
        if tensor.dtype != torch.float32:
            return f"{name} in {tensor.dtype} instead of torch.float32"
        if tensor.isinf().any():
            return f"infinity in {name}"
    if not torch.equal(weight.isnan(), bias.isnan()[..., None].expand_as(weight)):
        return "probes that are NaN in part"
    return None


def _find_fault_of_auc(auc: Any, card: Card) -> str | None:
    K, L, T, _ = card.shape
    for split, of_split in auc.items():
        rows = [row for of_target in of_split for row in of_target]
        if [len(of_split), len(rows)] != [K, K * L] or any(len(row) != T for row in rows):
            return f"AUCs of {str(split)[:40]} in another shape than [{K}, {L}, {T}]"
        cells = [one for row in rows for one in row]
        if not all(one is None or (type(one) in (int, float) and 0 <= one <= 1) for one in cells):
            return f"AUCs of {str(split)[:40]} that are not numbers from 0 to 1"
    return None
