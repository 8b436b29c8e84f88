"""Batches of examples for one forward: of similar length, and smaller where memory runs out."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Batches:
    """Runs a computation batch by batch.

    Args:
        size: largest number of examples in a batch; halved permanently if a batch does not fit into memory.
        quiet: do not log this (all ranks except the first); otherwise it is logged once.
    """

    def __init__(self, size: int, quiet: bool = False) -> None:
        self.size, self.quiet = size, quiet

    def run(
        self, rows: range, lengths: Sequence[int], compute: Callable[[list[int]], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """Compute batches of `rows`, shortest first, so that little of a batch is padding; yields each with its result.

        Args:
            rows: numbers of the examples.
            lengths: [len(rows)] tokens of each.
            compute: returns the result of a batch.

        Raises:
            ValueError: one example does not fit into memory.
        """
        left = (np.argsort(lengths, kind="stable") + rows.start).tolist()
        while left:
            batch, result = left[: self.size], None
            with _pass_over_out_of_memory():  # memory of the failed forward is freed on leaving
                result = compute(batch)
            if result is not None:
                left = left[self.size :]
                yield batch, result
            elif len(batch) == 1:
                raise ValueError(
                    f"model: expected memory for one example of up to {max(lengths)} tokens, got out of memory; choose "
                    "a smaller model or dtype, model.device_map=auto, or model.quantisation"
                )
            else:
                self.size = len(batch) // 2
                if not self.quiet:
                    log.warning(f"out of memory with {len(batch)} examples a batch: going on with fewer")
                self.quiet = True
                torch.cuda.empty_cache()


@contextmanager
def _pass_over_out_of_memory() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        pass
    except RuntimeError as error:  # the CPU's allocator has no error of its own
        if "can't allocate memory" not in str(error):
            raise
