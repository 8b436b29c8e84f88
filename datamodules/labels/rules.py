"""Right or wrong: the label of an answer, from its text and its question alone.

Rules compare whole words as `fold` gives them: `1` is not in `1999`, `Andy Garcia` is Andy García, and nine is 9. Case
counts only where it tells a name from an ordinary word (`letter_case`): `us` is not US, but `copper` is Copper.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from datamodules.examples import Verdict
from datamodules.questions.numbers import find_answer_number, find_numbers, is_same_number
from datamodules.questions.question import Question
from datamodules.questions.words import drop_article, find_words, fold

Rule = Callable[[str, Question], Verdict]


def judge_by_gold(answer: str, question: Question) -> Verdict:
    """Right where the gold answer, or any of its aliases, occurs as whole words.

    >>> judge_by_gold("In 1999.", Question("q0", "g", "?", ("1", "1999")))
    Verdict(right=True, branch='an alias occurs')
    """
    said = fold(answer)
    for i, accepted in enumerate(question.answers):
        if find_words(accepted, said) is not None:
            return Verdict(True, "an alias occurs" if i else "the gold answer occurs")
    return Verdict(False, "none occurs")


def judge_by_pattern(answer: str, question: Question) -> Verdict:
    r"""Right where the first match of the question's pattern, which `spans=rule` marks, is a gold answer.

    So Guinea is not right where Equatorial Guinea is said, nor is what an answer names later on.

    >>> judge_by_pattern("Oslo or Rome", Question("q0", "g", "?", ("Rome",), pattern=r"[A-Z]\w+"))
    Verdict(right=False, branch='another match first')

    Raises:
        ValueError: a question without a pattern.
    """
    if not question.pattern:
        raise ValueError(
            f"rule=pattern: expected a regular expression for {question.id}, got none; set dataset.pattern, or choose "
            "rule=gold"
        )
    match = re.search(question.pattern, answer)
    said = match and match["exact" if "exact" in match.groupdict() else 0]
    if not said:
        return Verdict(False, "no match")
    right = any(fold(said).counted == fold(accepted).counted for accepted in question.answers)
    return Verdict(right, "a gold answer first" if right else "another match first")


def judge_by_number(answer: str, question: Question) -> Verdict:
    """Right where the number that the answer gives is the gold one: 9 is `9.0`, `$9`, `nine` and `18/2`.

    `numbers.find_answer_number` says which number that is, the one that `spans=number` marks: the one after
    `answer is`, or after a final `=`, else the last. So `3 * 6 = 18` is no right answer where the gold number is 3.

    >>> judge_by_number("3 * 6 = 18", Question("q0", "g", "?", ("3",)))
    Verdict(right=False, branch='another number')

    Raises:
        ValueError: the gold answer has no number.
    """
    wanted = [one.value for accepted in question.answers for one in find_numbers(accepted)]
    if not wanted:
        raise ValueError(
            f"rule=number: expected a number as the gold answer of {question.id}, got {question.answers[0]!r}; "
            "choose rule=gold"
        )
    said = find_answer_number(answer)
    if said is None:
        return Verdict(False, "no number")
    right = any(is_same_number(said.value, other) for other in wanted)
    return Verdict(right, "the gold number" if right else "another number")


def judge_by_options(answer: str, question: Question) -> Verdict:
    """Right where the gold option is the first to be named, in any of its spellings; of two at one place the longer.

    >>> question = Question("q0", "g", "?", ("cat",), options=(("cat",), ("dog",)))
    >>> judge_by_options("The cat, not the dog.", question)
    Verdict(right=True, branch='the gold option first')

    Raises:
        ValueError: a question without options.
    """
    if len(question.options) < 2:
        raise ValueError(
            f"rule=options: expected a choice of options for {question.id}, got {list(question.options)}; "
            "name their columns with dataset.options, or label words with dataset.labels"
        )
    said = fold(answer)
    named = [
        (at, -len(fold(name).words), option[0])
        for option in question.options
        for name in map(drop_article, option)  # which would stand before the name that begins with it
        if (at := find_words(name, said)) is not None
    ]
    if not named:
        return Verdict(False, "no option named")
    right = min(named)[2] == question.answers[0]
    return Verdict(right, "the gold option first" if right else "another option first")


def judge_by_substring(answer: str, question: Question) -> Verdict:
    """Right where a gold answer occurs as it is written, anywhere, even inside a word; only case is folded.

    The rule of the study's own code, for comparison: `1` is in `1999`. Where there are options, the one found first.

    >>> judge_by_substring("In 1999.", Question("q0", "g", "?", ("1",)))
    Verdict(right=True, branch='found')
    """
    text = answer.lower()
    gold, wrong = list(question.answers), list[str]()
    for option in question.options:
        (gold if option[0] in question.answers else wrong).extend(option)
    own, others = ([at for words in of if (at := text.find(words.lower().strip())) >= 0] for of in (gold, wrong))
    right = bool(own) and (not others or min(own) < min(others))
    return Verdict(right, "found" if right else "not found")


def judge_as_given(answer: str, question: Question) -> Verdict:
    """Take the label that came with the text. A text with a class counts as right, as its class is the target.

    >>> judge_as_given("", Question("q0", "g", "It rains.", (), label=True))
    Verdict(right=True, branch='given as 1')

    Raises:
        ValueError: a question without a label.
    """
    if question.target:
        return Verdict(True, "its class")
    if question.label is None:
        raise ValueError(
            f"rule=given: expected a label of every response, got none for {question.id}; choose another rule, such as "
            "rule=gold, which grades those without one"
        )
    return Verdict(question.label, f"given as {int(bool(question.label))}")


@dataclass
class TextRule:
    """Labels N answers one by one.

    Attributes:
        rule: the function of this module that labels one answer.

    Example:
        >>> TextRule(judge_by_gold)([Question("q0", "g", "?", ("1999",))], ["In 1999."])
        [Verdict(right=True, branch='the gold answer occurs')]
    """

    rule: Rule

    def __call__(self, questions: Sequence[Question], answers: Sequence[str], ask: object = None) -> list[Verdict]:
        """Return one verdict for each; no model is asked."""
        rule = self.rule
        if isinstance(rule, partial) and not (rule.args or rule.keywords):
            rule = rule.func  # Hydra's partial checks at each call what it calls; that takes as long as to judge
        return [rule(answer, question) for question, answer in zip(questions, answers, strict=True)]
