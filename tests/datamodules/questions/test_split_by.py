"""What a split keeps together beyond the groups of the question set."""

import pytest

from datamodules.questions.question import Question
from datamodules.questions.split_by import find_tested, regroup, tell_groups

ASKED = [("a", "Oslo"), ("b", "Rome"), ("c", " oslo"), ("a", "Bern"), ("d", "BERN"), ("e", "Lima")]
QUESTIONS = [Question(f"q{i}", group, "?", (gold, "alias")) for i, (group, gold) in enumerate(ASKED)]
SAID = ["Paris", None, "paris ", None, "", "Rome"]


def partition(by):
    groups = [question.group for question in regroup(QUESTIONS, SAID, by)]
    return {frozenset(i for i, one in enumerate(groups) if one == group) for group in groups}


def sets(*rows):
    return {frozenset(some) for some in rows}


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("question", sets([0, 3], [1], [2], [4], [5])),
        ("a column", sets([0, 3], [1], [2], [4], [5])),  # joined by the set when it was loaded
        ("gold", sets([0, 2, 3, 4], [1], [5])),  # a asks for Oslo and for Bern
        ("exact_answer", sets([0, 2, 3], [1], [4], [5])),
    ],
)
def test_equal_answers_join_and_groups_of_the_set_stay_whole(by, expected):
    assert partition(by) == expected
    assert [q.id for q in regroup(QUESTIONS, SAID, by)] == [q.id for q in QUESTIONS]


def test_examples_outside_the_test_part_of_a_group_in_it():
    assert find_tested(["a", "b", "a", "b", "c"], ["train", "train", "test", "", "test"]) == [True] + [False] * 4


def test_one_group_that_holds_most_examples_is_warned_of():
    told, warned = [], []
    tell_groups(["a", "b", "c", "b"], "gold", told.append, warned.append)
    assert (told, warned) == (["split.by=gold: 4 examples in 3 groups, 2 in the largest"], [])
    tell_groups(["a", "b", "b"], "gold", told.append, warned.append)
    (line,) = warned
    assert line.startswith(
        "split.by=gold: one group holds most examples, since groups of the question set have several"
    )
