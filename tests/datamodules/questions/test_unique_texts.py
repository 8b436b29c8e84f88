"""The different texts of a table are those that a dictionary of its rows finds, and texts take no memory."""

import random

import numpy as np
import pytest

from datamodules.questions.groups import Groups
from datamodules.questions.unique_texts import TextHashes


@pytest.mark.parametrize("seed", range(5))
def test_texts_and_their_rows_are_those_of_a_dictionary(seed):
    draw = random.Random(seed)
    table = [(row, draw.choice("abcdefgh"), draw.choice("xyz")) for row in range(0, 80 * seed, 2)]
    hashes, rows = TextHashes(), {}
    for row, text, gives in table:
        hashes.add(row, text, gives, text.upper())
        rows.setdefault(text, []).append((row, gives))
    found = hashes.find_unique()
    assert len(found) == len(rows)
    assert found.keys.tolist() == [hash(text) for text in rows]
    assert found.groups.tolist() == [hash(text.upper()) for text in rows]
    assert found.times.tolist() == [len(held) for held in rows.values()]
    assert found.contradicted.tolist() == [len({gives for _, gives in held}) > 1 for held in rows.values()]
    for text, held in enumerate(rows.values()):
        assert found.list_rows(text) == [row for i, (row, gives) in enumerate(held) if not i or gives != held[0][1]]
    kept = found.select(np.arange(len(found)) % 2 == 1)
    assert [kept.list_rows(i) for i in range(len(kept))] == [found.list_rows(i) for i in range(1, len(found), 2)]


def test_hashes_of_joined_groups_are_those_of_their_common_name():
    groups, names = Groups(), ["a", "b", "c", "d"]
    given = np.array([hash(name) for name in names])
    assert groups.find_hashes(given).tolist() == given.tolist()
    groups.join("a", "b")
    groups.join("b", "d")
    assert groups.find_hashes(given).tolist() == [hash(groups.find(name)) for name in names]
