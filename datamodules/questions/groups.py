"""Groups of questions that must stay in one split, and rows of a table that are one question."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from datamodules.questions.row import Row, are_texts, fill, find_columns, format_cell, read_cell

LONGEST = 100  # characters of a group's name; a whole context may be one


@dataclass(slots=True)  # there may be millions
class UniqueText:
    """One text of a table.

    Attributes:
        rows: numbers of the rows that give its gold answers.
        group: name of its group; equal for texts with the same wording.
        gives: hash of the gold answers of its first row.
        times: number of rows with this text.
    """

    rows: list[int]
    group: str
    gives: int
    times: int = 0


def read_patterns(group: object) -> dict[str, str] | None:
    """Read the option `group` as texts with columns, each with a regular expression; None if it is not valid.

    >>> read_patterns(["film", {"question": "^Who"}])
    {'film': '', 'question': '^Who'}
    """
    held: dict[Any, Any] = {}
    for one in group if isinstance(group, list | tuple) else [group] if group else []:
        held |= {one: ""} if isinstance(one, str) else dict(one) if isinstance(one, Mapping) else {"": None}
    return held if all(isinstance(text, str) and text for text in held) and are_texts([*held.values()]) else None


def name_groups(row: Row, patterns: Mapping[str, str]) -> list[str]:
    """Names of the groups that a row belongs to, one for each text whose columns are all filled in.

    Args:
        row: of a table.
        patterns: for columns, or texts with columns in braces, a regular expression: only what it matches counts, or
            what its brackets match. All of the text counts where it is empty.

    Example:
        >>> name_groups({"question": "Who is Ann?", "film": "Jaws"}, {"film": ""})
        ['film=Jaws']
    """
    found = []
    for template, pattern in patterns.items():
        if not all(format_cell(read_cell(row, column)).strip() for column in find_columns(template)):
            continue
        text = fill(template, row)
        if pattern:
            matches = re.findall(pattern, text)
            text = "|".join("|".join(match) if isinstance(match, tuple) else match for match in matches)
        if text.strip("| "):
            found.append(f"{template}={_shorten(text)}")
    return found


def _shorten(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}... {blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"


class Groups:
    """Joins groups that share a member, however they are linked.

    >>> groups = Groups()
    >>> groups.join("a", "b")
    >>> groups.join("b", "c")
    >>> groups.find("a") == groups.find("c")
    True
    """

    def __init__(self) -> None:
        self._next: dict[str, str] = {}

    def join(self, one: str, other: str) -> None:
        """Join two groups."""
        one, other = self.find(one), self.find(other)
        if one != other:
            self._next[one] = other

    def find(self, group: str) -> str:
        """Return the common name of all groups that are joined with this one."""
        while group in self._next:
            after = self._next[group]
            self._next[group] = self._next.get(after, after)  # path halving
            group = after
        return group
