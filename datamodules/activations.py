"""The datamodule of a language model: runs the stages whose results the cache lacks, then streams what they made."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from datamodules.base import GridDataModule
from datamodules.examples import LabelledExamples, table_of
from datamodules.labels.judge import Judge
from datamodules.labels.labelling import LabelRule, label_examples
from datamodules.labels.report import summarise_labels, write_label_report
from datamodules.labels.rules import TextRule, judge_as_given
from datamodules.labels.span_page import write_span_page
from datamodules.labels.spans import SpanFinder
from datamodules.language.cache.entry import CacheEntry
from datamodules.language.language_model import LanguageModel
from datamodules.language.positions import Positions, compute_coincidence
from datamodules.language.sites import check_site, choose_layers
from datamodules.language.stages import LanguageModelStages
from datamodules.questions.near_duplicates import tell_near_duplicates
from datamodules.questions.question import QuestionSet
from datamodules.split import GroupSplit
from datamodules.stream.local_paths import expand_user
from datamodules.stream.store import Shards

log = logging.getLogger(__name__)


class ActivationDataModule(GridDataModule):
    """Questions to blocks of activations.

    Args:
        model: which language model, and how it is asked.
        dataset: which questions.
        rule: which answers are right.
        spans: which words of an answer are its exact answer.
        positions: which tokens, the columns of the grid.
        site: which tensor of a block, by TransformerLens' name.
        split: deals groups to train, val and test.
        cache_root: folder of the cache.
        layers: which blocks, the rows of the grid; all where None.
        also: further sites to cache from the same forward passes.
        block_bytes, batch_size, seed: see `GridDataModule`.
    """

    def __init__(
        self,
        model: LanguageModel,
        dataset: QuestionSet,
        rule: LabelRule,
        spans: SpanFinder,
        positions: Positions,
        site: str,
        split: GroupSplit,
        cache_root: str,
        layers: Sequence[int] | None = None,
        also: Sequence[str] = (),
        block_bytes: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(split, block_bytes, batch_size, seed)
        for group, part in (
            ("model", model), ("dataset", dataset), ("rule", rule), ("spans", spans), ("positions", positions),
        ):  # fmt: skip
            if isinstance(part, Mapping | None):
                raise ValueError(
                    f"{group}: expected a configuration with a _target_, got {part or 'an empty one'}; begin it with "
                    "defaults: [NAME], naming one that is there"
                )
        _require_rule_for(dataset, rule)
        if not isinstance(cache_root, str) or not cache_root:
            raise ValueError(f"cache.root: expected a folder, got {cache_root!r}; name one")
        if isinstance(also, str) or also is None:
            raise ValueError(f"site.also: expected a list of sites, got {also!r}; write site.also=[z,mlp_out]")
        self.sites = list(dict.fromkeys([site, *also]))
        for name in self.sites:
            check_site(name, "site.name" if name == site else "site.also")
        self.model, self.dataset, self.rule, self.spans, self.positions = model, dataset, rule, spans, positions
        self.layers, self.cache_root = layers, str(expand_user(cache_root, "cache.root"))

    def prepare_data(self) -> None:
        """Fetch weights and questions that are not on this machine."""
        if self.card:  # of a fit, before the test
            return
        self.model.fetch()
        self.dataset.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Run every stage the cache lacks; ranks share the work shard by shard and all end with the same card."""
        if self.card:
            return
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        self.dataset.check_unmoved(self.cache_root)
        with LanguageModelStages(self.model, self.dataset, self.cache_root, device, self.quiet) as stages:
            layers = choose_layers(stages.config.num_hidden_layers, self.layers)
            questions = self.dataset.load(log.info if not self.quiet else lambda line: None)
            if not self.split.own_test:
                questions = [question for question in questions if question.split != "test"]
            examples = label_examples(
                stages, questions, self.rule, self.spans if self.positions.need_exact_answers else None
            )
            tokens, valid = self.positions.resolve(
                stages.tokenizer,
                [answer.prompt_ids for answer in examples.answers],
                [answer.answer_ids for answer in examples.answers],
                examples.span_tokens,
                [answer.thought_ids for answer in examples.answers],
            )
            if not valid.any():
                raise ValueError(
                    f"positions: expected examples that have one of {', '.join(self.positions.names)}, got none of "
                    f"{len(valid)}; choose others"
                )
            if self.positions.require_exact_answer and not self.quiet:
                without = sum(span is None for span in examples.span_tokens)
                log.info(f"positions: {without} of {len(valid)} examples without an exact answer are in no column")
            names, ids = self.positions.names, [question.id for question in examples.questions]
            # Kept, so that nobody removes it while it is streamed.
            self._cached = cached = stages.capture(ids, examples.answers, names, tokens, valid, self.sites, layers)
            if not self.quiet:
                try:
                    self._write_for_people(cached.entry, stages, examples, tokens, valid)
                except OSError as error:  # a cache that others own can be read all the same
                    log.warning(f"what the cache says of the examples is not brought up to date: {error}")
        self._shards = cached.files
        shares = compute_coincidence(tokens, valid).tolist()
        card = {
            "model": self.model.name,
            "dataset": self.dataset.name,
            "site": self.sites[0],
            "target": "label" if self.dataset.stated else "correctness",
            "layers": layers,
            "positions": names,
            "coincidence": [[None if share != share else share for share in row] for row in shares],
        }
        groups, given = [q.group for q in examples.questions], [q.split for q in examples.questions]
        self.serve(Shards(cached.files, cached.positions), examples.labels, valid, groups, card, given)
        if not self.quiet:
            tell_near_duplicates([q.text for q in examples.questions], self._rows["test"], log.info)

    def _write_for_people(
        self, entry: CacheEntry, stages: LanguageModelStages, examples: LabelledExamples, tokens: Tensor, valid: Tensor
    ) -> None:
        """Put the table of examples, the report on labels and the page of exact answers beside the activations."""
        entry.write_once("index.parquet", table_of(examples, tokens, valid))
        if not self.dataset.stated:
            judged = examples.questions, [answer.text for answer in examples.answers], examples.verdicts
            path = entry.write_once("labels.md", write_label_report(*judged).encode())
            log.info(f"labels: {summarise_labels(*judged)}; see {path}")
        if self.positions.need_exact_answers:
            page = write_span_page(stages.tokenizer, examples)
            log.info(f"exact answers: see {entry.write_once('exact_answers.html', page.encode())}")


def _require_rule_for(dataset: QuestionSet, rule: LabelRule) -> None:
    """Refuse a rule that looks for gold answers, which statements have none of, and labels that questions lack."""
    if not isinstance(rule, TextRule | Judge):
        return
    reads_labels = isinstance(rule, TextRule) and getattr(rule.rule, "func", rule.rule) is judge_as_given
    if dataset.stated and not reads_labels:
        raise ValueError(
            f"rule: expected rule=given for {dataset.name}, whose statements come with their labels, got one that "
            "looks for gold answers; set rule=given"
        )
    if reads_labels and not dataset.stated:
        raise ValueError(
            f"rule=given: expected statements with labels, got the questions of {dataset.name}; choose another rule, "
            "such as rule=gold"
        )
