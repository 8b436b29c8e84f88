"""A running language model: loaded on first use, run in batches, and freed."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist

from datamodules.language.agreement import agree_on_failure, agree_on_least
from datamodules.language.batches import Batches
from datamodules.language.cache.batch_limit import BatchLimit, read_limit, write_limit
from datamodules.language.cache.shards import SHARD
from datamodules.language.device_memory import GpuRoom, count_fitting_tokens, empty_caches, find_gpus
from datamodules.language.device_settings import require_one_process
from datamodules.language.generation import require_embeddings
from datamodules.language.language_model import LanguageModel
from datamodules.language.placement import choose_device

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Result = TypeVar("Result")

THREADED_WIDTH = 1024  # narrower models run on one CPU thread; measured in docs/decisions.md


class RunningModel:
    """A language model with its tokenizer and device; use in a `with` block, which sets threads and frees the model.

    Args:
        model: which model.
        device: where it runs, unless `model.device` names another.
        head: whether its head is loaded, which writes answers.
        quiet: print nothing (all ranks but the first).
        memory: folder that remembers what was read of a GGUF file between runs; None: it is read each time.

    Raises:
        ValueError: this machine lacks the device, or each of several processes would spread the model over all devices.

    Example:
        >>> with RunningModel(model, torch.device("cpu"), head=True) as running:  # doctest: +SKIP
        ...     ids = model.encode(running.tokenizer, ["red?"])
    """

    def __init__(
        self,
        model: LanguageModel,
        device: torch.device,
        head: bool,
        quiet: bool = False,
        memory: Path | None = None,
    ) -> None:
        if model.device_map:
            require_one_process(dist.get_world_size() if dist.is_initialized() else 1)
        self.model, self.device, self.head = model, choose_device(model.device, device), head
        self.tokenizer: PreTrainedTokenizerBase = model.load_tokenizer(memory)
        self.quiet = quiet
        self._agreed: dict[bool, int] = {}  # most tokens of a batch, by whether answers are written
        self._entry: Path | None = None  # folder of the cache entry that is being built

    def __enter__(self) -> RunningModel:
        # Threads decide how sums are split, and so the last bits; by default they follow from the number of ranks.
        self._threads = torch.get_num_threads()
        width = self.config.hidden_size
        torch.set_num_threads(1 if width < THREADED_WIDTH else len(os.sched_getaffinity(0)))
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads)
        self.free()

    def free(self) -> None:
        """Let go of the weights; they are loaded again where they are needed."""
        if self.__dict__.pop("network", None) is not None:
            empty_caches()

    @cached_property
    def network(self) -> PreTrainedModel:
        """The loaded model."""
        network = self.model.load(self.device, head=self.head)
        if self.split:
            # Processes that hold parts of one model wait for each other within a forward, so that it has to fit
            # everywhere. All of them load the model, but only one estimates how long it will take: agree here.
            for written in (False, True):
                most = count_fitting_tokens(network, written)
                self._agreed[written] = agree_on_least(sys.maxsize if most is None else most, network.device)
        return network

    @cached_property
    def config(self) -> PretrainedConfig:
        """Configuration of the language part."""
        return self.model.load_config()

    @property
    def split(self) -> bool:
        """Whether each process has only a part of the model, so that all must run the same batches."""
        return self.model.tp_plan is not None

    def begin(self, entry: Path) -> None:
        """Start with the entry in a folder of the cache, which remembers how large its batches of answers may be."""
        self._entry = entry
        self.__dict__.pop("writing", None)

    @cached_property
    def reading(self) -> Batches:
        """Batches whose tokens are read in one forward: `model.batch_size` examples."""
        return self._plan_batches(self.model.batch_size, written=False)

    @cached_property
    def writing(self) -> Batches:
        """Batches of which answers are written.

        One step takes as long for many answers as for few. So with `auto` on a CUDA device a batch is a whole shard
        where memory holds it: the first is what surely fits, and the next are larger as long as the one before left
        enough room. The entry remembers how far that came. What is found depends on the device, the model and the
        entry, not on what else is running, unless memory runs out. Elsewhere a batch has `model.batch_size` examples,
        and processes that hold parts of one model keep to the first guess, as one that fails leaves the others waiting.
        """
        size, gpus = self.model.answer_batch_size, find_gpus(self.network)
        if size != "auto" or not gpus:
            return self._plan_batches(self.model.batch_size if size == "auto" else int(size), written=True)
        if self.split:
            return self._plan_batches(SHARD, written=True)
        entry, name = self._entry, " ".join(sorted({torch.cuda.get_device_name(device) for device in gpus}))
        known = read_limit(entry, name) if entry else None
        limit = known or BatchLimit(count_fitting_tokens(self.network, written=True) or 0, True)

        def remember(most: int, grows: bool) -> None:
            if entry:
                write_limit(entry, name, BatchLimit(most, grows))

        room = GpuRoom(gpus) if limit.grows else None
        return Batches(SHARD, self.quiet, limit.most, room=room, remember=remember)

    def _plan_batches(self, size: int, written: bool) -> Batches:
        if not self.split:
            return Batches(size, self.quiet)
        device = self.network.device  # not the network, which batches would keep
        return Batches(size, self.quiet, self._agreed[written], lambda failed: agree_on_failure(failed, device))

    @property
    def context(self) -> float:
        """Highest number of tokens of prompt and answer together; infinite if the configuration has no limit."""
        limits = getattr(self.config, "max_position_embeddings", None), self.tokenizer.model_max_length
        return min((limit for limit in limits if limit and limit < 1e9), default=math.inf)

    def run(
        self, rows: range, sequences: Sequence[Sequence[int]], compute: Callable[[list[int]], Result], written: int = 0
    ) -> Iterator[tuple[list[int], Result]]:
        """Run batches of `rows`, those with short sequences first; yields the rows of each batch with its result.

        Args:
            rows: numbers of the examples.
            sequences: [N] token ids of all N examples, which the model reads.
            compute: gives the result for the rows of a batch.
            written: most tokens that the model writes to each; 0 where it only reads.

        Raises:
            ValueError: a token has no embedding, or one example does not fit into memory.
        """
        require_embeddings(self.network, self.tokenizer, sequences)
        batches = self.writing if written else self.reading
        return batches.run(rows, [len(sequences[i]) + written for i in rows], compute)
