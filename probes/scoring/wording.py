"""What a report calls the examples of a label set: right and wrong answers, labels 1 and 0, or a class and the rest."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """Words for the examples of label 1 and of label 0.

    Attributes:
        called: said of examples from the threshold on.
        known: said of examples that have label 1.
        positive, negative: short, for ends of a scale and badges.
        rest: examples of label 0, as a plural.
        claim: what the probability is of.
    """

    called: str
    known: str
    positive: str
    negative: str
    rest: str
    claim: str


ANSWERS = Wording(
    called="called right",
    known="right by the gold answers",
    positive="right",
    negative="wrong",
    rest="wrong answers",
    claim="the answer is right",
)
STATEMENTS = Wording(
    called="called label 1",
    known="label 1 in the set",
    positive="label 1",
    negative="label 0",
    rest="statements of label 0",
    claim="the label is 1",
)
CLASSES = Wording(
    called="put into the class",
    known="in the class by the set",
    positive="in the class",
    negative="outside",
    rest="examples outside the class",
    claim="the example is in the class",
)
LABEL_SETS = {"correctness": ANSWERS, "label": STATEMENTS}


def choose_wording(label: str) -> Wording:
    """The words for a label set, by what its label 1 means, as in `TargetCard.label`.

    >>> choose_wording("correctness").rest, choose_wording("colour: green").rest
    ('wrong answers', 'examples outside the class')
    """
    return LABEL_SETS.get(label, CLASSES)
