"""Named positions of an example: which token each one is, and whether the example has it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Offset of each name from an anchor of the example; see `Positions.index`.
_FROM = {
    "last_q": ("answer", -1),
    "first_answer": ("answer", 0),
    "second_answer": ("answer", 1),
    "exact_answer_before_first": ("exact_first", -1),
    "exact_answer_first": ("exact_first", 0),
    "exact_answer_last": ("exact_last", 0),
    "exact_answer_after_last": ("exact_last", 1),
    **{str(-k): ("end", -k) for k in range(8, 0, -1)},
}
NAMES = tuple(_FROM)


@dataclass
class Positions:
    """An ordered choice of named positions, the columns of the heatmap.

    Attributes:
        names: from `NAMES`; -8 to -1 count from the end of prompt plus answer, the stop token included.
        into_prompt: let positions counted from the end, or the one before the exact answer, fall on prompt tokens,
            as the study's own code does. Otherwise they are invalid there.
    """

    names: Sequence[str]
    into_prompt: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise ValueError(f"positions.names: expected a list of names, got {self.names!r}; write [{self.names}]")
        self.names = [str(name) for name in self.names]
        unknown = [name for name in self.names if name not in _FROM]
        if unknown:
            raise ValueError(f"positions.names: expected names among {', '.join(NAMES)}; got {', '.join(unknown)}")
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"positions.names: expected different names, at least one; got {self.names}")

    def index(
        self, prompt_lengths: Sequence[int], answer_lengths: Sequence[int], spans: Sequence[tuple[int, int] | None]
    ) -> tuple[Tensor, Tensor]:
        """Resolve every name for N examples.

        Args:
            prompt_lengths: [N] tokens of each prompt.
            answer_lengths: [N] tokens of each answer, the stop token included.
            spans: [N] first and last token of the exact answer, counted within the answer; None where there is none.

        Returns:
            index [N, T] int64 into prompt plus answer, 0 where invalid; valid [N, T] bool. A position that an example
            does not have is invalid there, never another token.
        """
        prompt, answer = torch.tensor(prompt_lengths), torch.tensor(answer_lengths)
        has_span = torch.tensor([span is not None for span in spans])
        first, last = torch.tensor([span or (0, 0) for span in spans]).unbind(1)
        anchors = {"answer": prompt, "exact_first": prompt + first, "exact_last": prompt + last, "end": prompt + answer}
        index, valid = [], []
        for name in self.names:
            anchor, offset = _FROM[name]
            at = anchors[anchor] + offset
            earliest = torch.zeros_like(prompt) if self.into_prompt or name == "last_q" else prompt
            here = (at >= earliest) & (at < prompt + answer)
            if anchor.startswith("exact"):
                here &= has_span
            index.append(torch.where(here, at, 0))
            valid.append(here)
        return torch.stack(index, 1), torch.stack(valid, 1)


def coincidence(index: Tensor, valid: Tensor) -> Tensor:
    """Share of examples having both positions in which the two are one token.

    Args:
        index: [N, T] int64.
        valid: [N, T] bool.

    Returns:
        [T, T] float64, NaN where no example has both.
    """
    both = valid[:, :, None] & valid[:, None, :]
    same = both & (index[:, :, None] == index[:, None, :])
    return same.sum(0).double() / both.sum(0).double()
