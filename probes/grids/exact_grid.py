"""Grids whose probes are solved for outright, block by block, in one epoch."""

from abc import abstractmethod

import torch
import torch.distributed as dist
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from probes.grids.grid import ProbeGrid
from probes.settings import require_whole_cells
from probes.solver.inputs import NotFiniteError


class ExactGrid(ProbeGrid):
    """A grid that is fitted when every cell block has been seen once.

    No gradient and no optimizer. Each rank solves the cells it is dealt; a sum over ranks then gives every rank all.
    One epoch is the fit, whatever limit the trainer has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @abstractmethod
    def solve(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fit the cells of a block: weight [K, C, D] and bias [K, C], NaN where a cell has no probe."""

    def configure_optimizers(self) -> None:
        """None: see the class."""

    def prepare_data(self) -> None:
        """Refuse a datamodule that trains on batches of examples, before it makes activations.

        Raises:
            ValueError: its `batch_size` is set.
        """
        if self.trainer.state.fn == TrainerFn.FITTING:  # a test takes whole cells in any case
            require_whole_cells(getattr(self.trainer.datamodule, "batch_size", None))  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        """Note that no epoch has run, and ask for one: a second would solve every cell again."""
        self._solved = torch.empty(0)
        if self.trainer.max_epochs != 0:
            self.trainer.fit_loop.max_epochs = 1

    def on_fit_end(self) -> None:
        """Check that the fit has left probes.

        Raises:
            ValueError: the trainer ran no epoch, and no checkpoint brought probes.
        """
        if not self._solved.numel() and self.trainer.max_epochs and bool(self.weight.isnan().all()):
            raise ValueError(
                "fit: expected a trainer with an epoch to run, got one that has run all of its epochs before; give "
                "each fit a new Trainer"
            )

    def on_train_epoch_start(self) -> None:
        """Start without probes: what is not fitted in this run has none."""
        with torch.no_grad():
            self.weight.fill_(torch.nan)
            self.bias.fill_(torch.nan)
        self._solved = torch.zeros(self.own_cells.shape, dtype=torch.int64, device=self.device)  # times, of each cell

    def training_step(self, block: dict[str, Tensor]) -> None:
        """Solve every cell of a block.

        Raises:
            ValueError: an activation that is not finite; names layer, position and example.
        """
        cells = block["cells"]
        try:
            weight, bias = self.solve(block)
        except NotFiniteError:
            self.refuse_not_finite(block)
            raise
        with torch.no_grad():
            self.weight.flatten(1, 2)[:, cells] = weight.to(self.weight)
            self.bias.flatten(1, 2)[:, cells] = bias.to(self.bias)
        self._solved[cells] += 1
        # Without an optimizer nothing counts steps, and a ModelCheckpoint that sees none saves nothing.
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()

    def on_train_epoch_end(self) -> None:
        """Give every rank the whole grid, and leave cells that no rank was given without a probe.

        Raises:
            ValueError: a cell that was solved more than once, or not at all though every block was asked for.
        """
        own = self._solved > 0
        self.sum_over_ranks(self._solved)
        for part in (self.weight.data.flatten(1, 2), self.bias.data.flatten(1, 2)):
            part[:, ~own] = 0
            self.sum_over_ranks(part)
            part[:, self._solved == 0] = torch.nan
        if len(twice := (self._solved > 1).nonzero()):
            raise ValueError(
                f"fit: expected every cell once, got {self.name_cells(twice[:, 0])} solved more than once; give whole "
                "cells to one rank each (datamodule.batch_size=null)"
            )
        if len(unsolved := (self._solved == 0).nonzero()[:, 0]):
            n = len(self._solved)
            if (limit := self.name_limit("train")) is None:
                named = f"{len(unsolved)} of {n} cells were not fitted: {self.name_cells(unsolved)}"
                raise ValueError(f"fit: expected every cell once, got others; {named}; run it again")
            self.print(f"fit: {n - len(unsolved)} of {n} cells are fitted; {limit} leaves out the others")

    def sum_over_ranks(self, part: Tensor) -> Tensor:
        """Add up what the ranks hold, in place."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(part)
        return part
