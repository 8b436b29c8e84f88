"""The datamodule: runs the stages whose results the cache lacks, then streams cell blocks."""

import io
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.answers import Answer
from datamodules.blocks import CellBlocks
from datamodules.cache import CacheEntry
from datamodules.capture import check_site, choose_layers
from datamodules.correctness import is_correct
from datamodules.language_model import LanguageModel
from datamodules.positions import Positions, coincidence
from datamodules.questions import Question
from datamodules.spans import covering, exact_answer
from datamodules.split import GroupSplit
from datamodules.stages import LanguageModelStages

log = logging.getLogger(__name__)

MIN_PER_CLASS = 10  # fewer right or wrong answers than this say nothing about a probe


class Dataset(Protocol):
    """A named set of questions."""

    name: str

    def load(self) -> list[Question]:
        """Return all questions."""
        ...


class ActivationDataModule(pl.LightningDataModule):
    """Questions to cell blocks.

    After `setup`, `card` describes the grid for probes and callbacks: model, dataset, site, target, layers, positions,
    width, split (seed, and n and n_positive of each split), coincidence [T][T] and n_valid [T].

    Args:
        model: which language model, and how it is asked.
        dataset: which questions.
        positions: which tokens, the columns of the grid.
        site: which tensor of a block, by TransformerLens' name.
        split: deals groups to train, val and test.
        cache_root: folder of the cache.
        layers: which blocks, the rows of the grid; all where None.
        block_bytes: bytes of activations in a block.
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
        block_bytes: int = 2**26,
    ) -> None:
        super().__init__()
        check_site(site)
        self.model, self.dataset, self.positions, self.split = model, dataset, positions, split
        self.site, self.layers, self.cache_root, self.block_bytes = site, layers, cache_root, block_bytes
        self.card: dict[str, Any] = {}

    def prepare_data(self) -> None:
        """Fetch weights that are not on this machine."""
        self.model.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Run every stage the cache lacks; ranks share the work shard by shard and all end with the same card."""
        if self.card:
            return
        questions = self.dataset.load()
        device, quiet = torch.device("cpu"), False
        if self.trainer is not None:
            device, quiet = self.trainer.strategy.root_device, not self.trainer.is_global_zero
        with LanguageModelStages(self.model, self.cache_root, device, quiet) as stages:
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
        if not quiet:
            _write_index(entry, questions, answers, labels, index, valid)
            _report(answers, labels, spans)
        files = [entry.files(shard) for shard in range(entry.n_shards)]
        self._shards = [
            [path for shard in files for name, path in shard.items() if name.startswith(f"layer={layer:02d}/")]
            for layer in layers
        ]
        self._labels, self._valid = labels, valid
        self._rows = self.split([question.group for question in questions], labels.tolist())
        for name, rows in self._rows.items():
            right = int(labels[rows].sum())
            if min(right, len(rows) - right) < MIN_PER_CLASS and not quiet:
                log.warning(f"split: {name} has {right} right and {len(rows) - right} wrong; take more questions")
        shares = coincidence(index, valid).tolist()
        self.card = {
            "model": self.model.name,
            "dataset": self.dataset.name,
            "site": self.site,
            "target": "correctness",
            "layers": layers,
            "positions": list(self.positions.names),
            "width": CellBlocks.width(self._shards),
            "split": {"seed": self.split.seed}
            | {name: {"n": len(rows), "n_positive": int(labels[rows].sum())} for name, rows in self._rows.items()},
            "coincidence": [[None if share != share else share for share in row] for row in shares],
            "n_valid": valid.sum(0).tolist(),
        }

    def train_dataloader(self) -> CellBlocks:
        """Cell blocks of the train rows."""
        return self._blocks("train")

    def val_dataloader(self) -> CellBlocks:
        """Cell blocks of the validation rows."""
        return self._blocks("val")

    def test_dataloader(self) -> CellBlocks:
        """Cell blocks of the test rows."""
        return self._blocks("test")

    def _blocks(self, split: str) -> CellBlocks:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return CellBlocks(
            self._shards, self._rows[split], self._labels, self._valid, self.block_bytes, rank, world_size
        )


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
