"""What both datamodules share once activations lie somewhere: splits, card, memory budget, and the three loaders."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.split import GroupSplit
from datamodules.stream.blocks import CellBlocks, ExampleBlocks, Examples
from datamodules.stream.memory import Budget
from datamodules.stream.store import Store

log = logging.getLogger(__name__)

MIN_PER_CLASS = 10  # fewer examples of a class than this say nothing about a probe


class GridDataModule(pl.LightningDataModule):
    """Streams a grid of activations split by split; a child's `setup` finds them and calls `serve`.

    After `setup`, `card` describes the grid for probes and callbacks: model, dataset, site, target, layers, positions,
    width, split (seed, and n and n_positive of each split), coincidence [T][T] or None, and n_valid [T].

    Args:
        split: deals groups to train, val and test.
        block_bytes: bytes for all the stream keeps alive; from free memory where None.
        batch_size: examples of a training batch, over all ranks; where None, the train loader gives cell blocks too.
        seed: of the order of training batches.
    """

    classes = ("wrong", "right")  # what labels 0 and 1 are called
    examples = "questions"  # what more of would help

    def __init__(
        self, split: GroupSplit, block_bytes: int | None = None, batch_size: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        for name, value in (("block_bytes", block_bytes), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"datamodule.{name}: expected a whole number above 0, or null, got {value}")
        self.split, self.block_bytes, self.batch_size, self.seed = split, block_bytes, batch_size, seed
        self.card: dict[str, Any] = {}

    @property
    def quiet(self) -> bool:
        """Whether another rank speaks for this one."""
        return self.trainer is not None and not self.trainer.is_global_zero

    def serve(
        self,
        store: Store,
        labels: Tensor,
        valid: Tensor,
        groups: Sequence[Any],
        card: dict[str, Any],
        given: Sequence[str] | None = None,
    ) -> None:
        """Split the examples of a store, and complete the card.

        Args:
            store: the activations, N examples.
            labels: [N] int64 in {0, 1}.
            valid: [N, T] bool.
            groups: [N] group of each example.
            card: model, dataset, site, target, layers, positions and coincidence.
            given: [N] split that an example belongs to by its source, `train` or `test`; empty where it may be dealt.
        """
        self._labels, self._valid = labels, valid
        self._rows = self.split(groups, labels.tolist(), given)
        for name, rows in self._rows.items():
            if not len(rows):
                if not self.quiet:
                    log.info(f"split: no {name} rows, as split.{name} is 0")
                continue
            zeros, ones = labels[rows].bincount(minlength=2).tolist()
            if min(zeros, ones) < MIN_PER_CLASS and not self.quiet:
                what = f"{ones} {self.classes[1]} and {zeros} {self.classes[0]}"
                log.warning(f"split: {name} has {what}; take more {self.examples}")
        numbers = torch.from_numpy(np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64))
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        self._examples = {
            name: Examples(store, rows, labels[rows], valid[rows], numbers[rows], device)
            for name, rows in self._rows.items()
        }
        self._budget = Budget(self.block_bytes, self.trainer.num_devices if self.trainer else 1, self.quiet)
        self.card = {
            **{key: card[key] for key in ("model", "dataset", "site", "target", "layers", "positions")},
            "width": store.shape[3],
            "split": {"seed": self.split.seed}
            | {name: {"n": len(rows), "n_positive": int(labels[rows].sum())} for name, rows in self._rows.items()},
            "coincidence": card["coincidence"],
            "n_valid": valid.sum(0).tolist(),
        }

    def train_dataloader(self) -> CellBlocks | ExampleBlocks:
        """Blocks of the train rows: of cells, or of examples where `batch_size` is given."""
        if self.batch_size is None:
            return self._cells("train")
        return ExampleBlocks(self._examples["train"], self.batch_size, self.seed, self._budget, *self._rank())

    def val_dataloader(self) -> CellBlocks | list[Any]:
        """Cell blocks of the validation rows; no loader where there are none, and Lightning then validates nothing."""
        return self._cells("val") if len(self._rows["val"]) else []

    def test_dataloader(self) -> CellBlocks:
        """Cell blocks of the test rows."""
        return self._cells("test")

    def _cells(self, split: str) -> CellBlocks:
        return CellBlocks(self._examples[split], self._budget, *self._rank())

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
