"""The two stages that need the language model, answers and activations, as a data module uses them.

The model is loaded only when a shard is missing, and freed on leaving. Shards are cut by question number and batches by
length within a shard, so the bytes of a shard do not depend on the process that makes it.
"""

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from datamodules.language.activation_stage import ActivationStage
from datamodules.language.answer_stage import OUTPUT, AnswerStage
from datamodules.language.cache.cached_activations import CachedActivations, digest_positions, open_activations
from datamodules.language.cache.shards import SHARD
from datamodules.language.digests import name_memory
from datamodules.language.generation import Answer, read_answers
from datamodules.language.language_model import LanguageModel
from datamodules.language.prompts import Asked
from datamodules.language.running_model import RunningModel
from datamodules.language.stage_runner import StageRunner
from datamodules.questions.question import QuestionSet


class LanguageModelStages:
    """Answers and activations of one language model; use in a `with` block, which frees the model.

    Args:
        model: the model, with its prompt and generation settings.
        dataset: the set whose questions it answers, for the cache's key and manifest.
        cache_root: folder of the cache.
        device: where the model runs.
        quiet: print nothing (all ranks but the first).

    Example:
        >>> with LanguageModelStages(model, dataset, "cache", torch.device("cpu")) as stages:  # doctest: +SKIP
        ...     answers = stages.answer(["a"], stages.encode(["red?"]))
    """

    def __init__(
        self, model: LanguageModel, dataset: QuestionSet, cache_root: str, device: torch.device, quiet: bool = False
    ) -> None:
        self.model, self.dataset, self.cache_root, self.quiet = model, dataset, cache_root, quiet
        self.running = RunningModel(model, device, not dataset.stated, quiet, name_memory(cache_root))
        self.tokenizer: PreTrainedTokenizerBase = self.running.tokenizer
        self.runner = StageRunner(self.running, dataset, cache_root, quiet)
        self.keys: dict[str, str] = {}  # of the cache entry of the answers
        self._dated = False  # whether the date in prompts was logged: a model may be asked many times

    def __enter__(self) -> "LanguageModelStages":
        self.running.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.running.__exit__(*error)

    @property
    def config(self) -> PretrainedConfig:
        """Configuration of the language part."""
        return self.running.config

    def encode(self, questions: Sequence[Asked], settings: LanguageModel | None = None) -> list[array]:
        """Token ids, int32, of the prompts for N question texts or chats.

        Args:
            questions: [N] texts, or the turns of chats.
            settings: the model with other prompts.
        """
        parts = (questions[start : start + SHARD] for start in range(0, len(questions), SHARD))
        settings = settings or self.model
        if not self._dated and settings.writes_date(self.tokenizer):
            self._dated = True
            self.runner.say(f"model.date: the chat template writes the date into prompts; they all say {settings.date}")
        return [array("i", ids) for part in parts for ids in settings.encode(self.tokenizer, part)]

    def answer(
        self, ids: Sequence[str], prompts: Sequence[Sequence[int]], settings: LanguageModel | None = None
    ) -> list[Answer]:
        """Answer N prompts greedily, in order, from the cache where it has the answers; thinking is not yet cut off.

        Args:
            ids: [N] names of the examples, for messages.
            prompts: [N] token ids.
            settings: the model with other limits on its answers.

        Raises:
            ValueError: the model computed something that is not finite; names layer, position and example by its id.
        """
        stage = AnswerStage(self.running, ids, prompts, settings or self.model)
        entry = self.runner.open(stage, OUTPUT)
        self.keys.setdefault(OUTPUT, entry.key)  # later entries are replies about the answers
        self.runner.build(stage, {OUTPUT: entry})
        paths = (path for shard in range(entry.n_shards) for path in entry.check_files(shard).values())
        return [answer for path in paths for answer in read_answers(path)]

    def capture(
        self,
        ids: Sequence[str],
        answers: Sequence[Answer],
        names: Sequence[str],
        tokens: Tensor,
        valid: Tensor,
        sites: Sequence[str],
        layers: Sequence[int],
    ) -> CachedActivations:
        """Read activations as `ActivationStage` says, from the cache where it has these or more of them.

        What several sites lack is read in one forward; each has an entry of its own, and that of the first is returned.

        Raises:
            ValueError: an activation that is not finite; names layer, position and example by its id.
        """
        stage = ActivationStage(self.running, ids, answers, names, tokens, valid, sites, layers)
        digests = digest_positions(tokens, valid)
        larger = {site: cached for site in sites if (cached := self.runner.find_larger(stage, site, digests))}
        for site, cached in larger.items():
            self.runner.say(
                f"{site}: {len(ids)} reused from {cached.entry.folder} ({len(names)} of its {cached.n_positions} "
                f"positions, {len(layers)} of its {cached.n_layers} layers)"
            )
        contains = {"positions": digests}
        entries = {site: self.runner.open(stage, site, contains) for site in sites if site not in larger}
        self.runner.build(stage, entries)
        first = sites[0]
        if first in larger:
            return larger[first]
        return open_activations(entries[first], layers, range(len(names)), len(names), len(layers))
