"""The rule of one position: which token of an example it is, or over which tokens it pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ROLES = ("system", "user", "assistant")
PARTS = ("prompt", "answer", "text", "whole", "exact_answer", *ROLES)
POOLS = ("mean", "max")
FAR = 10**9  # tokens: no text is as long
_WORDS = {"first": 0, "before": -1, "last": 0, "after": 1}  # offset from the first token, and from the last


@dataclass(frozen=True)
class Rule:
    """One position.

    Attributes:
        name: of the column.
        of: the run of tokens to count in: `prompt`, `answer` (the stop token included), `text` (the answer
            without special tokens behind it), `whole` (prompt, thought and answer), `exact_answer`, or what one turn
            of a role says: `system`, `user` or `assistant`. The thought is what a model writes before its answer; only
            `whole` counts it. The last turn of `assistant` is the `text`.
        at: which token of the run: a number from 0, or from the end as -1, -2, .., within the run; `first`, `last`;
            `before` or `after` the run; or the `mean` or elementwise `max` over the run.
        offset: number of tokens to move on, or back if negative; the result may be outside the run.
        find: a text; the run is then the tokens of this text within `of`.
        nth: which occurrence of the text, or which turn of the role, from 0, or from the end if negative.

    Example:
        >>> Rule("last", of="answer", at=-1).name
        'last'
    """

    name: str
    of: str
    at: int | str = 0
    offset: int = 0
    find: str | None = None
    nth: int = -1

    def __post_init__(self) -> None:
        where = f"positions.rules: {self.name}: expected"
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"positions.rules: expected a name for each, got {self.name!r}")
        if self.of not in PARTS:
            raise ValueError(f"{where} of among {', '.join(PARTS)}; got {self.of!r}")
        if type(self.at) is not int and self.at not in (*_WORDS, *POOLS):
            raise ValueError(f"{where} at to be a whole number, {', '.join((*_WORDS, *POOLS))}; got {self.at!r}")
        if type(self.offset) is not int or type(self.nth) is not int:
            raise ValueError(f"{where} offset and nth to be whole numbers, got {self.offset!r} and {self.nth!r}")
        if max(abs(self.offset), abs(self.at) if isinstance(self.at, int) else 0) >= FAR:
            raise ValueError(f"{where} at and offset below {FAR:,}, got {self.at} and {self.offset}")
        if self.at in POOLS and self.offset:
            raise ValueError(f"{where} no offset of a {self.at}, got {self.offset}; leave it out")
        fixed = self.of in ("exact_answer", *ROLES)  # where no text can be looked for
        if self.find is not None and (fixed or not self.find or not isinstance(self.find, str)):
            raise ValueError(f"{where} find to be a text in the prompt, the answer or the whole, got {self.find!r}")

    def pick(self, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """First and last token, [N] each, of runs from `first` to `last` [N]; does not check bounds."""
        if self.at in POOLS:
            return first, last
        if isinstance(self.at, str):
            at = (first if self.at in ("first", "before") else last) + _WORDS[self.at]
        else:
            at = first + self.at if self.at >= 0 else last + 1 + self.at
        return at + self.offset, at + self.offset


def build_rules(rules: Any, key: str) -> list[Rule]:
    """Build the rules of a configuration: a `Rule` each, or its attributes by name; `over` is another name of `of`.

    >>> build_rules([{"name": "pooled", "over": "answer", "at": "mean"}], "positions.rules")[0].of
    'answer'

    Raises:
        ValueError: no list of rules, or one that lacks something.
    """
    if (
        not isinstance(rules, Sequence)
        or isinstance(rules, str)
        or not all(isinstance(rule, Rule | Mapping) for rule in rules)
    ):
        raise ValueError(f"{key}: expected a list of rules such as {{name: end, of: answer, at: -1}}, got {rules}")
    return [rule if isinstance(rule, Rule) else _build_rule(rule) for rule in rules]


def _build_rule(attributes: Mapping[str, Any]) -> Rule:
    given: dict[str, Any] = {str(key): value for key, value in attributes.items()}
    try:
        if isinstance(given["name"], int):
            given["name"] = str(given["name"])  # -1, without quotation marks
        if "over" in given and "of" not in given:
            given["of"] = given.pop("over")
        return Rule(**given)
    except (KeyError, TypeError):
        raise ValueError(
            f"positions.rules: expected name, of, and what it needs of at, offset, find and nth; got {', '.join(given)}"
        ) from None
