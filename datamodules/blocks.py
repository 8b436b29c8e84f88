"""Cell blocks: the rows of one split, streamed from the cache a few cells at a time.

A block is a dict of tensors, the one thing that passes from the data side to the probes:
`acts [C, N, D]` in the cache's dtype, `labels [N]` int64, `valid [C, N]` bool, `cells [C]` int64, where cell
`l * T + t` is the l-th read layer at position t.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor


class CellBlocks:
    """Every cell of the grid once, dealt evenly to the ranks.

    Args:
        shards: for each layer, the files of its shards in order; each holds `h [T, n, D]`.
        rows: [N] rows of the split among all examples.
        labels: [all examples] int64 in {0, 1}.
        valid: [all examples, T] bool.
        block_bytes: how many bytes of activations a block may hold; one cell always fits.
        rank: this process among `world_size`.
        world_size: number of processes.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[Path]],
        rows: np.ndarray,
        labels: Tensor,
        valid: Tensor,
        block_bytes: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shards = shards
        self.rows = torch.from_numpy(rows)
        self.labels = labels[self.rows]
        self.valid = valid[self.rows].T.contiguous()  # [T, N]
        n_cells = len(shards) * len(self.valid)
        cell_bytes = len(rows) * self.width(shards) * torch.bfloat16.itemsize
        if world_size > n_cells:
            raise ValueError(f"trainer.devices: expected at most one for each of the {n_cells} cells, got {world_size}")
        self.cells = np.arange(rank, n_cells, world_size)
        self.n_blocks = math.ceil(len(self.cells) / max(1, block_bytes // cell_bytes))

    @staticmethod
    def width(shards: Sequence[Sequence[Path]]) -> int:
        """Width D of the cached activations."""
        with safe_open(shards[0][0], "pt") as file:
            return file.get_slice("h").get_shape()[-1]

    def __len__(self) -> int:
        return self.n_blocks

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for cells in np.array_split(self.cells, self.n_blocks):
            yield {
                "acts": torch.stack([self._read(*divmod(int(cell), len(self.valid))) for cell in cells]),
                "labels": self.labels,
                "valid": self.valid[cells % len(self.valid)],
                "cells": torch.from_numpy(cells),
            }

    def _read(self, layer: int, position: int) -> Tensor:
        """Rows of one cell, [N, D]."""
        parts = []
        for path in self.shards[layer]:
            with safe_open(path, "pt") as file:
                parts.append(file.get_slice("h")[position])
        return torch.cat(parts)[self.rows]
