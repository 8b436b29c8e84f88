"""Finds the different texts of a table by hashes of its rows, so that memory does not depend on what the texts say."""

from array import array
from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class UniqueTexts:
    """The different texts of a table, U of them, in the order of their first rows; R rows with a text.

    Attributes:
        keys: hash of each text, int64 [U].
        groups: hash of the group of each text, int64 [U].
        starts: where its rows begin in `rows`, int64 [U].
        ends: where they end, int64 [U].
        rows: numbers of rows, those of one text side by side and in order, int64 [R].
        differ: whether a row gives other answers, or another label, than the first one of its text, bool [R].
    """

    keys: NDArray[np.int64]
    groups: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    rows: NDArray[np.int64]
    differ: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def times(self) -> NDArray[np.int64]:
        """Number of rows with each text, [U]."""
        return self.ends - self.starts

    @property
    def contradicted(self) -> NDArray[np.bool_]:
        """Whether the rows of a text differ, [U]."""
        before = np.concatenate([[0], np.cumsum(self.differ)])
        return before[self.ends] > before[self.starts]

    def select(self, kept: NDArray[np.bool_]) -> "UniqueTexts":
        """Keep some of the texts, by a mask [U]."""
        keys, groups, starts, ends = (one[kept] for one in (self.keys, self.groups, self.starts, self.ends))
        return replace(self, keys=keys, groups=groups, starts=starts, ends=ends)

    def list_rows(self, text: int) -> list[int]:
        """Numbers of the rows that give the answers of a text: the first, and those that give others."""
        first, end = self.starts[text], self.ends[text]
        return [int(self.rows[first]), *self.rows[first:end][self.differ[first:end]].tolist()]


class TextHashes:
    """Hashes of the rows of a table: 32 bytes a row, and at most 100 while the texts are found.

    Two different texts have one hash by chance; among 20 million texts the probability of that is 1e-5.

    Example:
        >>> hashes = TextHashes()
        >>> for row, (question, answer) in enumerate([("a?", "1"), ("b?", "2"), ("a?", "3"), ("b?", "2")]):
        ...     hashes.add(row, question, answer, question)
        >>> texts = hashes.find_unique()
        >>> len(texts), texts.list_rows(0), texts.list_rows(1)
        (2, [0, 2], [1])
    """

    def __init__(self) -> None:
        self._held = array("q")

    def add(self, row: int, text: Hashable, gives: Hashable, group: Hashable) -> None:
        """Add a row by its number, with its text, what it gives (gold answers, or a label), and its group."""
        self._held.extend((row, hash(text), hash(gives), hash(group)))

    def find_unique(self) -> UniqueTexts:
        """Find the different texts of the rows."""
        rows, keys, gives, groups = np.asarray(self._held).reshape(-1, 4).T
        order = np.argsort(keys, kind="stable")  # rows of one text stay in order
        keys = keys[order]
        starts = np.flatnonzero(np.concatenate([[True] * bool(len(keys)), keys[1:] != keys[:-1]]))
        ends = np.append(starts[1:], len(keys))[: len(starts)]
        gives = gives[order]
        differ = gives != np.repeat(gives[starts], ends - starts)
        first = order[starts]
        by_first_row = np.argsort(first)
        first, starts, ends = first[by_first_row], starts[by_first_row], ends[by_first_row]
        return UniqueTexts(keys[starts], groups[first], starts, ends, rows[order], differ)
