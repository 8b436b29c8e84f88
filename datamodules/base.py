"""What both datamodules share: targets, card, memory budget, and the three loaders over stored activations."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.card import MIN_PER_CLASS, Card
from datamodules.split import SPLITS, GroupSplit
from datamodules.stream.blocks import CellBlocks, ExampleBlocks, Examples
from datamodules.stream.memory import Budget
from datamodules.stream.store import Store
from datamodules.stream.whole_file import write_whole
from datamodules.targets import Targets

log = logging.getLogger(__name__)


class GridDataModule(pl.LightningDataModule):
    """Streams a grid of activations split by split; a child's `setup` finds them and calls `serve`.

    After `setup`, `card` describes the grid for probes and callbacks, `targets` are its label sets, and `seconds` says
    how long each stage took.

    Args:
        split: assigns groups to train, val and test.
        folder: the run folder, where tables and reports of the examples go; nothing is written where None.
        block_bytes: bytes for all blocks that the stream keeps in memory; chosen from the free memory where None.
        batch_size: examples of a training batch, over all ranks; where None, the train loader also gives cell blocks.
        seed: seed of the order of training batches.

    Example:
        >>> datamodule.setup()  # doctest: +SKIP
        >>> sorted(next(iter(datamodule.train_dataloader())))  # doctest: +SKIP
        ['acts', 'cells', 'examples', 'groups', 'held', 'labels', 'valid']
    """

    targets: Targets
    classes = ("wrong", "right")  # what labels 0 and 1 are called
    examples = "questions"  # what more of would help

    def __init__(
        self,
        split: GroupSplit,
        folder: str | Path | None = None,
        block_bytes: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("block_bytes", block_bytes), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"datamodule.{name}: expected a whole number above 0, or null, got {value}")
        self.split, self.block_bytes, self.batch_size, self.seed = split, block_bytes, batch_size, seed
        self.folder = None if folder is None else Path(folder)
        self.card: Card | None = None
        self.seconds: dict[str, float] = {}

    @property
    def quiet(self) -> bool:
        """Whether this rank logs nothing, because rank zero does."""
        return self.trainer is not None and not self.trainer.is_global_zero

    @property
    def root_device(self) -> torch.device:
        """Where the trainer puts the probes, and blocks are wanted."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def serve(self, store: Store, targets: Targets, valid: Tensor, groups: Sequence[Any], card: Card) -> None:
        """Stream the examples of a store.

        Args:
            store: the activations, N examples.
            targets: the label sets.
            valid: [N, T] bool.
            groups: [N] group of each example.
            card: of the grid.
        """
        self.targets, self.card = targets, card
        self._tell_counts(card)
        numbers = torch.from_numpy(np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64))
        device = self.root_device
        self._examples = {
            split: Examples(
                store, rows, targets.labels[:, rows], targets.holds(split, rows), valid[rows], numbers[rows], device
            )
            for split in SPLITS
            for rows in [targets.rows(split)]
        }
        self._budget = Budget(self.block_bytes, self.trainer.num_devices if self.trainer else 1, self.quiet)

    def keep(self, name: str, make: Callable[[], bytes]) -> Path | None:
        """Make and write a file of the run's record, whole or not at all; only where there is a run folder.

        Returns:
            Its path; None where nothing was written, as there is no run folder or another rank writes.
        """
        return None if self.folder is None or self.quiet else write_whole(self.folder / name, make())

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds of a block of code as those of a stage."""
        start = time.monotonic()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start

    def _tell_counts(self, card: Card) -> None:
        if self.quiet:
            return
        for target in card.targets:
            of = f" of {target.name}" if len(card.targets) > 1 else ""
            for split, count in target.counts.items():
                n, ones = count.n, count.n_positive
                if not n:
                    log.info(f"split: no {split} rows{of}, as split.{split} is 0")
                elif min(ones, n - ones) < MIN_PER_CLASS:
                    what = f"{ones} {self.classes[1]} and {n - ones} {self.classes[0]}"
                    log.warning(f"split: {split}{of} has {what}; take more {self.examples}")

    def train_dataloader(self) -> CellBlocks | ExampleBlocks:
        """Blocks of the train rows: of cells, or of examples where `batch_size` is given."""
        if self.batch_size is None:
            return self._cells("train")
        return ExampleBlocks(self._examples["train"], self.batch_size, self.seed, self._budget, *self._rank())

    def val_dataloader(self) -> CellBlocks | list[Any]:
        """Cell blocks of the validation rows; no loader where there are none, and Lightning then validates nothing."""
        return self._cells("val") if len(self._examples["val"].rows) else []

    def test_dataloader(self) -> CellBlocks:
        """Cell blocks of the test rows."""
        return self._cells("test")

    def _cells(self, split: str) -> CellBlocks:
        return CellBlocks(self._examples[split], self._budget, *self._rank())

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
