"""What is the sum of two numbers? Questions and their answers are computed; no data file is needed."""

import logging
import random
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from datamodules.questions.question import Question, QuestionSet, Tell
from datamodules.stream.ranges import Count, NotNegative, Seed, Text

log = logging.getLogger(__name__)

# All write the sum with its sign: asked for "the sum of 17 and 25", a small model is nearly always wrong.
WORDINGS = (
    "What is {a} + {b}?",
    "What's {a} + {b}?",
    "What does {a} + {b} equal?",
    "How much is {a} + {b}?",
    "{a} + {b}?",
)


@dataclass
class SumQuestions(QuestionSet):
    """Sums of two numbers in several wordings, each pair once: either 17 + 25 or 25 + 17 is used.

    Attributes:
        name: shown to people.
        limit: number of questions.
        seed: of the draw.
        smallest: least of the numbers that are added, 1 or more.
        largest: greatest of them.
        apart: greatest difference between the two. If it is large, it separates hard sums from easy ones: of 224
            sums of any two numbers SmolLM2-135M-Instruct had 42% right, and the difference alone predicted which
            with an AUC of .69.

    >>> [(asked.text, asked.answers) for asked in SumQuestions(limit=1).load()]
    [('What does 67 + 48 equal?', ('115',))]
    """

    name: Text = "sums"
    limit: Count = 2000
    seed: Seed = 0
    smallest: Count = 10
    largest: Count = 99
    apart: NotNegative = 30

    def __post_init__(self) -> None:
        for key, least in (("seed", 0), ("smallest", 1), ("largest", self.smallest), ("apart", 0), ("limit", 1)):
            value = getattr(self, key)
            if type(value) is not int or (least is not None and value < least):
                expected = "a whole number" if least is None else f"a whole number from {least} on"
                raise ValueError(f"dataset.{key}: expected {expected}, got {value!r}")
        pairs = self._ends()[-1]
        if self.limit > pairs:
            raise ValueError(
                f"dataset.limit: expected at most {pairs}, the pairs of numbers from {self.smallest} to {self.largest} "
                f"that are at most {self.apart} apart, got {self.limit}; raise dataset.largest"
            )

    def load(self, tell: Tell = log.info) -> list[Question]:
        """Draw the questions."""
        rng, ends = random.Random(self.seed), self._ends()
        return [self._build_question(i, ends, rng) for i in rng.sample(range(ends[-1]), self.limit)]

    def _ends(self) -> list[int]:
        """Count the pairs with at most each difference, from 0 on."""
        n = self.largest - self.smallest + 1
        return list(accumulate(n - gap for gap in range(min(self.apart, n - 1) + 1)))

    def _build_question(self, i: int, ends: list[int], rng: random.Random) -> Question:
        """The question about pair i, where pairs with a smaller difference come first."""
        gap = bisect_right(ends, i)
        least = self.smallest + i - (ends[gap - 1] if gap else 0)
        group = f"{least} + {least + gap}"
        a, b = rng.sample([least, least + gap], 2)
        text = rng.choice(WORDINGS).format(a=a, b=b)
        return Question(id=f"{self.name}-{group.replace(' ', '')}", group=group, text=text, answers=(str(a + b),))
