"""Questions whose rows are given, so that no file or hub is needed."""

from typing import Any

from datamodules.questions.question import Question
from datamodules.questions.row_questions import RowQuestions


class Rows(RowQuestions):
    """A set named `own` of these rows; with `test` in two parts, train and test."""

    def __init__(self, train: list[dict[str, Any]], test: list[dict[str, Any]] | None = None, **settings: Any):
        named: dict[str, Any] = {"name": "own"} | settings
        super().__init__(**named)
        self.parts = {"": train} if test is None else {"train": train, "test": test}

    def read_rows(self):
        return self.parts


def pairs(*texts: tuple[Any, Any]) -> list[dict[str, Any]]:
    """Rows of questions with their gold answers."""
    return [{"question": question, "answer": answer} for question, answer in texts]


def load(rows: RowQuestions) -> tuple[list[Question], list[str]]:
    """Questions of a set, and the lines that loading told."""
    told: list[str] = []
    return rows.load(told.append), told
