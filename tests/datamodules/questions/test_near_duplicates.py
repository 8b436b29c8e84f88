"""Against every pair compared by itself."""

import random
import re
from collections import Counter
from itertools import product

import pytest

from datamodules.questions import near_duplicates as module
from datamodules.questions.near_duplicates import NearDuplicate, find_near_duplicates, tell_near_duplicates

LONG = "The nurse told the surgeon again and again that {} was late for the operation."


def distance(one, other):
    """Levenshtein's, by recursion on the definition."""
    table = {}
    for i, j in product(range(len(one) + 1), range(len(other) + 1)):
        table[i, j] = (
            max(i, j)
            if 0 in (i, j)
            else min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (one[i - 1] != other[j - 1]))
        )
    return table[len(one), len(other)]


def edits_by_hand(one, other):
    """Edits of two texts without numbers, None where they are not alike but for one word."""
    bags = [Counter(re.findall(r"\w+", text.lower())) for text in (one, other)]
    less, more = bags[0] - bags[1], bags[1] - bags[0]
    if len(less) > 1 or len(more) > 1:
        return None
    words = [sorted(side.elements()) for side in (less, more)]
    pairs = [distance(a, b) for a, b in zip(*words, strict=False)]
    return sum(pairs) + sum(len(word) for side in words for word in side[len(pairs) :])


@pytest.mark.parametrize("at_once", [2**20, 100])
def test_against_every_pair(at_once, monkeypatch):
    monkeypatch.setattr(module, "KEYS_AT_ONCE", at_once)
    draw = random.Random(0)
    words = [f"{a}{b}{c}" for a, b, c in product("bdkmnt", "aeo", "lrst")]
    texts = []
    while len(texts) < 200:
        text = [draw.choice(words) for _ in range(16)]
        twin = list(text)
        twin[draw.randrange(16)] = draw.choice(words)
        if draw.random() < 0.3:
            draw.shuffle(twin)
        texts += [" ".join(text), " ".join(twin)]
    test = draw.sample(range(200), 80)
    expected = {}
    for i in test:
        near = [
            (edits, j)
            for j in set(range(200)) - set(test)
            if (edits := edits_by_hand(texts[i], texts[j])) is not None and edits <= 48 // 12
        ]
        if near:
            expected[i] = min(near)[0]
    found = find_near_duplicates(texts, test)
    assert {one.test: one.edits for one in found} == expected
    assert len(expected) > 20
    assert all(edits_by_hand(texts[one.test], texts[one.other]) == one.edits for one in found)
    assert [one.edits for one in found] == sorted(one.edits for one in found)


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [
        (LONG.format("he"), LONG.format("she"), 1),
        (LONG.format("he"), LONG.format("He!").upper(), 0),
        (LONG.format("he") + " Who is 'he'?", LONG.format("she") + " Who is 'she'?", 2),  # in two places
        (LONG.format("she"), LONG.format("the surgeon"), None),
        (LONG.format("he"), LONG.format("he really"), None),
        (LONG.format("he"), LONG.format("he too"), 3),
        (LONG.format("the nurse"), LONG.format("he"), None),
        ("Tom has 14 apples and 5 pears, how many are left?", "Tom has 9 apples and 7 pears, how many are left?", 3),
        ("Tom has 14 apples, how many are left?", "Tom has 144,000 apples, how many are left?", None),
        ("What is the capital of France?", "What is the capitol of France?", 1),
        ("护士告诉医生说他今天上班又迟到了吗?", "护士告诉医生说她今天上班又迟到了吗?", 1),
        ("Who is A?", "Who is B?", None),
        ("1 + 2?", "3 + 4?", None),
        ("?", "!", None),
        ("", "", None),
    ],
)
def test_what_is_near(one, other, edits):
    assert find_near_duplicates([one, other], [1]) == ([] if edits is None else [NearDuplicate(1, 0, edits)])


def test_a_template_is_not_near():
    cities = [f"In which country is the city of {a}ome?" for a in "RLDNTBGHK"]
    assert [one.edits for one in find_near_duplicates(cities[:8], [0])] == [1]
    assert find_near_duplicates(cities, [0]) == []


def test_pairs_within_a_split_are_none():
    texts = [LONG.format("he"), LONG.format("she"), "Something else altogether."]
    assert (
        find_near_duplicates(texts, [0, 1]) == find_near_duplicates(texts, [2]) == find_near_duplicates(texts, []) == []
    )
    assert find_near_duplicates([], []) == []


def test_one_line_with_a_count_and_two_examples():
    texts = [LONG.format("he"), LONG.format("she")]
    texts += [f"Someone said {word}{' was late' * 8}." for word in ("she", "he")]
    texts += [f"Nobody told the surgeon that {word} was late for the operation" for word in ("his", "her")]
    told = []
    tell_near_duplicates([*texts, "Other?"], [1, 3, 5], told.append)
    assert told == [
        "split: 3 of 3 test questions differ from one that trains or validates by at most one letter in 12, such as "
        "'... surgeon again and again that she was late for the operation.' and "
        "'... surgeon again and again that he was late for the operation.'; "
        f"'Someone said he{' was late' * 7} w...' and 'Someone said she{' was late' * 7} ...'; "
        "if they belong together, set dataset.group to what they share"
    ]
    tell_near_duplicates(texts, range(6), told.append)
    assert len(told) == 1
