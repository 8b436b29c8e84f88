"""Scores: every out-of-sample score of a run, as it stands in scores.safetensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.card import Card, show_text
from probes.analysis.auc_map import AUCMap
from probes.analysis.auroc import auroc_with_variance
from probes.analysis.sealed import read_sealed, seal

SCORES = "scores.safetensors"
PARTS = {"val": 1, "test": 2}  # numbers of `part`; 0 is neither
TENSORS = ("scores", "examples", "part", "labels")  # of every record; newer ones also hold groups
DTYPES = {
    "scores": torch.float32,
    "examples": torch.int64,
    "part": torch.uint8,
    "labels": torch.uint8,
    "groups": torch.int64,
}


class Rows(NamedTuple):
    """The m examples of one split of one target.

    Attributes:
        scores: [L, T, m] float32, NaN where the example lacks the position.
        labels: [m] uint8, 0 or 1.
        examples: [m] int64, row numbers in examples.parquet.
        groups: [m] int64, equal for examples of one group.
    """

    scores: Tensor
    labels: Tensor
    examples: Tensor
    groups: Tensor


def require_split(split: Any) -> None:
    """Refuse the name of a split without out-of-sample scores.

    Raises:
        ValueError: it is neither val nor test.

    Example:
        >>> require_split("train")
        Traceback (most recent call last):
        ValueError: split: expected val or test, whose rows no probe was fitted on, got 'train'; choose one of these
    """
    if not (isinstance(split, str) and split in PARTS):
        raise ValueError(
            f"split: expected {' or '.join(PARTS)}, whose rows no probe was fitted on, got {split!r}; choose one of "
            "these"
        )


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of n examples, each by the probes that did not see it in training.

    Attributes:
        scores: [K, L, T, n] float32, NaN where the example lacks the position, or there is no probe.
        examples: [n] int64, ascending, row numbers in examples.parquet.
        part: [K, n] uint8, which split of a target the example is in, by the numbers of `PARTS`.
        labels: [K, n] uint8, 0 or 1.
        groups: [n] int64, equal for examples of one group. Files of earlier versions hold none; each example is then a
            group of its own.
        card: of the data that was scored.
    """

    scores: Tensor
    examples: Tensor
    part: Tensor
    labels: Tensor
    groups: Tensor
    card: Card

    def of(self, split: str, k: int = 0) -> Rows:
        """The examples in a split, val or test, of target k.

        Raises:
            ValueError: another split, or no such target.
        """
        require_split(split)
        if type(k) is not int or not 0 <= k < len(self.part):
            raise ValueError(
                f"k: expected the number of a target, from 0 to {len(self.part) - 1}, got {k!r}; choose one"
            )
        here = self.part[k] == PARTS[split]
        return Rows(self.scores[k][:, :, here], self.labels[k, here], self.examples[here], self.groups[here])

    def maps(self, split: str) -> list[AUCMap]:
        """The AUC of every cell and its clustered standard error, a map for each target; those of heatmap.csv.

        Raises:
            ValueError: another split.

        >>> load_scores("outputs/latest").maps("test")[0].auc.max()  # doctest: +SKIP
        """
        found = []
        for k, target in enumerate(self.card.targets):
            scores, labels, _, groups = self.of(split, k)
            valid = ~scores.isnan()
            auc, variance = auroc_with_variance(scores, labels, valid, groups)
            n_positive = (valid & (labels == 1)).sum(-1)
            layers, positions = self.card.layers, self.card.positions
            found.append(AUCMap(target.name, split, layers, positions, auc, variance.sqrt(), valid.sum(-1), n_positive))
        return found

    def to_bytes(self) -> bytes:
        """The content of scores.safetensors."""
        return seal({name: getattr(self, name) for name in (*TENSORS, "groups")}, self.card.to_json())


def load_scores(run: str | Path, groups: Tensor | None = None) -> Scores:
    """Read the scores of a run folder.

    Args:
        run: the folder.
        groups: [N] int64 of all examples, for files of earlier versions, which hold none.

    Raises:
        FileNotFoundError: the run left its scores out, or is none.
        ValueError: the file holds no scores of a run.
    """
    what, missing = "the scores of a run", "run again with a larger scores.max_bytes, or name a run"
    if not isinstance(run, str | Path):
        raise ValueError(f"expected the folder of a run, got {show_text(repr(run))[:200]}; name one")
    path = Path(run) / SCORES
    content, tensors = read_sealed(path, what, missing)
    shown = show_text(str(path))[:200]
    if not tensors.keys() >= {*TENSORS}:
        raise ValueError(f"expected {what}, got {shown} without some of {', '.join(TENSORS)}; run again")
    parts = {name: tensor for name, tensor in tensors.items() if name in (*TENSORS, "groups")}
    try:
        card = Card.from_json(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected {what}, got {shown} with another card ({error}); run again") from None
    rows = parts["examples"]
    if rows.ndim != 1 or rows.dtype != torch.int64 or (rows < 0).any() or (rows.diff() <= 0).any():
        raise ValueError(f"expected row numbers from 0, ascending, as examples of {shown}, got others; run again")
    if "groups" not in parts:
        beyond = groups is None or (len(rows) and int(rows[-1]) >= len(groups))  # the latter is told by the caller
        parts["groups"] = torch.arange(len(rows)) if beyond or groups is None else groups[rows]
    if fault := find_misfit(parts, card):
        raise ValueError(f"expected {what}, got {shown} with {fault}; run again")
    return Scores(**parts, card=card)


def find_misfit(parts: Mapping[str, Tensor], card: Card) -> str | None:
    """Which of the tensors of a record has another shape than its card and its examples ask for; None: none."""
    if missing := [name for name in (*TENSORS, "groups") if not isinstance(parts.get(name), Tensor)]:
        return f"no {', '.join(missing)}"
    if others := [name for name in parts if name not in (*TENSORS, "groups")]:
        return f"{', '.join(map(str, others))[:100]} beside its tensors"
    shape = (*card.shape[:3], len(parts["examples"]))
    K, n = shape[0], shape[-1]
    wanted = {"scores": shape, "examples": (n,), "part": (K, n), "labels": (K, n), "groups": (n,)}
    for name, tensor in parts.items():
        if tuple(tensor.shape) != wanted[name] or not K:
            return f"{name} {list(tensor.shape)} where its card and its examples ask for {list(wanted[name])}"
        if tensor.dtype != DTYPES[name]:
            return f"{name} in {tensor.dtype} instead of {DTYPES[name]}"
    if (parts["part"] > 2).any() or (parts["labels"] > 1).any():
        return "parts or labels beyond 2 or 1"
    return None


def join_parts(parts: dict[str, "Scores"]) -> Scores:
    """Scores of several splits as one record; an example may be in another split of each target.

    Args:
        parts: for each split its scores, whose `part` is that split's number where a target holds the example.
    """
    first, *_ = parts.values()
    examples = torch.cat([one.examples for one in parts.values()]).unique()  # ascending
    K, L, T, _ = first.scores.shape
    joined = Scores(
        torch.full((K, L, T, len(examples)), torch.nan),
        examples,
        torch.zeros(K, len(examples), dtype=torch.uint8),
        torch.zeros(K, len(examples), dtype=torch.uint8),
        torch.zeros_like(examples),
        first.card,
    )
    for one in parts.values():
        at = torch.searchsorted(examples, one.examples)
        for k in range(K):
            held = one.part[k] > 0
            joined.part[k, at[held]] = one.part[k, held]
            joined.scores[k][:, :, at[held]] = one.scores[k][:, :, held]
        joined.labels[:, at] = one.labels
        joined.groups[at] = one.groups
    return joined
