"""Question records, and what every set of them can do."""

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
        group: questions of one group (one person, one question asked twice) never stand on two sides of a split.
        text: what the model is asked, context included; or the statement.
        answers: gold answer and its aliases; any of them makes an answer right.
        kind: relation or category, for tables of accuracy by kind.
        pattern: regular expression whose first match in an answer is its exact answer, right or wrong; empty: none.
        options: what the question lets one choose from, the gold answer among them, each with its spellings, of which
            the first names it; empty: none.
        split: `train` or `test` where the set has both; empty: to be dealt.
        label: given with a statement; None: to be found out.

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


class QuestionSet:
    """A named set of questions, or of statements with labels.

    Attributes:
        name: shown to people.
        stated: whether the texts are statements with labels, so that no model answers.

    Example:
        >>> questions = FileQuestions(path="questions.csv").load()  # doctest: +SKIP
        >>> questions[0].text  # doctest: +SKIP
        'What is the capital of France?'
    """

    name: str
    stated = False

    def fetch(self) -> None:
        """Download what is remote."""

    def identify(self) -> dict[str, Any]:
        """What of the set, beside its texts, the content of the cache depends on."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What else the cache's manifest says of the set, for people."""
        return {"dataset": self.name}

    def check_unmoved(self, cache_root: str) -> None:
        """Refuse a source that has changed under the same name since answers to it were cached."""

    def load(self, tell: Tell = log.info) -> list[Question]:
        """Return the questions; tells what was left out."""
        raise NotImplementedError
