from functools import partial

import pytest
from hydra.utils import instantiate

from datamodules.examples import Verdict
from datamodules.labels.rules import (
    TextRule,
    judge_as_given,
    judge_by_gold,
    judge_by_number,
    judge_by_options,
    judge_by_substring,
)
from datamodules.questions.question import Question

NLI = (("entailment", "entail"), ("neutral", "neutrality"), ("contradiction", "contradict"))


def ask(answers, choice=(), label=None):
    return Question("q0", "g", "Who?", tuple(answers), options=choice, label=label)


@pytest.mark.parametrize(
    ("answer", "accepted", "branch"),
    [
        ("It is Paris, of course.", ["Paris"], "the gold answer occurs"),
        ("the city of  New\nYork", ["New York"], "the gold answer occurs"),
        ("Lutetia", ["Paris", "Lutetia", "Lutèce"], "an alias occurs"),
        ("lutece it was", ["Paris", "Lutetia", "Lutèce"], "an alias occurs"),
        ("Andy Garcia", ["Andy García"], "the gold answer occurs"),
        ("Jean Claude van Damme", ["Jean-Claude Van Damme"], "the gold answer occurs"),
        ("nine of them", ["9"], "the gold answer occurs"),
        ("9 of them", ["Nine"], "the gold answer occurs"),
        ("Beatles fans say so", ["The Beatles"], "none occurs"),
        ("lord of the flies", ["The Lord of the Flies"], "the gold answer occurs"),
        ("In 1999.", ["1"], "none occurs"),
        ("a party", ["art"], "none occurs"),
        ("C++ it is", ["C++"], "the gold answer occurs"),
        ("C it is", ["C++"], "none occurs"),
        ("nothing of the kind", ["Paris"], "none occurs"),
        ("", ["Paris"], "none occurs"),
    ],
)
def test_gold(answer, accepted, branch):
    verdict = judge_by_gold(answer, ask(accepted))
    assert (verdict.right, verdict.branch) == (branch != "none occurs", branch)


@pytest.mark.parametrize(
    ("answer", "wanted", "branch"),
    [
        ("The result is 9.", "9", "the gold number"),
        ("9.0 apples", "9", "the gold number"),
        ("nine apples", "9", "the gold number"),
        ("$1,950 in all", "1950.0", "the gold number"),
        ("3 + 6 = 9, so nine", "9", "the gold number"),
        ("= 28.26 cm", "28.26", "the gold number"),
        ("It is 9kg.", "9", "the gold number"),
        ("1{,}950", "1950", "the gold number"),
        ("3/4", "0.75", "the gold number"),
        ("0.75", "3/4", "the gold number"),
        ("1.5 million", "1500000", "the gold number"),
        ("−9", "-9", "the gold number"),
        ("negative nine", "-9", "the gold number"),
        ("−9", "9", "another number"),
        (".5", "5", "another number"),
        ("9/2", "9", "another number"),
        ("1 apple", "1/2", "another number"),
        ("19 or 90 or 9.5", "9", "another number"),
        ("-9", "9", "another number"),
        ("3 * 6 = 18", "3", "another number"),
        ("3 * 6 = 18", "18", "the gold number"),
        ("The answer is 18. I checked it 2 times.", "18", "the gold number"),
        ("The answer is 18. I checked it 2 times.", "2", "another number"),
        ("a dozen", "12", "no number"),
        ("", "12", "no number"),
    ],
)
def test_number(answer, wanted, branch):
    verdict = judge_by_number(answer, ask([wanted]))
    assert (verdict.right, verdict.branch) == (branch == "the gold number", branch)


@pytest.mark.parametrize(
    ("answer", "accepted", "choice", "branch"),
    [
        ("Mary, not Sarah", "Mary", (("Mary",), ("Sarah",)), "the gold option first"),
        ("Sarah, not Mary", "Mary", (("Mary",), ("Sarah",)), "another option first"),
        ("Rosemary and Mary", "Mary", (("Mary",), ("Sarah",)), "the gold option first"),
        ("the cup holder", "cup holder", (("the cup",), ("cup holder",)), "the gold option first"),
        ("the cup", "the cup", (("the cup",), ("cup holder",)), "the gold option first"),
        ("nobody", "Mary", (("Mary",), ("Sarah",)), "no option named"),
        ("It is Ann Lee.", "Ann Lee", (("Ann",), ("Ann Lee",)), "the gold option first"),
        ("It is Ann Lee.", "Ann", (("Ann",), ("Ann Lee",)), "another option first"),
        ("female", "male", (("male",), ("female",)), "another option first"),
        ("This is a neutrality.", "neutral", NLI, "the gold option first"),
        ("They contradict; no entailment", "entailment", NLI, "another option first"),
        ("Entail", "entailment", NLI, "the gold option first"),
        ("Positive! Not negative", "positive", (("negative",), ("positive",)), "the gold option first"),
    ],
)
def test_options(answer, accepted, choice, branch):
    verdict = judge_by_options(answer, ask([accepted], choice))
    assert (verdict.right, verdict.branch) == (branch == "the gold option first", branch)


@pytest.mark.parametrize(
    ("answer", "accepted", "choice", "right"),
    [
        ("In 1999.", ["1"], (), True),
        ("a PARTY", ["art"], (), True),
        ("nine", ["9"], (), False),
        ("Garcia", ["García"], (), False),
        ("Rosemary, not Sarah", ["Mary"], (("Mary",), ("Sarah",)), True),
        ("Sarah, Mary", ["Mary"], (("Mary",), ("Sarah",)), False),
        ("Sarah", ["Mary"], (("Mary",), ("Sarah",)), False),
        ("They entail it; no contradiction", ["entailment"], NLI, True),
    ],
)
def test_substring_is_as_plain_as_the_study_s(answer, accepted, choice, right):
    assert judge_by_substring(answer, ask(accepted, choice)).right is right


def test_given():
    assert [judge_as_given("", ask([], label=label)).right for label in (True, False)] == [True, False]


def test_a_rule_goes_over_all_in_order():
    verdicts = TextRule(judge_by_gold)([ask(["a"]), ask(["b"])], ["b", "b"])
    assert [verdict.right for verdict in verdicts] == [False, True]


@pytest.mark.parametrize(
    ("rule", "question", "text"),
    [
        (
            judge_by_number,
            ask(["Paris"]),
            "rule=number: expected a number as the gold answer of q0, got 'Paris'; choose rule=gold",
        ),
        (
            judge_by_options,
            ask(["a"]),
            r"rule=options: expected a choice of options for q0, got \[\]; name their columns",
        ),
    ],
)
def test_a_rule_that_does_not_suit_the_questions_says_so(rule, question, text):
    with pytest.raises(ValueError, match=text):
        rule("a", question)


def test_any_of_several_numbers_will_do_and_nearly_is_not_enough():
    assert judge_by_number("9", ask(["8", "9"])).right is True
    assert judge_by_number("9.001", ask(["9"])).right is False
    assert judge_by_number("0.333333333333", ask(["0.3333333333329"])).right is True


def test_the_report_can_tell_given_labels_apart():
    assert [judge_as_given("", ask([], label=label)).branch for label in (True, False)] == ["given as 1", "given as 0"]


def test_substring_finds_a_gold_answer_with_blanks_around_it():
    assert judge_by_substring("in Paris", ask([" Paris "])).right is True


def test_a_rule_may_be_a_partial_of_hydra_or_one_with_arguments():
    def judge(answer, question, right=False):
        return Verdict(right, "judged")

    asked, texts = [ask(["Paris"]), ask(["Oslo"])], ["Paris", "Rome"]
    built = instantiate({"_target_": "datamodules.labels.rules.judge_by_gold", "_partial_": True})
    assert isinstance(built, partial)
    assert [one.right for one in TextRule(built)(asked, texts)] == [True, False]
    assert [one.right for one in TextRule(partial(judge, right=True))(asked, texts)] == [True, True]
