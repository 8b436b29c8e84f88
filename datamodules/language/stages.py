"""The two stages that need the language model, answers and activations, run through the cache.

The model is loaded only when a shard is missing, and freed on leaving. Shards are cut by question number and batches by
length within a shard, so a shard has the same bytes whoever makes it.
"""

import hashlib
import logging
import math
import os
from array import array
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.language import capture as capture_stage
from datamodules.language import generation as answers_stage
from datamodules.language.batches import Batches
from datamodules.language.cache.entry import CacheEntry
from datamodules.language.cache.shards import SHARD, count_shards, rows_of, shard_name
from datamodules.language.capture import capture, check_finite
from datamodules.language.generation import Answer, generate_answers, require_embeddings
from datamodules.language.language_model import LanguageModel
from datamodules.language.progress import Speed, bar, duration, size
from datamodules.language.sites import width_of
from datamodules.questions.question import QuestionSet

log = logging.getLogger(__name__)

# Narrower models run on one CPU thread: at width 576 two answer 1.7 times faster alone, six times slower beside others.
THREADED_WIDTH = 1024
BYTES_PER_TOKEN = 16  # of a stored answer, generously: id and log-probability before compression

Advance = Callable[[Sequence[int]], None]  # told the rows of each batch that is done


class LanguageModelStages:
    """Answers and activations of one language model; use in a `with` block, which frees the model.

    Args:
        model: which model, and how it is asked.
        dataset: the set whose questions it answers, for the cache's key and manifest.
        cache_root: folder of the cache.
        device: where the model runs.
        quiet: print nothing (all ranks but the first).
    """

    def __init__(
        self, model: LanguageModel, dataset: QuestionSet, cache_root: str, device: torch.device, quiet: bool = False
    ) -> None:
        self.model, self.dataset, self.cache_root = model, dataset, cache_root
        self.device, self.quiet = device, quiet
        self.tokenizer: PreTrainedTokenizerBase = model.load_tokenizer()
        self.identity = model.identity(memory=Path(cache_root).expanduser() / "digests")
        self.batches = Batches(model.batch_size, quiet)
        self.keys: dict[str, str] = {}  # of the cache entries of the answers and of the site that is read
        self._dated = False  # whether people know of the date in prompts: a model may be asked many times

    def __enter__(self) -> "LanguageModelStages":
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
        if self.__dict__.pop("network", None) is not None and self.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def network(self) -> PreTrainedModel:
        """The loaded model."""
        return self.model.load(self.device, head=not self.dataset.stated)

    @cached_property
    def config(self) -> PretrainedConfig:
        """Configuration of the language part."""
        return self.model.load_config()

    @property
    def split(self) -> bool:
        """Whether each process holds a part of the model only, so that all have to go through the same batches."""
        return self.model.tp_plan is not None

    @property
    def context(self) -> float:
        """Most tokens of prompt and answer together; infinite where the configuration names no limit."""
        limits = getattr(self.config, "max_position_embeddings", None), self.tokenizer.model_max_length
        return min((limit for limit in limits if limit and limit < 1e9), default=math.inf)

    def prompts(self, questions: Sequence[str], asked: LanguageModel | None = None) -> list[array]:
        """Token ids, int32, of the prompts for N question texts; `asked` is the model asked in another way."""
        parts = (questions[start : start + SHARD] for start in range(0, len(questions), SHARD))
        asked = asked or self.model
        if not self._dated and asked.writes_date(self.tokenizer):
            self._dated = True
            self._say(f"model.date: the chat template writes the date into prompts; they all say {asked.date}")
        return [array("i", ids) for part in parts for ids in asked.encode(self.tokenizer, part)]

    def answers(
        self, ids: Sequence[str], prompts: Sequence[Sequence[int]], asked: LanguageModel | None = None
    ) -> list[Answer]:
        """Greedy answers to N prompts, in order, from the cache where it has them; thinking is not yet cut off.

        Args:
            ids: [N] names of the examples, for messages.
            prompts: [N] token ids.
            asked: the model with other limits on its answers.

        Raises:
            ValueError: the model computed something that is not finite; names layer, position and example by its id.
        """
        asked = asked or self.model
        stop, stop_ids = asked.stop_text(self.tokenizer), asked.stop_ids(self.tokenizer)
        content = {
            "stage": "answers",
            "version": answers_stage.VERSION,
            "model": self.identity,
            "prompts": _digest(prompts),
            "decoding": {"greedy": True, "max_new_tokens": asked.token_limit, "stop": stop, "stop_ids": stop_ids},
        }
        entry = self._entry("answers", content, len(prompts))

        def make(rows: range, advance: Advance) -> dict[str, bytes]:
            made: dict[int, Answer] = {}
            require_embeddings(self.network, self.tokenizer, prompts)
            for batch, answered in self.batches.run(
                rows,
                [len(prompts[i]) for i in rows],
                lambda batch: generate_answers(
                    self.network, self.tokenizer, [list(prompts[i]) for i in batch], asked.token_limit, stop, stop_ids
                ),
            ):
                for i, answer in zip(batch, answered, strict=True):
                    if not all(map(math.isfinite, answer.logprobs)):
                        self._refuse(prompts[i], ids[i])
                    made[i] = answer
                advance(batch)
            return {shard_name(rows, "parquet"): answers_stage.stored([made[i] for i in rows])}

        def expect(todo: int) -> float:
            mean = sum(map(len, prompts)) // len(prompts)
            return Speed(self.network).of_batches(todo, asked.batch_size, mean, asked.token_limit)

        longest = max(map(len, prompts)) + asked.token_limit
        costs = [len(prompt) + asked.token_limit for prompt in prompts]
        self._run(entry, "answers", costs, BYTES_PER_TOKEN * longest, expect, make)
        found = (path for shard in range(entry.n_shards) for path in entry.files(shard).values())
        return [answer for path in found for answer in answers_stage.read(path)]

    def activations(
        self,
        ids: Sequence[str],
        answers: Sequence[Answer],
        names: Sequence[str],
        tokens: Tensor,
        valid: Tensor,
        sites: Sequence[str],
        layers: Sequence[int],
    ) -> CacheEntry:
        """Activations of N examples at `tokens` [N, T, 2], in shards of bfloat16 `h [T, n, D]`, a file a layer.

        Zero where `valid` [N, T] is false. What several sites lack is read in one forward; each has an entry of its
        own, and that of the first is returned.

        Raises:
            ValueError: an activation that is not finite.
        """
        parted = [site for site in sites if site in ("z", "mlp_post")]
        if self.split and parted:
            raise ValueError(
                f"site.name: expected a site of the width of the stream, which model.tp_plan leaves whole, got "
                f"{', '.join(parted)}; choose another, or model.device_map=auto"
            )
        sequences = [array("i", [*one.prompt_ids, *one.thought_ids, *one.answer_ids]) for one in answers]
        content = {
            "stage": "activations",
            "version": capture_stage.VERSION,
            "model": self.identity,
            "sequences": _digest(sequences),
            "tokens": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
            "valid": hashlib.sha256(valid.numpy().tobytes()).hexdigest(),
            "positions": list(names),
            "layers": layers,
            "store": "bfloat16",
        }
        entries = {site: self._entry("activations", content | {"site": site}, len(sequences)) for site in sites}

        def read(rows: range, wanted: Sequence[str], advance: Advance) -> dict[str, dict[str, bytes]]:
            acts: dict[str, Tensor] = {}
            require_embeddings(self.network, self.tokenizer, sequences)
            for batch, captured in self.batches.run(
                rows,
                [len(sequences[i]) for i in rows],
                lambda batch: capture(self.network, [sequences[i] for i in batch], tokens[batch], wanted, layers),
            ):
                for site, h in captured.items():
                    h = h.masked_fill(~valid[batch][:, None, :, None].to(h.device), 0)
                    check_finite(h, layers, names, [ids[i] for i in batch])
                    if site not in acts:
                        acts[site] = torch.empty(len(layers), len(names), len(rows), h.shape[-1], dtype=torch.bfloat16)
                    acts[site][:, :, [i - rows.start for i in batch]] = h.permute(1, 2, 0, 3).to("cpu", torch.bfloat16)
                advance(batch)
            return {
                site: {
                    f"layer={layer:02d}/{shard_name(rows, 'safetensors')}": save({"h": h[i]})
                    for i, layer in enumerate(layers)
                }
                for site, h in acts.items()
            }

        def make(site: str, rows: range, advance: Advance) -> dict[str, bytes]:
            shard = rows.start // SHARD
            also = [other for other, entry in entries.items() if other != site and shard in entry.missing()]
            files = read(rows, [site, *also], advance)
            for other in also:
                entries[other].offer(shard, files[other], wait=self.split)
            return files[site]

        def expect(todo: int) -> float:
            mean = sum(map(len, sequences)) // len(sequences)
            return Speed(self.network).of_batches(todo, self.model.batch_size, mean)

        for site in sorted(entries):  # the same order for all who build them, whichever they want first
            lacking = {site} | {other for other, entry in entries.items() if entry.missing()}
            bytes_each = 2 * len(layers) * len(names) * sum(width_of(self.config, one) for one in lacking)
            self._run(entries[site], site, list(map(len, sequences)), bytes_each, expect, partial(make, site))
        return entries[sites[0]]

    def _entry(self, kind: str, content: dict[str, Any], n: int) -> CacheEntry:
        source = self.dataset.identity()
        about = {"model": self.model.name, "examples": n, **self.dataset.about()}
        content |= {"dataset": source} if source else {}
        entry = CacheEntry(self.cache_root, kind, content, count_shards(n), about)
        self.keys.setdefault(kind, entry.key)  # later ones are of what is asked about the answers, and of more sites
        return entry

    def _refuse(self, prompt: Sequence[int], example: str) -> NoReturn:
        """Say where the numbers of a prompt stop being finite."""
        layers, last = range(self.config.num_hidden_layers), len(prompt) - 1
        acts = capture(self.network, [prompt], torch.tensor([[[last, last]]]), ["resid_post"], layers)
        check_finite(acts["resid_post"], layers, ["last_q"], [example])
        raise ValueError(
            f"answers: expected finite log-probabilities, got others for example {example}; try another dtype"
        )

    def _run(
        self,
        entry: CacheEntry,
        stage: str,
        costs: Sequence[int],
        bytes_each: int,
        expect: Callable[[int], float],
        make: Callable[[range, Advance], dict[str, bytes]],
    ) -> None:
        """Build what an entry lacks, with a bar, or say that nothing is lacking; `costs` [N] are tokens."""
        n = len(costs)
        missing = [rows_of(shard, n) for shard in entry.missing()]
        if not missing:
            return self._say(f"{stage}: {n} reused from {entry.folder}")
        todo = sum(map(len, missing))
        entry.require_room(todo * bytes_each)
        expected = 0.0
        if not self.quiet:
            ranks = dist.get_world_size() if dist.is_initialized() and not self.split else 1
            expected = expect(math.ceil(todo / ranks))
            cost = f"about {size(todo * bytes_each)} and {duration(expected)}"
            log.info(f"{stage}: {todo} of {n} to make, {cost}, into {entry.folder}")
        with bar(stage, todo, self.quiet, expected, sum(costs[i] for rows in missing for i in rows)) as done:

            def advance(rows: Sequence[int]) -> None:
                done(len(rows), sum(costs[i] for i in rows))

            entry.build(
                make=lambda shard: make(rows_of(shard, n), advance),
                made_elsewhere=lambda shard: advance(rows_of(shard, n)),
                together=self.split,
            )

    def _say(self, line: str) -> None:
        if not self.quiet:
            log.info(line)


def _digest(sequences: Sequence[Sequence[int]]) -> str:
    """What tells N sequences of token ids from others."""
    digest = hashlib.sha256()
    for ids in sequences:
        digest.update(array("i", [len(ids), *ids]).tobytes())
    return digest.hexdigest()
