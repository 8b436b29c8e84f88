"""Statements with labels, such as true and false sentences or honest and deceptive texts, with a marked phrase."""

import re
import unicodedata
from dataclasses import dataclass

from datamodules.questions.files import FileQuestions
from datamodules.questions.question import Question
from datamodules.questions.row import Row, fill, format_cell, read_cell
from datamodules.stream.ranges import Column, Text

LABELS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
MARKED = re.compile(r"\[\[(.+?)\]\]", re.DOTALL)
WHOLE = r"(?s)\S(?:.*\S)?"


@dataclass(kw_only=True)
class FileStatements(FileQuestions):
    """Statements from a file, one a row; the model reads them as they are and does not answer.

    A phrase in double square brackets, `The city of [[Paris]] is in France.`, takes the place of the exact answer; the
    brackets are removed. Without them it is the whole statement.

    Attributes:
        text: column with the statement, or a text with columns in braces.
        label: column with 0 or 1, or false or true; not read where `target` names a column of classes.

    Example:
        >>> FileStatements(path="cities.csv").read_record({"statement": "[[Oslo]] is in Norway.", "label": 1}).text
        'Oslo is in Norway.'
    """

    text: Text = "statement"
    label: Column = "label"
    stated = True

    def __post_init__(self) -> None:
        self.question, self.answer = self.text, self.target or self.label
        super().__post_init__()

    def read_record(self, row: Row) -> Question | str:
        """Turn one row into a statement without id and split, or return the reason why it is skipped.

        Raises:
            ValueError: a label that is neither 0 nor 1.
        """
        text = fill(self.text, row)
        if not text:
            return "no statement"
        label = None if self.target else read_label(row, self.label)
        if label is None and self.graded and not self.target:
            return "no label"
        marked = MARKED.search(text)
        plain = MARKED.sub(r"\1", text)
        return Question(
            id="",
            group=plain,
            text=plain,
            answers=(),
            pattern=_build_pattern(marked[1], text[: marked.start()]) if marked else WHOLE,
            label=label,
        )


def read_label(row: Row, column: str) -> bool | None:
    """Read a label of 0 or 1, or of false or true; None where the cell is empty.

    >>> read_label({"label": 1.0}, "label")
    True

    Raises:
        ValueError: a label that is neither.
    """
    label = format_cell(read_cell(row, column)).strip()
    if label and label.casefold() not in LABELS:
        raise ValueError(
            f"dataset.label: expected 0 or 1 in column {column}, got {label!r}; fix it, or name another column"
        )
    return LABELS[label.casefold()] if label else None


def _build_pattern(phrase: str, before: str) -> str:
    """Build a pattern for a phrase in decoded text, which may have lost case, accents and blanks."""
    loose = r"\s*".join(_loosen(char) for char in phrase if not char.isspace())
    earlier = len(re.findall(loose, before, re.IGNORECASE))
    return rf"(?is)(?:{loose}.*?){{{earlier}}}(?P<exact>{loose})"


def _loosen(char: str) -> str:
    bare = unicodedata.normalize("NFD", char)[0]
    return re.escape(char) if bare == char else f"(?:{re.escape(char)}|{re.escape(bare)})"
