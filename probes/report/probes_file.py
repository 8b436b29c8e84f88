"""probes.safetensors: the probes of a run, with the card they were fitted on and every AUC."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.card import Card, show_text
from probes.analysis.auc_map import AUCMap
from probes.analysis.reading import nested
from probes.analysis.sealed import Sealed, read_sealed, seal
from probes.report.run_folder import find_folder

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
    write_tensors(
        path, tensors, card, {split: [nested(one.auc) for one in of_split] for split, of_split in maps.items()}
    )


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    card: Card,
    auc: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write the tensors of a grid, AUCs [K][L][T] of each split, and what else is known of the run, JSON-ready."""
    content = card.to_json() | {"auc": auc} | ({"about": about} if about else {})
    path.write_bytes(seal(tensors, content))  # not save_file: only its owner could read the file


def load_probes(path: str | Path) -> Probes:
    """Read probes.safetensors, also one of version 0.1, whose probes have no axis of targets.

    A file holds a checksum of its tensors and its card, so that one altered bit is refused. Files of earlier versions
    hold none: they are taken as they are, and a line of the log says so.

    >>> weight, bias, card, auc = load_probes("outputs/latest/probes.safetensors")  # doctest: +SKIP

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by a run, was altered, or holds probes that are not linear.
    """
    content, tensors = read_tensors(path)
    shown = show_text(str(path))[:200]
    if (names := sorted(tensors)) != ["bias", "weight"]:
        named = show_text(", ".join(names))[:200]
        raise ValueError(f"expected linear probes, got {shown} with {named}; open it with safetensors")
    weight, bias = tensors["weight"], tensors["bias"]
    try:
        found, auc = Card.from_json(content), content["auc"]
        if bias.ndim == 2:
            weight, bias, auc = weight[None], bias[None], {split: [of_one] for split, of_one in auc.items()}
        fault = _find_fault(weight, bias, found) or _find_fault_of_auc(auc, found)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"expected the probes of a run, got {shown} with another card ({reason}); run again") from None
    if fault:
        raise ValueError(f"expected the probes of a run, got {shown} with {fault}; run again")
    return Probes(weight, bias, found, auc)


def find_probes(run: str | Path) -> Path:
    """probes.safetensors of a run.

    Args:
        run: the folder, or the file itself.

    Raises:
        FileNotFoundError: there is no such folder, or no probes in it.
        ValueError: it is no path, or that of something else.

    Example:
        >>> find_probes("outputs/latest")  # doctest: +SKIP
        PosixPath('outputs/latest/probes.safetensors')
    """
    if isinstance(run, str | Path) and Path(run).suffix == Path(PROBES).suffix and not Path(run).expanduser().is_dir():
        return Path(run).expanduser()
    folder = find_folder(run)
    if not (folder / PROBES).exists():
        raise FileNotFoundError(
            f"run: expected the folder of a finished run, got {show_text(str(folder))[:200]} without {PROBES}; wait "
            "for its end, or name another, as outputs/latest"
        )
    return folder / PROBES


def read_notes(path: str | Path) -> dict[str, Any]:
    """What `write_tensors` was told of the run; empty where it was told nothing."""
    about = read_tensors(path).content.get("about")
    return about if isinstance(about, dict) else {}


def read_tensors(path: str | Path) -> Sealed:
    """Read the card and the tensors by name, of probes of any kind.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by a run, or can't be read.
    """
    return read_sealed(path, "the probes of a run", f"point to its {PROBES}")


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
    if not auc:
        return "no AUCs"
    for split, of_split in auc.items():
        rows = [row for of_target in of_split for row in of_target]
        if [len(of_split), len(rows)] != [K, K * L] or any(len(row) != T for row in rows):
            return f"AUCs of {show_text(str(split))[:40]} in another shape than [{K}, {L}, {T}]"
        cells = [one for row in rows for one in row]
        if not all(one is None or (type(one) in (int, float) and 0 <= one <= 1) for one in cells):
            return f"AUCs of {show_text(str(split))[:40]} that are not numbers from 0 to 1"
    return None
