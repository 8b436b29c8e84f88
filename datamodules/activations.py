"""The datamodule of a language model: runs the stages whose results the cache lacks, then streams what they made."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.base import GridDataModule
from datamodules.card import MIN_PER_CLASS, Card
from datamodules.examples import LabelledExamples, write_examples
from datamodules.labels.labelling import LabelRule, label_examples, require_rule_for
from datamodules.labels.report import summarise_labels, write_label_report
from datamodules.labels.span_page import write_span_page
from datamodules.labels.spans import SpanFinder
from datamodules.language.cache.cached_activations import CachedActivations
from datamodules.language.device_settings import require_one_process
from datamodules.language.digests import name_memory
from datamodules.language.identity import identify_reading
from datamodules.language.language_model import LanguageModel
from datamodules.language.positions import Positions, compute_coincidence
from datamodules.language.site_names import check_sites
from datamodules.language.sites import choose_layers
from datamodules.language.stages import LanguageModelStages
from datamodules.language.turns import TurnTokens, find_turns
from datamodules.questions.near_duplicates import tell_near_duplicates
from datamodules.questions.question import QuestionSet
from datamodules.questions.split_by import KEYWORDS, find_tested, regroup, tell_groups
from datamodules.split import SPLITS, GroupSplit
from datamodules.stream.local_paths import expand_user
from datamodules.stream.ranges import Count, Folder, Layers, MoreLayers, Seed, Site, Sites
from datamodules.stream.store import Shards
from datamodules.targets import Targets, number_classes, require_classes

log = logging.getLogger(__name__)


class ActivationDataModule(GridDataModule):
    """Questions to blocks of activations.

    Args:
        model: the language model, with its prompt and generation settings.
        dataset: the questions.
        rule: decides which answers are right.
        spans: finds the exact answer in an answer.
        positions: which tokens to read, the columns of the grid.
        site: which tensor of a block, by TransformerLens' name.
        split: assigns groups to train, val and test.
        cache_root: folder of the cache.
        layers: which blocks to read, the rows of the grid; all where None.
        also: more sites to cache from the same forward passes.
        also_layers: more blocks, likewise; those that the model lacks are left out.
        folder, block_bytes, batch_size, seed, control_labels: see `GridDataModule`.

    Example:
        >>> parts = model, dataset, rule, spans, positions  # doctest: +SKIP
        >>> data = ActivationDataModule(*parts, "resid_post", GroupSplit(), "cache")  # doctest: +SKIP
        >>> data.setup()  # doctest: +SKIP
        >>> K, L, T, D = data.card.shape  # doctest: +SKIP
    """

    def __init__(
        self,
        model: LanguageModel,
        dataset: QuestionSet,
        rule: LabelRule,
        spans: SpanFinder,
        positions: Positions,
        site: Site,
        split: GroupSplit,
        cache_root: Folder,
        folder: Folder | None = None,
        layers: Layers | None = None,
        also: Sites = (),
        also_layers: MoreLayers = (),
        block_bytes: Count | None = None,
        batch_size: Count | None = None,
        seed: Seed = 0,
        control_labels: bool = False,
    ) -> None:
        super().__init__(split, folder, block_bytes, batch_size, seed, control_labels)
        for group, part in (
            ("model", model), ("dataset", dataset), ("rule", rule), ("spans", spans), ("positions", positions),
        ):  # fmt: skip
            if isinstance(part, Mapping | None):
                raise ValueError(
                    f"{group}: expected a configuration with a _target_, got {part or 'an empty one'}; start its file "
                    "with defaults: [NAME], where NAME is an existing configuration"
                )
        require_rule_for(dataset, rule)
        _require_groups_for(dataset, positions, split.by)
        if not isinstance(cache_root, str) or not cache_root:
            raise ValueError(f"cache.root: expected a folder, got {cache_root!r}; name one")
        check_sites(site, also)
        self.sites = list(dict.fromkeys([site, *also]))
        self.model, self.dataset, self.rule, self.spans, self.positions = model, dataset, rule, spans, positions
        self.layers, self.also_layers = layers, also_layers
        self.cache_root = str(expand_user(str(cache_root), "cache.root"))

    def prepare_data(self) -> None:
        """Fetch weights and questions that are not on this machine."""
        if self.card:  # already set up by a fit, before the test
            return
        if self.model.device_map and self.trainer:
            require_one_process(self.trainer.world_size)
        self.model.fetch()
        self.dataset.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Run every stage that is not in the cache. Ranks share the work by shards, and all get the same card."""
        if self.card:
            return
        self.dataset.check_unmoved(self.cache_root)
        with self._start(self.model.trained) as stages:
            n_blocks = stages.config.num_hidden_layers
            layers = choose_layers(n_blocks, self.layers)
            all_layers = choose_layers(n_blocks, [*layers, *(one for one in self.also_layers if one < n_blocks)])
            self.require_cells(len(layers) * len(self.positions.names))
            dataset = self.dataset if self.split.by in KEYWORDS else self.dataset.group_by(self.split.by)
            questions = dataset.load(log.info if not self.quiet else lambda line: None)
            if dataset.target is not None:
                require_classes([question.target for question in questions], dataset.target)
            if not self.split.own_test:
                questions = [question for question in questions if question.split != "test"]
            find_spans = self.spans if self.positions.need_exact_answers else None
            with self.timed("answers and labels"):
                examples = label_examples(stages, questions, self.rule, find_spans)
            examples = replace(examples, questions=regroup(examples.questions, examples.said, self.split.by))
            all_tokens, all_valid = self.positions.resolve(
                stages.tokenizer,
                [answer.prompt_ids for answer in examples.answers],
                [answer.answer_ids for answer in examples.answers],
                examples.span_tokens,
                [answer.thought_ids for answer in examples.answers],
                self._find_turns(stages, examples) if self.positions.need_turns else None,
            )
            columns = self.positions.columns
            tokens, valid = all_tokens[:, columns], all_valid[:, columns]
            kept = self._choose_rows(examples, valid)
            names, ids = self.positions.names, [question.id for question in examples.questions]
            groups = [question.group for question in examples.questions]
            sources = [question.split for question in examples.questions]
            if dataset.target is not None:
                classes = number_classes([question.target for question in examples.questions])
                targets = self.split_classes(*classes, groups, sources, kept)
            else:
                label = "label" if dataset.stated else "correctness"
                targets = self.split_labels(examples.labels[None], [label], groups, sources, kept)
            self._keep_examples(stages, examples, tokens, valid, targets)
            with self.timed("activations"):
                # Keep a reference, so that the entry is not removed while it is streamed.
                read = [rule.name for rule in self.positions.read]
                wanted = ids, examples.answers, read, all_tokens, all_valid, self.sites, all_layers
                cached = self._capture(stages, wanted)
                files = dict(zip(all_layers, cached.files, strict=True))
                self._cached = replace(
                    cached,
                    files=[files[layer] for layer in layers],
                    positions=[cached.positions[column] for column in columns],
                )
            memory = name_memory(self.cache_root)
            identity = identify_reading(self.model, stages.tokenizer, self.dataset.stated, memory)
            revision, cache = self.model.checkpoint.commit, stages.keys | {"activations": self._cached.entry.key}
        self._shards = self._cached.files
        store = Shards(self._cached.files, self._cached.positions)
        shown = valid & kept[:, None]
        shares = compute_coincidence(tokens, shown).tolist()
        card = Card(
            model=self.model.title,
            revision=revision,
            dataset=self.dataset.name,
            site=self.sites[0],
            layers=tuple(layers),
            positions=tuple(names),
            width=store.shape[3],
            targets=targets.cards(),
            classes=self.classes,
            coincidence=tuple(tuple(None if share != share else share for share in row) for row in shares),
            n_valid=tuple(shown.sum(0).tolist()),
            cache=cache,
            identity=identity,
        )
        self.serve(store, targets, valid, card)
        if not self.quiet:
            texts = [question.text for question, shown in zip(examples.questions, kept.tolist(), strict=True) if shown]
            in_test = (targets.splits[0, kept] == SPLITS.index("test")).nonzero()[:, 0]
            tell_near_duplicates(texts, in_test.tolist(), log.info)

    def _find_turns(self, stages: LanguageModelStages, examples: LabelledExamples) -> list[list[TurnTokens]]:
        """Find what each role says in each prompt; statements have none."""
        if self.dataset.stated:
            return [[] for _ in examples.questions]
        prompts = [answer.prompt_ids for answer in examples.answers]
        return find_turns(self.model, stages.tokenizer, examples.questions, prompts)

    def _choose_rows(self, examples: LabelledExamples, valid: Tensor) -> Tensor:
        """Choose the examples that are split, [N] bool, and tell which are left out.

        Raises:
            ValueError: none is left that has a position, or too few of a class.
        """
        kept = self.positions.choose_rows(valid, examples.span_tokens)
        if not valid[kept].any():
            raise ValueError(
                f"positions: expected examples that have one of {', '.join(self.positions.names)}, got none of "
                f"{len(valid)}; choose others"
            )
        lacking = "have no exact answer" if self.positions.rows == "exact_answer" else "lack a position"
        self._tell_left_out(examples, ~kept, lacking, "positions.rows=any keeps them")
        right, n = int(examples.labels[kept].sum()), int(kept.sum())
        if not kept.all() and min(right, n - right) < MIN_PER_CLASS and self.dataset.target is None:
            raise ValueError(
                f"positions.rows={self.positions.rows}: expected at least {MIN_PER_CLASS} {self.classes[1]} and "
                f"{MIN_PER_CLASS} {self.classes[0]} examples, got {right} and {n - right} of {len(kept)}; set "
                "positions.rows=any, or take more questions"
            )
        groups = [question.group for question in examples.questions]
        sources = [question.split * here for question, here in zip(examples.questions, kept.tolist(), strict=True)]
        tested = torch.tensor(find_tested(groups, sources)) & kept
        cure = "split.own_test=false leaves out the test part instead"
        self._tell_left_out(examples, tested, "share a group with the set's test part", cure)
        kept &= ~tested
        if self.split.by != "question" and not self.quiet:
            shown = [group for group, here in zip(groups, kept.tolist(), strict=True) if here]
            tell_groups(shown, self.split.by, log.info, log.warning)
        return kept

    def _tell_left_out(self, examples: LabelledExamples, out: Tensor, why: str, cure: str) -> None:
        """Tell how many examples of each class are in no split, why, and what would keep them."""
        if out.any() and not self.quiet:
            n, right = int(out.sum()), int(examples.labels[out].sum())
            each = f": {n - right:,} {self.classes[0]}, {right:,} {self.classes[1]}" * (self.dataset.target is None)
            log.info(f"positions: {n:,} of {len(out):,} examples {why} and are left out{each}; {cure}")

    def _start(self, model: LanguageModel) -> LanguageModelStages:
        return LanguageModelStages(model, self.dataset, self.cache_root, self.root_device, self.quiet)

    def _capture(self, stages: LanguageModelStages, wanted: tuple[Any, ...]) -> CachedActivations:
        """Read the wanted activations; with random weights, of the answers that the trained model wrote."""
        if not self.model.random_weights:
            return stages.capture(*wanted)
        stages.running.free()
        with self._start(self.model) as others:
            return others.capture(*wanted)

    def _keep_examples(
        self,
        stages: LanguageModelStages,
        examples: LabelledExamples,
        tokens: Tensor,
        valid: Tensor,
        targets: Targets,
    ) -> None:
        """Write the table of examples, the report on labels and the page of exact answers to the run folder."""
        if self.quiet:
            return
        self.keep("examples.parquet", lambda: write_examples(examples, tokens, valid, targets))
        if not self.dataset.stated:
            judged = examples.questions, [answer.text for answer in examples.answers], examples.verdicts
            path = self.keep("labels.md", lambda: write_label_report(*judged).encode())
            log.info(f"labels: {summarise_labels(*judged)}" + (f"; see {path}" if path else ""))
        if self.positions.need_exact_answers:
            path = self.keep("exact_answers.html", lambda: write_span_page(stages.tokenizer, examples).encode())
            if path:
                log.info(f"exact answers: see {path}")


def _require_groups_for(dataset: QuestionSet, positions: Positions, by: str) -> None:
    """Raise ValueError where nothing tells what `split.by` holds out."""
    if by == "gold" and dataset.stated:
        raise ValueError(
            f"split.by: expected question, exact_answer or a column for {dataset.name}, whose statements have no gold "
            "answers, got 'gold'; choose one of these"
        )
    if by == "exact_answer" and not positions.need_exact_answers:
        raise ValueError(
            "split.by: expected a position that uses the exact answer beside 'exact_answer', got "
            f"{', '.join(positions.names)}; add one, as in positions=paper"
        )
    if by not in KEYWORDS:
        dataset.group_by(by)
