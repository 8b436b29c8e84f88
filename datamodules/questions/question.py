"""Question records, and the interface of question sets."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

LISTED = 20  # rows named in a line
Tell = Callable[[str], None]  # takes a line for people


@dataclass(frozen=True)
class Question:
    """One question with its gold answer, or one statement with its label.

    Attributes:
        id: unique within its set.
        group: questions of one group (one person, one question asked twice) are always in the same split.
        text: the question as the model reads it, with its context; or the statement.
        answers: gold answer and its aliases; any of them makes an answer right.
        kind: relation or category, for tables of accuracy by kind.
        pattern: regular expression whose first match in an answer is its exact answer, right or wrong; empty: none.
        options: what the question lets one choose from, the gold answer among them, each with its spellings, of which
            the first names it; empty: none.
        split: `train` or `test` where the set has both; empty: not yet split.
        label: label of a statement; None for a question, whose answer is labelled later.
        target: class of the text, where classes are to be told apart; empty: whether it is right.

    Example:
        >>> Question("q0", "france", "What is the capital of France?", ("Paris",)).answers
        ('Paris',)
    """

    id: str
    group: str
    text: str
    answers: tuple[str, ...]
    kind: str = ""
    pattern: str = ""
    options: tuple[tuple[str, ...], ...] = ()
    split: str = ""
    label: bool | None = None
    target: str = ""


class QuestionSet:
    """A named set of questions, or of statements with labels.

    Attributes:
        name: shown to people.
        stated: whether the texts are statements with labels, so that no model answers.
        target: column whose values are the classes to tell apart; None: right or wrong.

    Example:
        >>> questions = FileQuestions(path="questions.csv").load()  # doctest: +SKIP
        >>> questions[0].text  # doctest: +SKIP
        'What is the capital of France?'
    """

    name: str
    stated = False
    target: str | None = None

    def fetch(self) -> None:
        """Download what is remote."""

    def identify(self) -> dict[str, Any]:
        """Return what the cache key contains about the set, besides its texts."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return what the manifest of the cache says about the set, for people."""
        return {"dataset": self.name}

    def check_unmoved(self, cache_root: str) -> None:
        """Raise ValueError if the source has changed under the same name since its answers were cached."""

    def group_by(self, column: str) -> "QuestionSet":
        """Return this set, in which questions with an equal value in a column are also one group.

        Raises:
            ValueError: it has no columns.
        """
        raise ValueError(
            f"split.by: expected question, gold or exact_answer for {self.name}, which has no columns, got {column!r}; "
            "choose one of these"
        )

    def load(self, tell: Tell = log.info) -> list[Question]:
        """Return the questions, and tell what was left out."""
        raise NotImplementedError
