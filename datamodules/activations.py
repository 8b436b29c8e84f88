"""The datamodule of a language model: runs the stages whose results the cache lacks, then streams what they made."""

import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from datamodules.answers import Answer
from datamodules.audit import audit_page, index_of, success
from datamodules.correctness import is_correct
from datamodules.exact_answers import ExactAnswer, ExactAnswers, asking
from datamodules.language_model import LanguageModel
from datamodules.loaders import MIN_PER_CLASS, GridDataModule
from datamodules.positions import Positions, coincidence
from datamodules.questions import Question
from datamodules.sites import check_site, choose_layers
from datamodules.spans import covering
from datamodules.split import GroupSplit
from datamodules.stages import LanguageModelStages
from datamodules.store import Shards

log = logging.getLogger(__name__)

LISTED = 20  # examples named in a line


class Dataset(Protocol):
    """A named set of questions."""

    name: str

    def load(self) -> list[Question]:
        """Return all questions."""
        ...


class ActivationDataModule(GridDataModule):
    """Questions to blocks of activations.

    Args:
        model: which language model, and how it is asked.
        dataset: which questions.
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
        dataset: Dataset,
        spans: ExactAnswers,
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
        self.sites = list(dict.fromkeys([site, *also]))
        for name in self.sites:
            check_site(name)
        self.model, self.dataset, self.spans, self.positions = model, dataset, spans, positions
        self.layers, self.cache_root = layers, cache_root

    def prepare_data(self) -> None:
        """Fetch weights that are not on this machine."""
        self.model.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Run every stage the cache lacks; ranks share the work shard by shard and all end with the same card."""
        if self.card:
            return
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        with LanguageModelStages(self.model, self.cache_root, device, self.quiet) as stages:
            layers = choose_layers(stages.config.num_hidden_layers, self.layers)
            questions, prompts = self._that_fit(stages, self.dataset.load())
            ids = [question.id for question in questions]
            answers = stages.answers(ids, prompts)
            labels = torch.tensor([int(is_correct(a.text, q.answers)) for q, a in zip(questions, answers, strict=True)])
            _check_classes(labels)
            if not self.quiet:
                cut = sum(answer.finish == "length" for answer in answers)
                right = labels.double().mean()
                log.info(f"labels: {right:.1%} of {len(labels)} answers are right; {cut} cut off at the longest length")
            exact = self._exact_answers(stages, questions, answers, labels.tolist())
            spans = [
                covering(stages.tokenizer, answer.answer_ids, one.span) if one.span else None
                for answer, one in zip(answers, exact, strict=True)
            ]
            tokens, valid = self.positions.tokens(
                stages.tokenizer,
                [answer.prompt_ids for answer in answers],
                [answer.answer_ids for answer in answers],
                spans,
            )
            names = self.positions.names
            entry = stages.activations(ids, answers, names, tokens, valid, self.sites, layers)
            if not self.quiet:
                entry.write_once("index.parquet", index_of(questions, answers, labels, exact, tokens, valid))
                if self.positions.need_exact_answers:
                    page = audit_page(stages.tokenizer, questions, answers, labels.tolist(), exact, spans)
                    log.info(f"exact answers: see {entry.write_once('exact_answers.html', page.encode())}")
        files = [entry.files(shard) for shard in range(entry.n_shards)]
        self._shards = [
            [path for shard in files for name, path in shard.items() if name.startswith(f"layer={layer:02d}/")]
            for layer in layers
        ]
        shares = coincidence(tokens, valid).tolist()
        card = {
            "model": self.model.name,
            "dataset": self.dataset.name,
            "site": self.sites[0],
            "target": "correctness",
            "layers": layers,
            "positions": names,
            "coincidence": [[None if share != share else share for share in row] for row in shares],
        }
        self.serve(Shards(self._shards), labels, valid, [question.group for question in questions], card)

    def _that_fit(
        self, stages: LanguageModelStages, questions: list[Question]
    ) -> tuple[list[Question], list[list[int]]]:
        """Questions whose prompt and longest answer the model can hold, and the prompts; the others are named."""
        prompts = stages.prompts([question.text for question in questions])
        context = stages.context
        fits = [len(prompt) + self.model.max_new_tokens <= context for prompt in prompts]
        skipped = [question.id for question, fit in zip(questions, fits, strict=True) if not fit]
        if len(skipped) == len(questions):
            raise ValueError(
                f"dataset: expected prompts that leave {self.model.max_new_tokens} of the {context} tokens of context "
                f"to the answer, got {min(map(len, prompts))} tokens and more; "
                "choose a model with a longer context, or fewer model.max_new_tokens"
            )
        if skipped and not self.quiet:
            log.warning(
                f"skipped {len(skipped)} of {len(questions)} questions, longer with their answer than the context of "
                f"{context} tokens: {', '.join(skipped)}"
            )
        kept = [(question, prompt) for question, prompt, fit in zip(questions, prompts, fits, strict=True) if fit]
        return [question for question, _ in kept], [prompt for _, prompt in kept]

    def _exact_answers(
        self,
        stages: LanguageModelStages,
        questions: Sequence[Question],
        answers: Sequence[Answer],
        labels: Sequence[bool],
    ) -> list[ExactAnswer]:
        """The exact answer of every answer, where a position needs them.

        Raises:
            ValueError: over half have none; shows five.
        """
        if not self.positions.need_exact_answers:
            return [ExactAnswer(None, "not looked for")] * len(questions)

        def ask(ids: Sequence[str], texts: Sequence[str], model: LanguageModel | None) -> list[str]:
            if model is None:
                return replies(stages, asking(self.model), ids, texts)
            stages.free()
            model.fetch()
            with LanguageModelStages(model, self.cache_root, stages.device, self.quiet) as others:
                return replies(others, asking(model), ids, texts)

        exact = self.spans(questions, [answer.text for answer in answers], labels, ask)
        if not self.quiet:
            for how, label, n, found in success(labels, exact):
                log.info(f"exact answers: {how}, {label} answers: found in {found} of {n}, {found / n:.1%}")
        without = [i for i, one in enumerate(exact) if one.span is None]
        if 2 * len(without) > len(exact):
            five = "; ".join(_without_exact_answer(questions[i], answers[i], exact[i]) for i in without[:5])
            raise ValueError(
                f"spans: expected exact answers in over half of {len(exact)} answers, got {len(exact) - len(without)}; "
                f"choose another of spans=rule, model, paper, or positions without exact answers; none in: {five}"
            )
        if without and not self.quiet:
            shown = ", ".join(questions[i].id for i in without[:LISTED])
            more = f" and {len(without) - LISTED} more, in index.parquet" if len(without) > LISTED else ""
            log.info(f"exact answers: none in {shown}{more}; their exact-answer positions are invalid")
        return exact


def _without_exact_answer(question: Question, answer: Answer, exact: ExactAnswer) -> str:
    replied = f" (replied {exact.replies[0][:40]!r})" if exact.replies else ""
    return f"{question.id} {answer.text.strip()[:80]!r}{replied}"


def _check_classes(labels: Tensor) -> None:
    n, right = len(labels), int(labels.sum())
    if min(right, n - right) < MIN_PER_CLASS:
        raise ValueError(
            f"labels: expected at least {MIN_PER_CLASS} right and {MIN_PER_CLASS} wrong answers, got {right} right and "
            f"{n - right} wrong of {n}; take more questions, or check the gold answers"
        )


def replies(stages: LanguageModelStages, asked: LanguageModel, ids: Sequence[str], texts: Sequence[str]) -> list[str]:
    """What a model replies to N texts; nothing where the text is longer than it can hold."""
    prompts = stages.prompts(texts, asked)
    fit = [i for i, prompt in enumerate(prompts) if len(prompt) + asked.max_new_tokens <= stages.context]
    if len(fit) < len(texts) and not stages.quiet:
        log.warning(
            f"{len(texts) - len(fit)} of {len(texts)} texts are not put to {asked.name}: with {asked.max_new_tokens} "
            f"tokens of reply they are longer than its context of {stages.context} tokens"
        )
    given = stages.answers([ids[i] for i in fit], [prompts[i] for i in fit], asked) if fit else []
    said = {i: reply.text for i, reply in zip(fit, given, strict=True)}
    return [said.get(i, "") for i in range(len(texts))]
