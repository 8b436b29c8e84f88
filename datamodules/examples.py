"""Labelled examples: each question with its answer, its label and its exact answer, and all of them as a table."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.questions.question import Question

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.language.generation import Answer

ROWS = 1024  # of the table in one piece: sets can have many
_IDS = pa.list_(pa.int32())
INDEX = pa.schema(
    {
        "id": pa.string(), "group": pa.string(), "split": pa.string(), "question": pa.string(),
        "gold": pa.list_(pa.string()), "answer": pa.string(), "finish": pa.string(), "prompt_ids": _IDS,
        "thought_ids": _IDS, "answer_ids": _IDS, "exact_answer": pa.string(), "exact_answer_by": pa.string(),
        "first_token": _IDS, "last_token": _IDS, "valid": pa.list_(pa.bool_()), "label": pa.int8(),
        "label_by": pa.string(),
    }
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """The label of one answer.

    Attributes:
        right: the label; None where it could not be told, which leaves the example out.
        branch: which case of the rule decided, for the report.
    """

    right: bool | None
    branch: str


@dataclass(frozen=True)
class Span:
    """Where in one answer's text its exact answer stands.

    Attributes:
        characters: first character and one past the last; None where there is none.
        how: `gold`, the name of a rule, or `model`.
        replies: what the model replied, try by try, where one was asked.
    """

    characters: tuple[int, int] | None
    how: str
    replies: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledExamples:
    """N examples, ready for their activations to be read.

    Attributes:
        questions: [N].
        answers: [N].
        verdicts: [N], each right or wrong.
        spans: [N] where the exact answers stand, in characters.
        span_tokens: [N] first and last token of each, counted in the answer; None where there is none.
    """

    questions: list[Question]
    answers: list[Answer]
    verdicts: list[Verdict]
    spans: list[Span]
    span_tokens: list[tuple[int, int] | None]

    @property
    def labels(self) -> Tensor:
        """[N] int64, 1 for right."""
        import torch

        return torch.tensor([int(bool(verdict.right)) for verdict in self.verdicts])


def table_of(examples: LabelledExamples, tokens: Tensor, valid: Tensor) -> bytes:
    """Say which example each row of the shards is, as Parquet, for people and other programs.

    Labels and exact answers follow the present rules. tokens [N, T, 2] are counted in prompt, thought and
    answer.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, INDEX) as writer:
        for start in range(0, len(valid), ROWS):
            part = slice(start, start + ROWS)
            questions, answers, spans = examples.questions[part], examples.answers[part], examples.spans[part]
            verdicts = examples.verdicts[part]
            columns = {
                "id": [question.id for question in questions],
                "group": [question.group for question in questions],
                "split": [question.split for question in questions],
                "question": [question.text for question in questions],
                "gold": [question.answers for question in questions],
                "answer": [answer.text for answer in answers],
                "finish": [answer.finish for answer in answers],
                "prompt_ids": [answer.prompt_ids for answer in answers],
                "thought_ids": [answer.thought_ids for answer in answers],
                "answer_ids": [answer.answer_ids for answer in answers],
                "exact_answer": [
                    a.text[slice(*e.characters)] if e.characters else None for a, e in zip(answers, spans, strict=True)
                ],
                "exact_answer_by": [one.how for one in spans],
                "first_token": tokens[part, :, 0].tolist(),
                "last_token": tokens[part, :, 1].tolist(),
                "valid": valid[part].tolist(),
                "label": [int(bool(verdict.right)) for verdict in verdicts],
                "label_by": [verdict.branch for verdict in verdicts],
            }
            writer.write_table(pa.table(columns, INDEX))
    return buffer.getvalue()
