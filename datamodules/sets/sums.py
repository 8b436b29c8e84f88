"""What is the sum of two numbers? Questions and their answers are computed; no data file is needed."""

import logging
import random
from dataclasses import dataclass
from math import isqrt

from datamodules.questions import Question, QuestionSet, Tell

log = logging.getLogger(__name__)

WORDINGS = (
    "What is {a} + {b}?",
    "What is the sum of {a} and {b}?",
    "How much is {a} plus {b}?",
    "Add {a} and {b}.",
    "Calculate {a} + {b}.",
)


@dataclass
class SumQuestions(QuestionSet):
    """Sums of two numbers in several wordings, each pair once: either 17 + 25 or 25 + 17 is asked.

    Attributes:
        name: shown to people.
        limit: number of questions.
        seed: of the draw.
        smallest: least of the numbers that are added, 1 or more.
        largest: greatest of them.

    >>> [(asked.text, asked.answers) for asked in SumQuestions(limit=1).load()]
    [('What is 92 + 65?', ('157',))]
    """

    name: str = "sums"
    limit: int = 2000
    seed: int = 0
    smallest: int = 10
    largest: int = 99

    def __post_init__(self) -> None:
        for key, least in (("seed", None), ("smallest", 1), ("largest", self.smallest), ("limit", 1)):
            value = getattr(self, key)
            if type(value) is not int or (least is not None and value < least):
                expected = "a whole number" if least is None else f"a whole number from {least} on"
                raise ValueError(f"dataset.{key}: expected {expected}, got {value!r}")
        if self.limit > self.pairs:
            raise ValueError(
                f"dataset.limit: expected at most {self.pairs}, the pairs of numbers from {self.smallest} to "
                f"{self.largest}, got {self.limit}; raise dataset.largest"
            )

    @property
    def pairs(self) -> int:
        """How many pairs of numbers there are, their order aside."""
        n = self.largest - self.smallest + 1
        return n * (n + 1) // 2

    def load(self, tell: Tell = log.info) -> list[Question]:
        """Draw the questions."""
        rng = random.Random(self.seed)
        return [self._question(i, rng) for i in rng.sample(range(self.pairs), self.limit)]

    def _question(self, i: int, rng: random.Random) -> Question:
        """The question about pair i, in the order (0, 0), (0, 1), (1, 1), (0, 2), ... above the smallest number."""
        b = (isqrt(8 * i + 1) - 1) // 2
        pair = [self.smallest + i - b * (b + 1) // 2, self.smallest + b]
        group = f"{pair[0]} + {pair[1]}"
        first, second = rng.sample(pair, 2)
        text = rng.choice(WORDINGS).format(a=first, b=second)
        return Question(id=f"{self.name}-{group.replace(' ', '')}", group=group, text=text, answers=(str(sum(pair)),))
