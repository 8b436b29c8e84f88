"""Question records, and the interface of question sets."""

import logging
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

log = logging.getLogger(__name__)

LISTED = 20  # rows named in a line
Tell = Callable[[str], None]  # takes a line for people


class Turn(NamedTuple):
    """One message of a chat.

    >>> Turn("user", "Who wrote Faust?").role
    'user'
    """

    role: str
    text: str


@dataclass(frozen=True)
class Response:
    """An answer from elsewhere.

    Attributes:
        text: of the answer.
        finish: `stop` if its author ended it, `length` if it was cut off; None where nothing says.
        turns: the messages before it; empty where it answers the question alone.
        prompt_ids: token ids that the answering model read; empty where they are not known.
        ids: token ids that it wrote, the stop token included; empty where they are not known.
        logprobs: natural log-probability of each of `ids`; empty where they are not known.

    Example:
        >>> Response("Goethe.", finish="stop").ids
        ()
    """

    text: str
    finish: Literal["stop", "length"] | None = None
    turns: tuple[Turn, ...] = ()
    prompt_ids: Sequence[int] = ()
    ids: Sequence[int] = ()
    logprobs: Sequence[float] = ()


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
        label: label of a statement or a response; None for a question whose answer is labelled later.
        response: the answer from elsewhere; None where the model answers.
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
    response: Response | None = None
    target: str = ""

    @property
    def content(self) -> str:
        """What tells it from the other questions of its set: its text, its pattern and its response."""
        of_response = f"\n{self.response!r}" if self.response else ""
        return f"{self.text}\n{self.pattern}{of_response}"


class QuestionSet:
    """A named set of questions, of statements with labels, or of questions with their answers.

    Attributes:
        name: shown to people.
        stated: whether the texts are statements with labels, so that no model answers.
        answered: whether each question comes with a response, so that no model answers.
        target: column whose values are the classes to tell apart; None: right or wrong.
        graded: whether only questions with a gold answer, or a label, are loaded.

    Example:
        >>> questions = FileQuestions(path="questions.csv").load()  # doctest: +SKIP
        >>> questions[0].text  # doctest: +SKIP
        'What is the capital of France?'
    """

    name: str
    stated = False
    answered = False
    graded = True
    target: str | None = None

    def fetch(self) -> None:
        """Download what is remote."""

    def ungraded(self) -> "QuestionSet":
        """This set, but questions without a gold answer or a label are loaded too: they can be scored."""
        found = copy(self)
        found.graded = False
        return found

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
