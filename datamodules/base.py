"""What both datamodules share: targets, card, memory budget, and the three loaders over stored activations."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.card import AGAINST_REST, CONTROL, MIN_GROUPS, MIN_PER_CLASS, Card, is_control
from datamodules.split import SPLITS, GroupSplit
from datamodules.stream.blocks import CellBlocks, ExampleBlocks, Examples
from datamodules.stream.memory import Budget
from datamodules.stream.ranges import Count, Folder, Seed
from datamodules.stream.store import Store
from datamodules.stream.whole_file import write_whole
from datamodules.targets import Targets, add_controls, set_against_rest, split_targets

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
        seed: seed of the order of training batches, and of control labels.
        control_labels: add a target of random labels to each; see `add_controls`.

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
        folder: Folder | None = None,
        block_bytes: Count | None = None,
        batch_size: Count | None = None,
        seed: Seed = 0,
        control_labels: bool = False,
    ) -> None:
        super().__init__()
        if type(control_labels) is not bool:
            raise ValueError(f"datamodule.control_labels: expected true or false, got {control_labels!r}")
        for name, value in (("block_bytes", block_bytes), ("batch_size", batch_size)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"datamodule.{name}: expected a whole number above 0, or null, got {value!r}")
        if type(seed) is not int or seed < 0:
            raise ValueError(f"datamodule.seed: expected a whole number of at least 0, got {seed!r}")
        self.split, self.block_bytes, self.batch_size, self.seed = split, block_bytes, batch_size, seed
        self.control_labels = control_labels
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

    def serve(self, store: Store, targets: Targets, valid: Tensor, card: Card) -> None:
        """Stream the examples of a store.

        Args:
            store: the activations, N examples.
            targets: the label sets.
            valid: [N, T] bool.
            card: of the grid.

        Raises:
            ValueError: a split to train or test on has one class only, or there are more processes than cells.
        """
        self.require_cells(store.shape[1] * store.shape[2])
        self._require_classes(card)
        self.targets, self.card = targets, card
        self._tell_counts(card)
        device = self.root_device
        self._examples = {
            split: Examples(
                store,
                rows,
                targets.labels[:, rows],
                targets.holds(split, rows),
                valid[rows],
                targets.groups[rows],
                device,
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

    def split_labels(
        self,
        labels: Tensor,
        names: Sequence[str],
        groups: Sequence[Any],
        given: Sequence[str] | None = None,
        kept: Tensor | None = None,
    ) -> Targets:
        """Split label sets as `split_targets` does, with a control of each where `control_labels` is true."""
        self._require_own_names(names)
        targets = split_targets(labels, names, self.split, groups, given, kept)
        return add_controls(targets, self.seed) if self.control_labels else targets

    def split_classes(
        self,
        numbers: Tensor,
        names: Sequence[str],
        groups: Sequence[Any],
        given: Sequence[str] | None = None,
        kept: Tensor | None = None,
    ) -> Targets:
        """Split examples of several classes: a target for each class against the rest, all on the same splits.

        Of two classes the second is the target, as the first would be its mirror image. Of more, those with fewer than
        10 examples have no target; their examples are among the rest.

        Args:
            numbers: [N] int64, class of each example.
            names: of the K classes.
            groups, given, kept: see `split_targets`.

        Raises:
            ValueError: no class has examples enough.
        """
        self._require_own_names(names)
        counts = (numbers if kept is None else numbers[kept]).bincount(minlength=len(names)).tolist()
        chosen = {k: name for k, name in enumerate(names) if counts[k] >= MIN_PER_CLASS or len(names) == 2}
        told = ", ".join(f"{name} ({counts[k]})" for k, name in enumerate(names) if k not in chosen)
        if not chosen:
            raise ValueError(
                f"classes: expected one with at least {MIN_PER_CLASS} examples, got {told}; take more {self.examples}"
            )
        if told and not self.quiet:
            log.warning(
                f"classes: {told} have fewer than {MIN_PER_CLASS} examples, so no target of their own; their examples "
                "are among the rest"
            )
        self.classes = (names[0], names[1]) if len(names) == 2 else AGAINST_REST
        if len(names) == 2:
            del chosen[0]
        targets = set_against_rest(split_targets(numbers[None], ["class"], self.split, groups, given, kept), chosen)
        return add_controls(targets, self.seed) if self.control_labels else targets

    def _require_own_names(self, names: Sequence[str]) -> None:
        if named := [name for name in names if is_control(name)]:
            raise ValueError(
                f"targets: expected names other than {CONTROL}, which random labels have, got {', '.join(named)}; "
                "rename them"
            )

    def _require_classes(self, card: Card) -> None:
        """Refuse a split that has nothing to tell apart; validation can do without, and a control is random."""
        for target in card.targets:
            of = f" of {target.name}" if len(card.targets) > 1 else ""
            for split in ("train", "test"):
                n, ones = target.counts[split].n, target.counts[split].n_positive
                if ones in (0, n) and not is_control(target.label):
                    raise ValueError(
                        f"split: expected both classes in {split}{of}, got {n} {self.classes[ones > 0]} in "
                        f"{target.counts[split].n_groups} groups and no other; take split.by=question, another "
                        f"split.seed, or more {self.examples}"
                    )

    def _tell_counts(self, card: Card) -> None:
        """Tell how many examples and groups each split has, and warn where they are few."""
        if self.quiet:
            return
        each = [[target.counts[split] for target in card.targets] for split in SPLITS]
        alone = all(count.n == count.n_groups for counts in each for count in counts)
        told = [
            f"{split} {_say_range(count.n for count in counts)}"
            + ("" if alone else f" in {_say_range(count.n_groups or 0 for count in counts)} groups")
            for split, counts in zip(SPLITS, each, strict=True)
            if any(count.n for count in counts)
        ]
        log.info(f"split: {', '.join(told)}{', each a group of its own' * alone}")
        fewest = min(count.n_groups or 0 for count in each[SPLITS.index("test")])
        if fewest < MIN_GROUPS:
            log.warning(
                f"split: test has {fewest} groups; with fewer than {MIN_GROUPS} the standard errors are rough; take "
                f"more {self.examples}, or smaller groups"
            )
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
        limit = 1.0 if self.trainer is None else getattr(self.trainer, f"limit_{split}_batches")
        all_of_them = isinstance(limit, float) and limit == 1  # a whole number 1 is one batch
        # A share of the batches is then that share of the cells, the same ones in each split.
        return CellBlocks(self._examples[split], self._budget, *self._rank(), one_by_one=not all_of_them)

    def require_cells(self, n: int) -> None:
        """Hold the number of cells against the processes that are to share them.

        Raises:
            ValueError: there are more processes.
        """
        ranks = self._rank()[1]
        if ranks > n:
            raise ValueError(
                f"trainer.devices: expected at most one for each of the {n} cells, got {ranks}; take fewer, or more "
                "layers or positions"
            )

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def _say_range(counts: Iterable[int]) -> str:
    """Write equal counts as one number, others as their range."""
    least, *_, most = sorted([*counts] * 2)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
