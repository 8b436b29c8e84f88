"""Which texts of a table are one question, and which questions no split may part."""

from dataclasses import dataclass


@dataclass
class Asked:
    """One text of a table.

    Attributes:
        rows: numbers of those that give its gold answers.
        group: what its wording has in common with others.
        gives: tells the gold answers of its first row from others.
        times: in how many rows it stands.
    """

    rows: list[int]
    group: str
    gives: int
    times: int = 0


class Groups:
    """Joins groups that share a member, however they are linked."""

    def __init__(self) -> None:
        self._next: dict[str, str] = {}

    def join(self, one: str, other: str) -> None:
        """Make two groups one."""
        one, other = self.of(one), self.of(other)
        if one != other:
            self._next[one] = other

    def of(self, group: str) -> str:
        """Return what all groups joined with this one are called."""
        while group in self._next:
            after = self._next[group]
            self._next[group] = self._next.get(after, after)  # halves the way for the next to come
            group = after
        return group
