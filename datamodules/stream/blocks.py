"""Blocks: some cells and some examples of a grid, streamed from stored activations.

A block is a dict of tensors, the one thing that passes from the data side to the probes: `acts [C, N, D]` in the dtype
of the store, zero where the example lacks the position; `labels [K, N]` int64; `held [K, N]` bool, whether this split
of a target holds the example; `valid [K, C, N]` bool, whether it does and the example has the position; `cells [C]`
int64, where cell `l * T + t` is the l-th read layer at position t; `groups [N]` int64, equal for examples that
must stay in one split; `examples [N]` int64, row numbers in examples.parquet.

A block is never overwritten while it is referenced. The next block is read while this one is used, into the memory of
blocks that are no longer referenced.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from datamodules.stream.memory import Budget
from datamodules.stream.read_ahead import Job, read_ahead
from datamodules.stream.store import Starmap, Store

CHUNK = 64  # neighbouring examples of the store, shuffled as one unit so that reads are long
CPU = torch.device("cpu")
POOL = 1024  # examples among which batches are drawn


@dataclass(frozen=True)
class Examples:
    """Some examples of a store: those that a split of any target holds.

    Attributes:
        store: their activations.
        rows: [N] int64, ascending, among the store's examples.
        labels: [K, N] int64 in {0, 1}.
        held: [K, N] bool, whether the split of each target holds the example.
        valid: [N, T] bool, whether the example has the position.
        groups: [N] int64.
        device: device of the blocks.
    """

    store: Store
    rows: np.ndarray
    labels: Tensor
    held: Tensor
    valid: Tensor
    groups: Tensor
    device: torch.device = CPU

    def bytes(self, n_cells: int, n_rows: int) -> int:
        """Return the bytes of the activations of `n_cells` cells and `n_rows` examples."""
        return n_cells * n_rows * self.store.shape[3] * self.store.dtype.itemsize

    def at_once(self, least: int, enough: int, budget: Budget, what: str) -> int:
        """How many times the smallest possible block may be read at once; see `Budget.block`."""
        return budget.block(least, enough, self.store.scratch, self.device, what) // least

    def read(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Generator[Tensor, None, None]:
        """Activations [C, n, D] on the device for each pair of cells [C] and n of 0 .. N - 1."""
        jobs: list[Job] = [
            ((len(cells), len(some), self.store.shape[3]), partial(self._fill, cells, some)) for cells, some in parts
        ]
        return read_ahead(jobs, self.store.dtype, self.device)

    def _fill(self, cells: np.ndarray, some: np.ndarray, out: Tensor, each: Starmap) -> None:
        self.store.read(cells, self.rows[some], out, each)
        absent = ~self.valid.numpy()[np.ix_(some, cells % self.store.shape[2])]
        for i, cell in enumerate(absent.T):
            if cell.any():
                out[i].view(torch.uint8).numpy()[cell] = 0

    def block(self, acts: Tensor, cells: np.ndarray, some: np.ndarray | slice) -> dict[str, Tensor]:
        """A block of activations [C, n, D] and what belongs to them."""
        valid = self.valid[some][:, cells % self.store.shape[2]].T
        block = {
            "labels": self.labels[:, some],
            "valid": (self.held[:, None, some] & valid).contiguous(),
            "cells": torch.from_numpy(cells),
            "groups": self.groups[some],
            "held": self.held[:, some],
            "examples": torch.from_numpy(self.rows[some]),
        }
        return {"acts": acts} | {name: part.to(self.device) for name, part in block.items()}


class CellBlocks:
    """Every cell of the grid once, a few cells at a time with all examples; cells are divided evenly among the ranks.

    Args:
        examples: whose activations.
        budget: how much memory there is; one cell always fits.
        rank: this process among `world_size`.
        world_size: number of processes.
        one_by_one: give one cell a block.

    Example:
        >>> for block in CellBlocks(examples, Budget()):  # doctest: +SKIP
        ...     print(block["acts"].shape)  # [C, N, D]
    """

    def __init__(
        self, examples: Examples, budget: Budget, rank: int = 0, world_size: int = 1, one_by_one: bool = False
    ) -> None:
        self.examples = examples
        _, L, T, _ = examples.store.shape
        # Neighbours stay together: in a file of whole examples they are one read.
        cells = np.array_split(np.arange(L * T), world_size)[rank]
        cell = examples.bytes(1, len(examples.rows))
        most = examples.at_once(cell, examples.store.enough(len(examples.rows)), budget, "a cell")
        self.cells = np.array_split(cells, math.ceil(len(cells) / (1 if one_by_one else most)))

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        everyone = np.arange(len(self.examples.rows))
        with closing(self.examples.read([(cells, everyone) for cells in self.cells])) as acts:
            for cells in self.cells:
                yield self.examples.block(next(acts), cells, slice(None))


class ExampleBlocks:
    """All cells of a few examples at a time, in a new order each epoch, for training by mini-batches.

    The order follows from seed and epoch alone, whatever memory there is: chunks of neighbours are shuffled, and then
    the examples within each pool of chunks. Where memory allows, several batches are read at once, in longer reads.

    Every example comes once an epoch, on one of the ranks. Each batch is divided among the ranks in shares that differ
    by at most one example, so all ranks have the same number of batches. Only a last batch with fewer examples than
    ranks repeats some.

    Args:
        examples: whose activations.
        batch_size: examples of a batch, over all ranks; the last one may have fewer.
        seed: of the order.
        budget: how much memory there is; one batch always fits.
        rank: this process among `world_size`.
        world_size: number of processes.

    Example:
        >>> for block in ExampleBlocks(examples, batch_size=256, seed=0, budget=Budget()):  # doctest: +SKIP
        ...     print(block["acts"].shape)  # [C, n, D]
    """

    def __init__(
        self, examples: Examples, batch_size: int, seed: int, budget: Budget, rank: int = 0, world_size: int = 1
    ) -> None:
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0  # the next one
        _, L, T, _ = examples.store.shape
        self.cells = np.arange(L * T)
        batch = examples.bytes(L * T, math.ceil(min(batch_size, len(examples.rows)) / world_size))
        # A whole pool makes the longest reads that its order allows.
        self.batches_at_once = examples.at_once(batch, examples.bytes(L * T, POOL), budget, "a batch")

    def __len__(self) -> int:
        return math.ceil(len(self.examples.rows) / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        batches = self._batches(self.epoch)
        self.epoch += 1
        windows = [batches[i : i + self.batches_at_once] for i in range(0, len(batches), self.batches_at_once)]
        with closing(self.examples.read([(self.cells, np.concatenate(window)) for window in windows])) as acts:
            for window in windows:
                cuts = np.cumsum([len(batch) for batch in window])[:-1].tolist()
                parts = list(next(acts).tensor_split(cuts, dim=1))
                for batch in window:
                    yield self.examples.block(parts.pop(0), self.cells, batch)

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """This rank's share of each batch, as numbers among the examples."""
        rng, n = np.random.default_rng((self.seed, epoch)), len(self.examples.rows)
        chunks = [np.arange(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
        order = np.concatenate([chunks[i] for i in rng.permutation(len(chunks))])
        for start in range(0, n, POOL):
            rng.shuffle(order[start : start + POOL])
        batches = (order[start : start + self.batch_size] for start in range(0, n, self.batch_size))
        return [np.resize(batch, max(len(batch), self.world_size))[self.rank :: self.world_size] for batch in batches]
