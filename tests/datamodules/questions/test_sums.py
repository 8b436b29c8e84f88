"""Sums of two numbers: the truth, the draw and the groups."""

import re
from collections import Counter
from itertools import combinations_with_replacement

import pytest

from datamodules.questions.sets.sums import WORDINGS, SumQuestions


def numbers(question):
    return sorted(map(int, re.findall(r"\d+", question.text)))


def test_the_answer_is_the_sum_and_no_pair_comes_twice():
    questions = SumQuestions().load()
    assert len(questions) == 2000
    assert all(question.answers == (str(sum(numbers(question))),) for question in questions)
    assert all(question.group == "{} + {}".format(*numbers(question)) for question in questions)
    assert len({question.group for question in questions}) == len({question.id for question in questions}) == 2000
    assert all(10 <= a <= b <= 99 for a, b in map(numbers, questions))
    assert max(b - a for a, b in map(numbers, questions)) == 30
    # No number that is added is the answer, so the answer never stands in the question.
    assert not any(question.answers[0] in question.text.split() for question in questions)


def test_every_pair_can_be_drawn():
    asked = SumQuestions(smallest=3, largest=9, limit=28).load()
    assert sorted(tuple(numbers(question)) for question in asked) == list(
        combinations_with_replacement(range(3, 10), 2)
    )


def test_wordings_and_orders_are_mixed():
    questions = SumQuestions().load()
    opening = Counter(re.sub(r"\d+", "#", question.text) for question in questions)
    assert set(opening) == {wording.format(a="#", b="#") for wording in WORDINGS}
    assert min(opening.values()) > 300
    larger_first = sum(int(a) > int(b) for a, b in (re.findall(r"\d+", question.text) for question in questions))
    assert 900 < larger_first < 1100


def test_a_seed_is_a_draw():
    assert SumQuestions(limit=50, seed=1).load() == SumQuestions(limit=50, seed=1).load()
    assert SumQuestions(limit=50, seed=1).load() != SumQuestions(limit=50, seed=2).load()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"limit": 2326},
            "dataset.limit: expected at most 2325, the pairs of numbers from 10 to 99 that are at most 30 apart, got "
            "2326; raise dataset.largest",
        ),
        ({"apart": -1}, "dataset.apart: expected a whole number from 0 on, got -1"),
        ({"limit": 0}, "dataset.limit: expected a whole number from 1 on, got 0"),
        ({"limit": None}, "dataset.limit: expected a whole number from 1 on, got None"),
        ({"smallest": 0}, "dataset.smallest: expected a whole number from 1 on, got 0"),
        ({"smallest": "ten"}, "dataset.smallest: expected a whole number from 1 on, got 'ten'"),
        ({"largest": 9}, "dataset.largest: expected a whole number from 10 on, got 9"),
        ({"seed": 0.5}, "dataset.seed: expected a whole number from 0 on, got 0.5"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        SumQuestions(**settings)
