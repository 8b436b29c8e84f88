"""Batches of examples for one forward: of similar length, and as large as memory holds."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from datamodules.language.device_memory import empty_caches
from datamodules.stream.out_of_memory import pass_over_out_of_memory

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Room(Protocol):
    """Tells how much memory of the device a batch took."""

    def watch(self) -> None:
        """Begin with a batch."""
        ...

    def fits_twice(self) -> bool:
        """Whether a batch that takes twice as much as the one that was watched would fit."""
        ...


class Batches:
    """Runs a computation batch by batch.

    A batch takes memory for its examples times the tokens of the longest of them. One that does not fit halves the most
    that later batches may have of that product; batches of short examples keep their size. Where `room` tells how much
    a batch took, one that left enough doubles that limit, until one does not fit.

    Without `room`, and as long as everything fits, which examples share a batch depends on the lengths alone, and so do
    the last bits of the results.

    Args:
        size: most examples of a batch.
        quiet: do not say that memory ran out (all ranks but the first); otherwise it is said once.
        most: most examples times longest of a batch; None: no limit is known. One example is always tried.
        agree: whether a batch failed anywhere, given whether it failed here; for a model in parts, whose processes have
            to go on with the same batches.
        room: tells whether the limit may double; None: it never does.
        remember: called with a new limit, and whether it may still double.

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
        room: Room | None = None,
        remember: Callable[[int, bool], None] = lambda most, grows: None,
    ) -> None:
        self.size, self.quiet, self.most, self.agree = size, quiet, most, agree
        self.room, self.remember = room, remember

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
            batch, results = left[:n], []
            if self.room is not None:
                self.room.watch()
            with pass_over_out_of_memory():  # what the failed forward still held is let go on leaving
                results.append(compute(batch))
            if not self.agree(not results):
                left = left[n:]
                if left and n < self.size:  # it was the limit that made the batch small
                    self._grow(n * lengths[batch[-1] - rows.start])
                yield batch, results[0]
                continue
            results.clear()  # of a process in which it fitted
            longest = lengths[batch[-1] - rows.start]
            if n == 1:
                raise ValueError(
                    f"model: expected memory for one example of {longest} tokens, got out of memory; choose "
                    "a smaller model or dtype, model.device_map=auto, or model.quantisation"
                )
            self.most, self.room = n * longest // 2, None
            self.remember(self.most, False)
            if not self.quiet:
                log.warning(f"out of memory with {n} examples of up to {longest} tokens: going on with fewer at once")
            self.quiet = True
            empty_caches()

    def _grow(self, done: int) -> None:
        """Double the limit, where the last batch left enough memory; `done` is its product."""
        if self.most is not None and self.room is not None and self.room.fits_twice():
            self.most = 2 * max(self.most, done)  # one example may be above the limit
            self.remember(self.most, True)

    def count_examples(self, length: int) -> int:
        """How many examples of so many tokens make a batch."""
        return self.size if self.most is None else max(1, min(self.size, self.most // max(1, length)))

    def _count_fitting(self, lengths: Sequence[int]) -> int:
        """How many of the next examples, shortest first, make a batch."""
        if self.most is None:
            return len(lengths)
        return max(1, sum(n * length <= self.most for n, length in enumerate(lengths, 1)))
