"""Question records, and the files that give them."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Question:
    """One question with its gold answer.

    Attributes:
        id: unique within its set.
        group: questions of one group (one person, one duplicated text) never stand on two sides of a split.
        text: what the model is asked, context included.
        answers: gold answer and its aliases; any of them makes an answer right.
        kind: relation or category, for tables of accuracy by kind.
        pattern: regular expression whose first match in an answer is its exact answer, right or wrong; empty: none.
        options: what the question lets one choose from, the gold answer among them; empty: none.
    """

    id: str
    group: str
    text: str
    answers: tuple[str, ...]
    kind: str = ""
    pattern: str = ""
    options: tuple[str, ...] = ()


@dataclass
class CsvQuestions:
    """Questions from a CSV file with a header, one a row.

    Attributes:
        path: the file, UTF-8.
        question: column with the question.
        answer: column with the gold answer.
        group: column whose equal values stay on one side of a split; the folded question by default.
        pattern: regular expression whose first match in an answer is its exact answer, right or wrong alike, for
            `spans=rule`.
        options: columns with what the question lets one choose from, for `spans.rule=options`.
        limit: keep this many questions, drawn at random; all by default.
        seed: of the draw.
        name: shown to people; the file's name by default.
    """

    path: str
    question: str = "question"
    answer: str = "answer"
    group: str | None = None
    pattern: str = ""
    options: Sequence[str] = ()
    limit: int | None = None
    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or Path(self.path).stem
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"dataset.limit: expected a number of questions above 0, got {self.limit}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"dataset.pattern: expected a regular expression, got {self.pattern!r}: {error}") from None

    def load(self) -> list[Question]:
        """Read the file; rows without a question or a gold answer are dropped, rows of one question merged.

        Raises:
            ValueError: no such file, an empty one, or one without a named column.
        """
        columns = [column for column in (self.question, self.answer, *self.options, self.group) if column]
        try:
            table = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        except FileNotFoundError:
            raise ValueError(f"dataset.path: expected a CSV file, got {self.path}: no such file") from None
        except pd.errors.EmptyDataError:
            raise ValueError(f"dataset.path: expected questions, got {self.path}: an empty file") from None
        except (pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
            raise ValueError(f"dataset.path: expected a CSV file in UTF-8, got {self.path}: {error}") from None
        absent = [column for column in columns if column not in table.columns]
        if absent:
            raise ValueError(
                f"dataset: expected column {', '.join(absent)} in {self.path}, got {', '.join(table.columns)}; "
                "set dataset.question, dataset.answer, dataset.options or dataset.group"
            )
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError(
                f"dataset.path: expected {len(table.columns)} fields a row in {self.path}, got more; "
                "quote texts that hold commas"
            )
        # Rows of one question become one: its gold answers are all right, and it stands on one side of a split.
        merged: dict[str, dict[str, Any]] = {}
        for text, gold, *others in table[columns].itertuples(index=False):
            folded = " ".join(text.casefold().split())
            if folded and gold.strip():
                options, group = others[: len(self.options)], others[len(self.options) :]
                new = {"text": text, "gold": {}, "options": options, "group": "".join(group).strip() or folded}
                merged.setdefault(folded, new)["gold"][gold] = None
        rows = list(merged.values())
        if not rows:
            raise ValueError(f"dataset.path: expected rows with a question and an answer, got none in {self.path}")
        if self.limit is not None and self.limit < len(rows):
            rows = random.Random(self.seed).sample(rows, self.limit)
        return [
            Question(
                id=f"{self.name}-{i:05d}",
                group=row["group"],
                text=row["text"],
                answers=tuple(row["gold"]),
                pattern=self.pattern,
                options=tuple(row["options"]),
            )
            for i, row in enumerate(rows)
        ]
