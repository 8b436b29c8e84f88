"""Cards and blocks of small grids, as a datamodule gives them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.card import Card, Count, TargetCard


def make_card(
    layers: Sequence[int] = (0, 4),
    positions: Sequence[str] = ("a", "b", "c"),
    width: int = 6,
    names: Sequence[str] = ("correctness",),
    **more: Any,
) -> Card:
    """The card of a grid; targets named `LABEL, seed S` are splits of one label set. `counts`: n, n_positive."""
    given = {"train": (240, 120), "val": (60, 30), "test": (100, 50)} | more.pop("counts", {})
    counts = {split: Count(*count) for split, count in given.items()}
    targets = tuple(TargetCard(name, name.split(", seed")[0], k, counts) for k, name in enumerate(names))
    usual: dict[str, Any] = {
        "model": "a model",
        "dataset": "questions",
        "site": "resid_post",
        "n_valid": (400,) * len(positions),
    }
    return Card(layers=tuple(layers), positions=tuple(positions), width=width, targets=targets, **(usual | more))


def make_block(
    acts: Tensor, labels: Tensor, valid: Tensor, cells: Tensor, examples: Tensor | None = None
) -> dict[str, Tensor]:
    """A block of activations [C, n, D] from labels [n] or [K, n] and valid [C, n] or [K, C, n]."""
    n = acts.shape[1]
    labels, valid = labels.reshape(-1, n), valid.reshape(-1, len(acts), n)
    examples = torch.arange(n) if examples is None else examples
    return {
        "acts": acts,
        "labels": labels.expand(len(valid), -1),
        "valid": valid,
        "cells": cells,
        "groups": examples,
        "held": torch.ones(len(valid), n, dtype=torch.bool),
        "examples": examples,
    }
