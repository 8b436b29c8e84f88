"""A running language model: loaded on first use, run in batches, and freed."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.language.batches import Batches
from datamodules.language.generation import require_embeddings
from datamodules.language.language_model import LanguageModel

Result = TypeVar("Result")

THREADED_WIDTH = 1024  # narrower models run on one CPU thread; measured in docs/decisions.md


class RunningModel:
    """A language model with its tokenizer and device; use in a `with` block, which sets threads and frees the model.

    Args:
        model: which model.
        device: where it runs.
        head: whether to load its head, which answers need.
        quiet: print nothing (all ranks but the first).

    Example:
        >>> with RunningModel(model, torch.device("cpu"), head=True) as running:  # doctest: +SKIP
        ...     ids = model.encode(running.tokenizer, ["red?"])
    """

    def __init__(self, model: LanguageModel, device: torch.device, head: bool, quiet: bool = False) -> None:
        self.model, self.device, self.head = model, device, head
        self.tokenizer: PreTrainedTokenizerBase = model.load_tokenizer()
        self.batches = Batches(model.batch_size, quiet)

    def __enter__(self) -> "RunningModel":
        # Threads decide how sums are split, and so the last bits; by default they follow from the number of ranks.
        self._threads = torch.get_num_threads()
        width = self.config.hidden_size
        torch.set_num_threads(1 if width < THREADED_WIDTH else len(os.sched_getaffinity(0)))
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads)
        self.free()

    def free(self) -> None:
        """Free the weights; they are loaded again on the next use."""
        if self.__dict__.pop("network", None) is not None and self.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def network(self) -> PreTrainedModel:
        """The loaded model."""
        return self.model.load(self.device, head=self.head)

    @cached_property
    def config(self) -> PretrainedConfig:
        """Configuration of the language part."""
        return self.model.load_config()

    @property
    def split(self) -> bool:
        """Whether each process has only a part of the model, so that all must run the same batches."""
        return self.model.tp_plan is not None

    @property
    def context(self) -> float:
        """Highest number of tokens of prompt and answer together; infinite if the configuration has no limit."""
        limits = getattr(self.config, "max_position_embeddings", None), self.tokenizer.model_max_length
        return min((limit for limit in limits if limit and limit < 1e9), default=math.inf)

    def run(
        self, rows: range, sequences: Sequence[Sequence[int]], compute: Callable[[list[int]], Result]
    ) -> Iterator[tuple[list[int], Result]]:
        """Run batches of `rows`, those with short sequences first; yields the rows of each batch with its result.

        Args:
            rows: numbers of the examples.
            sequences: [N] token ids of all N examples, which the model reads.
            compute: gives the result for the rows of a batch.

        Raises:
            ValueError: a token has no embedding, or one example does not fit into memory.
        """
        require_embeddings(self.network, self.tokenizer, sequences)
        return self.batches.run(rows, [len(sequences[i]) for i in rows], compute)
