"""Batches of examples for one forward: of similar length, smaller where memory runs out, larger where it is left."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from datamodules.language.device_memory import MemoryGauge, empty_caches
from datamodules.stream.out_of_memory import pass_over_out_of_memory

log = logging.getLogger(__name__)

LARGEST_SHARE = 0.75  # of the free memory that twice the batch may take, by what the batch took

Result = TypeVar("Result")


class Batches:
    """Runs a computation batch by batch.

    A batch takes memory for its examples times the tokens of the longest of them. One that does not fit halves the most
    that later batches may have of that product, for good; batches of short examples keep their size. Before that, a
    batch that was cut by the limit and left enough memory doubles it. Which examples share a batch depends on the
    lengths and the limit, and so do the last bits of the results.

    Args:
        size: most examples of a batch.
        quiet: do not say that memory ran out (all ranks but the first); otherwise it is said once.
        most: most examples times longest of a batch, at first; None: no limit is known. One example is always tried.
        gauge: measures the memory that a batch takes; None: `most` does not grow.
        agree: whether a batch failed anywhere, given whether it failed here; for a model in parts, whose processes have
            to go on with the same batches.

    What can be agreed on after the fact is memory that ran out where processes do not wait for each other: masks,
    checks, copies, the head. A process that fails within a forward leaves the others waiting for its part, and the run
    hangs or ends with an error of the communication library. So `most` has to be small enough beforehand.
    """

    def __init__(
        self,
        size: int,
        quiet: bool = False,
        most: int | None = None,
        agree: Callable[[bool], bool] = bool,
        gauge: MemoryGauge | None = None,
    ) -> None:
        self.size, self.quiet, self.most, self.agree, self.gauge = size, quiet, most, agree, gauge
        self._full = False  # whether a batch did not fit
        self._note: Path | None = None  # where the limit is remembered
        self._noted: int | None = None  # what it says

    def resume(self, note: Path) -> None:
        """Start with the limit that worked before, if a file says so, and keep the file up to date from here on."""
        if note == self._note:
            return
        self._note, self._noted = note, None
        with suppress(OSError, ValueError):  # there is none, or it is altered
            self._noted = max(1, int(note.read_text()))
            self.most, self._full = self._noted, False

    def run(
        self, rows: range, lengths: Sequence[int], compute: Callable[[list[int]], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """Compute batches of `rows`, shortest first, so that little of a batch is padding; yields each with its result.

        Args:
            rows: numbers of the examples.
            lengths: [len(rows)] tokens of each, those that it will write included.
            compute: gives the result of a batch; everything that takes memory of the device belongs into it.

        Raises:
            ValueError: one example does not fit into memory.
        """
        left = (np.argsort(lengths, kind="stable") + rows.start).tolist()
        while left:
            n = self._count_fitting([lengths[i - rows.start] for i in left[: self.size]])
            batch, results, longest = left[:n], [], lengths[left[n - 1] - rows.start]
            if self.gauge is not None:
                self.gauge.start()
            with pass_over_out_of_memory():  # what the failed forward still held is let go on leaving
                results.append(compute(batch))
            if not self.agree(not results):
                larger = self._find_larger(n * longest) if n < min(self.size, len(left)) else self.most
                left = left[n:]
                self._remember()
                yield batch, results[0]
                self.most = larger
                continue
            results.clear()  # of a process in which it fitted
            if n == 1:
                raise ValueError(
                    f"model: expected memory for one example of {longest} tokens, got out of memory; choose "
                    "a smaller model or dtype, model.device_map=auto, or model.quantisation"
                )
            self.most, self._full = n * longest // 2, True
            if not self.quiet:
                log.warning(f"out of memory with {n} examples of up to {longest} tokens: going on with fewer at once")
            self.quiet = True
            empty_caches()

    def count_examples(self, length: int) -> int:
        """How many examples of so many tokens make a batch."""
        return self.size if self.most is None else max(1, min(self.size, self.most // max(1, length)))

    def _count_fitting(self, lengths: Sequence[int]) -> int:
        """How many of the next examples, shortest first, make a batch."""
        if self.most is None:
            return len(lengths)
        return max(1, sum(n * length <= self.most for n, length in enumerate(lengths, 1)))

    def _find_larger(self, tokens: int) -> int | None:
        """The limit after a batch of so many tokens that it cut: twice as high, if the batch left room for that."""
        if self.most is None or self.gauge is None or self._full:
            return self.most
        twice = 2 * max(self.most, tokens)  # one example is tried even above the limit
        return twice if self.gauge.measure_share() * twice / tokens <= LARGEST_SHARE else self.most

    def _remember(self) -> None:
        """Note the limit of a batch that has just worked."""
        if self._note is not None and self.most is not None and self.most != self._noted:
            with suppress(OSError):  # a cache that others own can be read all the same
                self._note.write_text(str(self.most))
            self._noted = self.most
