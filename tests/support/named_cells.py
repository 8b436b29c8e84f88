"""A grid of activations whose cells are known by name."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from tests.support.cards import make_block, make_card
from tests.support.streams import Stream

LAYERS, POSITIONS, N, D = (0, 4), ("a", "b", "c"), 400, 6
SEEDS = ("correctness, seed 0", "correctness, seed 7", "refusal")


class NamedCells(pl.LightningDataModule):
    """A grid whose cells are known by name: the signal of layer l at position p is their place in the alphabet.

    Two targets are splits of one label set; the third has labels of its own. `bits` are random labels as text.
    """

    def __init__(
        self,
        layers: Sequence[int] = LAYERS,
        positions: Sequence[str] = POSITIONS,
        names: Sequence[str] = SEEDS,
        per_block: int = 4,
        groups: Tensor | None = None,
        **more: Any,
    ):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.labels = torch.stack([torch.arange(N) % 2, torch.arange(N) % 2, (torch.arange(N) % 5 < 2).long()])
        self.labels = self.labels[: len(names)]
        signal = {(0, "a"): 0.1, (0, "b"): 0.5, (0, "c"): 0.9, (4, "a"): 1.3, (4, "b"): 1.7, (4, "c"): 2.1}
        noise = torch.randn(N, D, generator=rng)
        self.cells = [(layer, position) for layer in layers for position in positions]
        self.acts = torch.stack([noise + signal.get(cell, 0) * self.labels[-1][:, None] for cell in self.cells])
        self.acts += 0.8 * self.labels[0][:, None] * torch.eye(D)[0]
        order = torch.stack([torch.randperm(N, generator=rng) for _ in names])
        self.splits = torch.stack([torch.empty(N).long().scatter_(0, one, torch.arange(N) * 3 // N) for one in order])
        self.card = make_card(layers, positions, D, names, **more)
        self.per_block = per_block
        self.groups = torch.arange(N) if groups is None else groups

    def held(self, split: str) -> Tensor:
        return self.splits == ("train", "val", "test").index(split)

    def blocks(self, split: str) -> Iterator[dict[str, Tensor]]:
        held = self.held(split)
        rows = held.any(0).nonzero()[:, 0]
        for cells in torch.arange(len(self.cells)).split(self.per_block):
            valid = held[:, None, rows].expand(-1, len(cells), -1)
            block = make_block(self.acts[cells][:, rows], self.labels[:, rows], valid, cells, rows)
            yield block | {"held": held[:, rows], "groups": self.groups[rows]}

    def train_dataloader(self) -> Stream:
        return Stream(list(self.blocks("train")))

    def val_dataloader(self) -> Stream:
        return Stream(list(self.blocks("val")))

    def test_dataloader(self) -> Stream:
        return Stream(list(self.blocks("test")))
