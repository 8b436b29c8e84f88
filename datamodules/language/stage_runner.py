"""Runs a stage of the language model with the cache: makes missing shards, with an estimate and a bar."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from datamodules.language.cache.cached_activations import CachedActivations, find_larger
from datamodules.language.cache.entry import CacheEntry, Files, compute_key, find_missing
from datamodules.language.cache.shards import count_shards, get_rows
from datamodules.language.digests import name_memory
from datamodules.language.progress import format_duration, format_size, show_bar
from datamodules.language.running_model import RunningModel
from datamodules.questions.question import QuestionSet

log = logging.getLogger(__name__)


class Stage(Protocol):
    """Makes something of N examples with a language model, shard by shard; it may have several outputs.

    Attributes:
        kind: kind of result, a folder of the cache.
        tokens: [N] work of each example, in tokens.
    """

    kind: str
    tokens: list[int]

    def describe(self, output: str) -> dict[str, Any]:
        """Everything an output depends on beside the model, for the key of the cache."""
        ...

    def cost(self, outputs: Sequence[str]) -> int:
        """Bytes that one example of some outputs takes in the cache."""
        ...

    def estimate(self, n: int) -> float:
        """Seconds that n examples will take."""
        ...

    def make(
        self, rows: range, outputs: Sequence[str], advance: Callable[[Sequence[int]], None]
    ) -> Mapping[str, Files]:
        """For each output, the content of one shard's files by name."""
        ...


class StageRunner:
    """Opens and builds the cache entries of stages of one language model.

    Args:
        running: the model at work; loaded only when a shard is missing.
        dataset: the set whose questions are answered, for the cache's key and manifest.
        cache_root: folder of the cache.
        quiet: print nothing (all ranks but the first).
    """

    def __init__(self, running: RunningModel, dataset: QuestionSet, cache_root: str, quiet: bool = False) -> None:
        self.running, self.dataset, self.cache_root, self.quiet = running, dataset, cache_root, quiet
        self.identity = running.model.identify(name_memory(cache_root))

    def describe(self, stage: Stage, output: str) -> dict[str, Any]:
        """Everything an output depends on; its hash is the key of its entry."""
        source = self.dataset.identify()
        content = {"stage": stage.kind, "model": self.identity, **stage.describe(output)}
        return content | ({"dataset": source} if source else {})

    def open(self, stage: Stage, output: str, contains: dict[str, Any] | None = None) -> CacheEntry:
        """Open or create the entry of an output; `contains` is stored in its manifest for later runs."""
        n = len(stage.tokens)
        about = {"model": self.running.model.title, "examples": n, **self.dataset.describe()}
        return CacheEntry(self.cache_root, stage.kind, self.describe(stage, output), count_shards(n), about, contains)

    def find_larger(self, stage: Stage, site: str, digests: Sequence[str]) -> CachedActivations | None:
        """Find an entry that contains that of a site, if its own is not complete; `digests` [T] identify positions."""
        content, n_shards = self.describe(stage, site), count_shards(len(stage.tokens))
        own = Path(self.cache_root).expanduser() / stage.kind / compute_key(content)
        if not find_missing(own, n_shards):
            return None
        return find_larger(self.cache_root, content, digests, n_shards, self.quiet)

    def build(self, stage: Stage, entries: dict[str, CacheEntry]) -> None:
        """Make the missing shards of all outputs of a stage; outputs that lack the same shard are made together."""

        for output in sorted(entries):  # the same order in all processes that build them
            self._build_one(stage, output, entries)

    def _build_one(self, stage: Stage, output: str, entries: dict[str, CacheEntry]) -> None:
        """Build what the entry of an output lacks, with a bar, or say that nothing is lacking."""
        entry, costs, n = entries[output], stage.tokens, len(stage.tokens)
        lacking = {output} | {other for other, one in entries.items() if one.list_missing()}
        bytes_each = stage.cost(sorted(lacking))
        missing = [get_rows(shard, n) for shard in entry.list_missing()]
        if not missing:
            return self.say(f"{output}: {n} reused from {entry.folder}")
        self.running.begin(entry.folder)
        todo = sum(map(len, missing))
        entry.require_room(todo * bytes_each)
        expected = 0.0
        if not self.quiet:
            ranks = dist.get_world_size() if dist.is_initialized() and not self.running.split else 1
            expected = stage.estimate(math.ceil(todo / ranks))
            cost = f"about {format_size(todo * bytes_each)} and {format_duration(expected)}"
            log.info(f"{output}: {todo} of {n} to make, {cost}, into {entry.folder}")
        with show_bar(output, todo, self.quiet, expected, sum(costs[i] for rows in missing for i in rows)) as done:

            def advance(rows: Sequence[int]) -> None:
                done(len(rows), sum(costs[i] for i in rows))

            def make(shard: int, check: Callable[[], None]) -> Mapping[CacheEntry, Files]:
                def advance_or_fail(rows: Sequence[int]) -> None:
                    check()  # a full disk ends the run here, not after the rest of the shard
                    advance(rows)

                also = [other for other, one in entries.items() if other != output and shard in one.list_missing()]
                made = stage.make(get_rows(shard, n), [output, *also], advance_or_fail)
                return {entries[name]: files for name, files in made.items()}

            entry.build(make, lambda shard: advance(get_rows(shard, n)), together=self.running.split)

    def say(self, line: str) -> None:
        """Log a line for people, on one rank."""
        if not self.quiet:
            log.info(line)
