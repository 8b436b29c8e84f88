"""Stores of activations, on disk or in memory, and how the rows of some cells are read.

Bytes are read into a scratch buffer that fits the processor's cache; the wanted rows are then copied to their place.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, starmap
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from datamodules.stream.byte_ranges import ByteRange, open_file, read_header

SCRATCH = 2**20  # bytes read at once by a thread; half as much costs more calls, twice as much fits fewer caches
GAP = 2**16  # gaps up to this many bytes between two wanted rows are read, not skipped
RAW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # numpy has no bfloat16; a copy needs none

Starmap = Callable[[Callable[..., object], Iterable[tuple[Any, ...]]], Iterable[object]]


class Store(Protocol):
    """Activations of all examples at all cells.

    Attributes:
        shape: N, L, T, D.
        dtype: of the activations, and of what `read` fills.
        scratch: bytes that each reading thread holds beside what it fills.
    """

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    scratch: int

    def enough(self, n: int) -> int:
        """Bytes of a block of n examples beyond which reading gets no faster."""
        ...

    def read(self, cells: np.ndarray, rows: np.ndarray, out: Tensor, each: Starmap = starmap) -> None:
        """Read some rows of some cells.

        Args:
            cells: [C] ascending, `l * T + t`.
            rows: [n] among the N examples, in any order, a row perhaps more than once.
            out: [C, n, D] contiguous, on the CPU.
            each: like `itertools.starmap`; one that runs calls in several threads makes several threads read.

        Raises:
            ValueError: a file that is gone or has been cut short.
        """
        ...


class Shards:
    """The cache's layer files: `h [T, n, D]` for each layer and each shard of n examples.

    Args:
        files: for each layer, its shards in order.
        positions: which of the T stored positions are served, in which order, one perhaps more than once; all where
            None. Only their bytes are read.

    Raises:
        ValueError: a file that cannot be read, or whose shape or dtype does not fit the others; a position that the
            files do not hold.

    Example:
        >>> store = Shards(cached.files, cached.positions)  # doctest: +SKIP
        >>> N, L, T, D = store.shape  # doctest: +SKIP
    """

    def __init__(self, files: Sequence[Sequence[Path]], positions: Sequence[int] | None = None) -> None:
        self._files = [[read_header(path).get_tensor("h", "[T, n, D]") for path in layer] for layer in files]
        first = self._files[0][0]
        T, D = first.shape[0], first.shape[-1]
        sizes = [shard.shape[1] if len(shard.shape) > 1 else 0 for shard in self._files[0]]
        for layer in self._files:
            for shard, n in zip(layer, sizes, strict=True):
                if (shard.shape, shard.kind) != ((T, n, D), first.kind):
                    raise ValueError(
                        f"{shard.path}: expected h [T, n, D] = {[T, n, D]} in {first.kind} as in the other shards, "
                        f"got {list(shard.shape)} in {shard.kind}; remove it and its record, and run again"
                    )
        self._positions = list(range(T)) if positions is None else list(positions)
        if absent := [position for position in self._positions if not 0 <= position < T]:
            raise ValueError(
                f"{first.path}: expected positions 0 to {T - 1} of h [T, n, D], got {absent[0]}; choose others"
            )
        self.dtype = first.dtype
        self.shape = (sum(sizes), len(self._files), len(self._positions), D)
        self._starts = np.cumsum([0, *sizes])
        self._row = D * self.dtype.itemsize  # bytes
        self.scratch = max(self._row, min(SCRATCH, max(sizes) * self._row))
        self._scratch = _Scratch(self.scratch)

    def enough(self, n: int) -> int:
        """See `Store.enough`. More memory is not faster, and its first touch is slow."""
        return 2**25

    def read(self, cells: np.ndarray, rows: np.ndarray, out: Tensor, each: Starmap = starmap) -> None:
        """See `Store.read`. A cell is contiguous in each file."""
        T, raw = self.shape[2], _view_raw(out)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        shard = np.searchsorted(self._starts, ascending, side="right") - 1
        local = ascending - self._starts[shard]
        # A part is what one read fetches: rows of one shard that the scratch buffer holds, close to each other.
        part = local // (self.scratch // self._row)
        apart = (np.diff(shard) != 0) | (np.diff(part) != 0) | ((np.diff(ascending) - 1) * self._row > GAP)
        parts = [
            (shard[start], local[start], local[start:stop] - local[start], _make_slice(order[start:stop]))
            for start, stop in pairwise([0, *(np.flatnonzero(apart) + 1).tolist(), len(rows)])
        ]

        def read_cell(i: int, cell: int) -> None:
            layer, column = divmod(cell, T)
            position = self._positions[column]
            for number, first, wanted, place in parts:
                shard = self._files[layer][number]
                count = int(wanted[-1]) + 1
                buffer = self._scratch.buffer[: count * self._row]
                with _explain_change(shard.path), open_file(shard.path) as file:
                    shard.read(file, buffer, (position * shard.shape[1] + int(first)) * self._row)
                found = np.frombuffer(buffer, raw.dtype).reshape(count, -1)
                if isinstance(place, slice):
                    np.take(found, wanted, axis=0, out=raw[i, place], mode="clip")  # other modes copy once more
                else:
                    raw[i, place] = found[wanted]

        for _ in each(read_cell, enumerate(cells.tolist())):
            pass


class TensorFile:
    """Activations `acts [N, L, T, D]` in one safetensors file, which may exceed memory.

    Args:
        acts: byte range of the tensor.

    Example:
        >>> acts = read_header(Path("acts.safetensors")).get_tensor("acts", "[N, L, T, D]")  # doctest: +SKIP
        >>> N, L, T, D = TensorFile(acts).shape  # doctest: +SKIP
    """

    def __init__(self, acts: ByteRange) -> None:
        N, L, T, D = acts.shape
        self.acts, self.shape, self.dtype = acts, (N, L, T, D), acts.dtype
        self._cell = D * self.dtype.itemsize  # bytes
        self.scratch = max(self._cell, min(SCRATCH, N * L * T * self._cell))
        self._scratch = _Scratch(self.scratch)

    def enough(self, n: int) -> int:
        """See `Store.enough`. Each example of a block is one read, and long reads are faster."""
        return n * 2**17

    def read(self, cells: np.ndarray, rows: np.ndarray, out: Tensor, each: Starmap = starmap) -> None:
        """See `Store.read`. Adjacent cells of an example are contiguous in the file, and are one read."""
        _, L, T, D = self.shape
        raw = _view_raw(out)
        order = np.argsort(rows, kind="stable")  # the file from its beginning to its end
        # A run of adjacent cells, as many as the scratch buffer holds.
        cuts = np.flatnonzero(np.diff(cells) != 1) + 1
        most = self.scratch // self._cell
        runs = [
            (start, min(start + most, stop))
            for first, stop in pairwise([0, *cuts.tolist(), len(cells)])
            for start in range(first, stop, most)
        ]

        def read_part(start: int, stop: int, order: np.ndarray) -> None:
            length = (stop - start) * self._cell
            buffer = self._scratch.buffer[: len(order) * length]
            with open_file(self.acts.path) as file:
                for i, row in enumerate(rows[order].tolist()):
                    offset = (row * L * T + int(cells[start])) * self._cell
                    self.acts.read(file, buffer[i * length : (i + 1) * length], offset)
            found = np.frombuffer(buffer, raw.dtype).reshape(len(order), stop - start, D)
            place = _make_slice(order)
            for i in range(stop - start):
                raw[start + i, place] = found[:, i]

        parts = (
            (start, stop, order[first : first + count])
            for start, stop in runs
            for count in [max(1, self.scratch // ((stop - start) * self._cell))]
            for first in range(0, len(order), count)
        )
        for _ in each(read_part, parts):
            pass


class TensorInMemory:
    """Activations `[N, L, T, D]` in a tensor on any device, which is not copied as a whole.

    >>> TensorInMemory(torch.zeros(9, 2, 3, 4)).shape
    (9, 2, 3, 4)
    """

    scratch = 0

    def __init__(self, acts: Tensor) -> None:
        N, L, T, D = acts.shape
        self.acts, self.shape, self.dtype = acts.detach(), (N, L, T, D), acts.dtype

    def enough(self, n: int) -> int:
        """See `Store.enough`. As for the cache: more memory is not faster, and its first touch is slow."""
        return 2**25

    def read(self, cells: np.ndarray, rows: np.ndarray, out: Tensor, each: Starmap = starmap) -> None:
        """See `Store.read`."""
        T, index = self.shape[2], torch.from_numpy(rows).to(self.acts.device)

        def read_cell(i: int, cell: int) -> None:
            layer, position = divmod(cell, T)
            out[i].copy_(self.acts[:, layer, position].index_select(0, index))

        for _ in each(read_cell, enumerate(cells.tolist())):
            pass


@contextmanager
def _explain_change(path: Path) -> Iterator[None]:
    """Say what has happened to a file of the cache that could be read when the run began."""
    try:
        yield
    except ValueError as error:
        how = "changed" if path.exists() else "removed"
        raise ValueError(
            f"cache: {path} was {how} while this run read it; leave the cache alone while a run uses it, and start the "
            "same command again, which makes or names what is missing"
        ) from error


class _Scratch(threading.local):
    """One buffer for each thread."""

    def __init__(self, n_bytes: int) -> None:
        self.buffer = memoryview(bytearray(n_bytes))


def _view_raw(out: Tensor) -> np.ndarray:
    """View the same memory as integers of the same size."""
    return out.view(RAW[out.itemsize]).numpy()


def _make_slice(index: np.ndarray) -> slice | np.ndarray:
    """Return the same index, as a slice if it counts up by one."""
    first, last = int(index[0]), int(index[-1])
    consecutive = last - first + 1 == len(index) and bool((np.diff(index) == 1).all())
    return slice(first, last + 1) if consecutive else index
