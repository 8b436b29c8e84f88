"""Which examples a split keeps together: those of one question, one gold answer, one said answer, or one column."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from datamodules.questions.groups import Groups
from datamodules.questions.question import Question, Tell
from datamodules.questions.words import fold_group

KEYWORDS = ("question", "gold", "exact_answer")  # any other value of split.by is a column of the questions


def regroup(questions: Sequence[Question], said: Sequence[str | None], by: str) -> list[Question]:
    """Join groups of N questions by their answers, which are equal apart from case, punctuation and blanks.

    Groups of the question set stay whole: two of them with an equal answer become one group.

    Args:
        questions: [N].
        said: [N] exact answers; None where there is none, which joins a question to no other.
        by: `gold` joins by the first gold answer, `exact_answer` by what was said. All else joins nothing: the set has
            joined the rows of a column itself.

    Returns:
        [N] questions with other groups.

    Example:
        >>> questions = [Question("0", "a", "?", ("Oslo",)), Question("1", "b", "?", ("oslo ",))]
        >>> [question.group for question in regroup(questions, ["Rome", None], "gold")]
        ['gold=oslo', 'gold=oslo']
        >>> [question.group for question in regroup(questions, ["Rome", None], "exact_answer")]
        ['exact_answer=rome', 'b']
    """
    if by not in ("gold", "exact_answer"):
        return list(questions)
    texts = said if by == "exact_answer" else [next(iter(question.answers), None) for question in questions]
    groups = Groups()
    for question, text in zip(questions, texts, strict=True):
        if text is not None and text.strip():
            groups.join(question.group, f"{by}={fold_group(text)}")
    return [replace(question, group=groups.find(question.group)) for question in questions]


def find_tested(groups: Sequence[str], sources: Sequence[str]) -> list[bool]:
    """Tell which of N examples are outside the set's own test part, but of a group that is in it.

    >>> find_tested(["a", "a", "b"], ["train", "test", "train"])
    [True, False, False]
    """
    tested = {group for group, source in zip(groups, sources, strict=True) if source == "test"}
    return [source != "test" and group in tested for group, source in zip(groups, sources, strict=True)]


def tell_groups(groups: Sequence[str], by: str, tell: Tell, warn: Tell) -> None:
    """Tell how many groups N examples are in, and warn where one group holds most of them.

    Args:
        groups: [N].
        by: what `split.by` is.
        tell: takes a line for people.
        warn: takes a warning.

    Example:
        >>> tell_groups(["a", "b", "a", "c"], "gold", print, print)
        split.by=gold: 4 examples in 3 groups, 2 in the largest
    """
    largest = max(Counter(groups).values())
    tell(f"split.by={by}: {len(groups):,} examples in {len(set(groups)):,} groups, {largest:,} in the largest")
    if 2 * largest > len(groups):
        warn(
            f"split.by={by}: one group holds most examples, since groups of the question set have several values; take "
            "split.by=question, or a set without dataset.group"
        )
