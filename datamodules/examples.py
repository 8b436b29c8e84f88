"""Labelled examples: each question with its answer, its label and its exact answer, and all of them as a table."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.questions.question import Question
from datamodules.split import SPLITS

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.language.generation import Answer
    from datamodules.targets import Targets

ROWS = 1024  # of the table in one piece: sets can have many
_IDS = pa.list_(pa.int32())
ANSWERED = pa.schema(
    {
        "id": pa.string(), "group": pa.string(), "source_split": pa.string(), "question": pa.string(),
        "gold": pa.list_(pa.string()), "answer": pa.string(), "finish": pa.string(), "prompt_ids": _IDS,
        "thought_ids": _IDS, "answer_ids": _IDS, "logprobs": pa.list_(pa.float32()), "exact_answer": pa.string(),
        "exact_answer_by": pa.string(), "first_token": _IDS, "last_token": _IDS, "exact_answer_tokens": _IDS,
        "label_by": pa.string(),
    }
)  # fmt: skip
Columns = Callable[[slice], dict[str, list[Any]]]


@dataclass(frozen=True)
class Verdict:
    """The label of one answer.

    Attributes:
        right: the label; None where the rule could not decide, in which case the example is left out.
        branch: which case of the rule decided, for the report.

    Example:
        >>> Verdict(right=True, branch="an alias occurs").right
        True
    """

    right: bool | None
    branch: str


@dataclass(frozen=True)
class Span:
    """The place of the exact answer in the text of one answer.

    Attributes:
        characters: first character and one past the last; None where there is none.
        how: `gold`, the name of a rule, or `model`.
        replies: what the model replied on each try; empty where no model was asked.

    Example:
        >>> Span((10, 15), "gold").characters
        (10, 15)
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
        spans: [N] places of the exact answers, in characters.
        span_tokens: [N] first and last token of each, counted in the answer; None where there is none.

    Example:
        >>> examples = label_examples(stages, questions, rule, find_spans=None)  # doctest: +SKIP
        >>> examples.labels.double().mean()  # share of right answers  # doctest: +SKIP
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

    @property
    def said(self) -> list[str | None]:
        """[N] texts of the exact answers; None where there is none."""
        return [
            answer.text[slice(*span.characters)] if span.characters else None
            for answer, span in zip(self.answers, self.spans, strict=True)
        ]


def write_examples(examples: LabelledExamples, tokens: Tensor, valid: Tensor, targets: Targets) -> bytes:
    """Make examples.parquet of N examples that a model answered.

    `first_token` and `last_token` [T] of each position, from `tokens` [N, T, 2], count in prompt, thought and answer.
    `logprobs` belong to `answer_ids`, in which `exact_answer_tokens` are the first and the last token of the exact
    answer, null where there is none; `source_split` is the part of its set that a question comes from.

    >>> content = write_examples(examples, tokens, valid, targets)  # doctest: +SKIP
    >>> pd.read_parquet(io.BytesIO(content))[["question", "answer", "label"]]  # doctest: +SKIP
    """

    said = examples.said

    def columns(part: slice) -> dict[str, list[Any]]:
        questions, answers, spans = examples.questions[part], examples.answers[part], examples.spans[part]
        return {
            "id": [question.id for question in questions],
            "group": [question.group for question in questions],
            "source_split": [question.split for question in questions],
            "question": [question.text for question in questions],
            "gold": [question.answers for question in questions],
            "answer": [answer.text for answer in answers],
            "finish": [answer.finish for answer in answers],
            "prompt_ids": [answer.prompt_ids for answer in answers],
            "thought_ids": [answer.thought_ids for answer in answers],
            "answer_ids": [answer.answer_ids for answer in answers],
            "logprobs": [answer.logprobs for answer in answers],
            "exact_answer": said[part],
            "exact_answer_by": [span.how for span in spans],
            "first_token": tokens[part].amin(2).tolist(),
            "last_token": tokens[part].amax(2).tolist(),
            "exact_answer_tokens": examples.span_tokens[part],
            "label_by": [verdict.branch for verdict in examples.verdicts[part]],
        }

    return write_table(columns, ANSWERED, valid, targets)


def write_table(columns: Columns, schema: pa.Schema, valid: Tensor, targets: Targets) -> bytes:
    """Make examples.parquet: a row for each of N examples, in the order in which blocks number them.

    Args:
        columns: gives the columns of a slice of the rows.
        schema: of these columns.
        valid: [N, T] bool, whether the example has each position.
        targets: its labels and splits. With one target the columns are `label` and `split`; with several, `label/NAME`
            and `split/NAME` for each. A split is null where the target leaves the example out.
    """
    names = [""] if len(targets.names) == 1 else [f"/{name}" for name in targets.names]
    for name in names:
        schema = schema.append(pa.field(f"label{name}", pa.int8())).append(pa.field(f"split{name}", pa.string()))
    schema = schema.append(pa.field("valid", pa.list_(pa.bool_())))
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema) as writer:
        for start in range(0, len(valid), ROWS):
            part = slice(start, start + ROWS)
            table = columns(part) | {"valid": valid[part].tolist()}
            for name, labels, splits in zip(names, targets.labels, targets.splits, strict=True):
                table[f"label{name}"] = labels[part].tolist()
                table[f"split{name}"] = [(*SPLITS, None)[split] for split in splits[part].tolist()]
            writer.write_table(pa.table(table, schema))
    return buffer.getvalue()
