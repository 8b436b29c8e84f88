"""The datamodule of a language model: runs the stages whose results the cache lacks, then streams what they made."""

import io
import logging
from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from datamodules.answers import Answer
from datamodules.cache import CacheEntry
from datamodules.capture import check_site, choose_layers
from datamodules.correctness import is_correct
from datamodules.language_model import LanguageModel
from datamodules.loaders import MIN_PER_CLASS, GridDataModule
from datamodules.positions import Positions, coincidence
from datamodules.questions import Question
from datamodules.spans import covering, exact_answer
from datamodules.split import GroupSplit
from datamodules.stages import LanguageModelStages
from datamodules.store import Shards

log = logging.getLogger(__name__)


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
        positions: which tokens, the columns of the grid.
        site: which tensor of a block, by TransformerLens' name.
        split: deals groups to train, val and test.
        cache_root: folder of the cache.
        layers: which blocks, the rows of the grid; all where None.
        block_bytes, batch_size, seed: see `GridDataModule`.
    """

    def __init__(
        self,
        model: LanguageModel,
        dataset: Dataset,
        positions: Positions,
        site: str,
        split: GroupSplit,
        cache_root: str,
        layers: Sequence[int] | None = None,
        block_bytes: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(split, block_bytes, batch_size, seed)
        check_site(site)
        self.model, self.dataset, self.positions = model, dataset, positions
        self.site, self.layers, self.cache_root = site, layers, cache_root

    def prepare_data(self) -> None:
        """Fetch weights that are not on this machine."""
        self.model.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Run every stage the cache lacks; ranks share the work shard by shard and all end with the same card."""
        if self.card:
            return
        questions = self.dataset.load()
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        with LanguageModelStages(self.model, self.cache_root, device, self.quiet) as stages:
            depth, _ = stages.depth_and_width
            layers = choose_layers(depth, self.layers)
            ids = [question.id for question in questions]
            answers = stages.answers(ids, [question.text for question in questions])
            labels = torch.tensor([int(is_correct(a.text, q.answers)) for q, a in zip(questions, answers, strict=True)])
            _check_classes(labels)
            spans = [
                covering(stages.tokenizer, answer.answer_ids, span) if span else None
                for question, answer in zip(questions, answers, strict=True)
                for span in [exact_answer(answer.text, question.answers, question.pattern)]
            ]
            index, valid = self.positions.index(
                [len(answer.prompt_ids) for answer in answers], [len(answer.answer_ids) for answer in answers], spans
            )
            entry = stages.activations(ids, answers, self.positions, index, valid, self.site, layers)
        if not self.quiet:
            _write_index(entry, questions, answers, labels, index, valid)
            _report(answers, labels, spans)
        files = [entry.files(shard) for shard in range(entry.n_shards)]
        self._shards = [
            [path for shard in files for name, path in shard.items() if name.startswith(f"layer={layer:02d}/")]
            for layer in layers
        ]
        shares = coincidence(index, valid).tolist()
        card = {
            "model": self.model.name,
            "dataset": self.dataset.name,
            "site": self.site,
            "target": "correctness",
            "layers": layers,
            "positions": list(self.positions.names),
            "coincidence": [[None if share != share else share for share in row] for row in shares],
        }
        self.serve(Shards(self._shards), labels, valid, [question.group for question in questions], card)


def _check_classes(labels: Tensor) -> None:
    n, right = len(labels), int(labels.sum())
    if min(right, n - right) < MIN_PER_CLASS:
        raise ValueError(
            f"labels: expected at least {MIN_PER_CLASS} right and {MIN_PER_CLASS} wrong answers, got {right} right and "
            f"{n - right} wrong of {n}; take more questions, or check the gold answers"
        )


def _report(answers: Sequence[Answer], labels: Tensor, spans: Sequence[tuple[int, int] | None]) -> None:
    """Say how many answers are right, how many have an exact answer, by label, and how many were cut off."""
    found = torch.tensor([span is not None for span in spans])
    right = labels.bool()
    cut = sum(answer.finish == "length" for answer in answers)
    log.info(
        f"labels: {right.double().mean():.1%} of {len(labels)} answers are right; exact answer found in "
        f"{found[right].double().mean():.1%} of the right and {found[~right].double().mean():.1%} of the wrong; "
        f"{cut} cut off at the longest length"
    )


def _write_index(
    entry: CacheEntry,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    labels: Tensor,
    index: Tensor,
    valid: Tensor,
) -> None:
    """Write which example each row of the shards is, for people and other programs; labels follow the present rule."""
    table = pa.table(
        {
            "id": [question.id for question in questions],
            "group": [question.group for question in questions],
            "question": [question.text for question in questions],
            "answer": [answer.text for answer in answers],
            "finish": [answer.finish for answer in answers],
            "prompt_ids": [answer.prompt_ids for answer in answers],
            "answer_ids": [answer.answer_ids for answer in answers],
            "position": index.tolist(),
            "valid": valid.tolist(),
            "label": labels.tolist(),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    path = entry.folder / "index.parquet"
    if not path.exists() or path.read_bytes() != buffer.getvalue():
        entry.write(path.name, buffer.getvalue())
