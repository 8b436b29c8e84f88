"""A text that ends an answer, beside stop tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from datamodules.language.thinking import find_answer


class StopText(StoppingCriteria):
    """Ends an answer where its text holds `stop` outside its thinking; keeps how many tokens it has then.

    Args:
        tokenizer: of the model.
        stop: the text.
        width: tokens of `input_ids` before those that are new.
        begun: for each row what was written before, and whether its prompt opens a block of thinking.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: str, width: int, begun: Sequence[tuple[list[int], bool]]
    ) -> None:
        self.tokenizer, self.stop, self.width, self.begun = tokenizer, stop, width, begun
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        """Return which rows have ended, [B] bool."""
        for row, new in enumerate(input_ids[:, self.width :].tolist()):
            if row in self.lengths:
                continue
            written, opened = self.begun[row]
            text = str(self.tokenizer.decode([*written, *new]))
            start = find_answer(text, opened)
            if start is not None and self.stop in text[start:]:
                self.lengths[row] = len(written) + len(new)
        return torch.tensor([row in self.lengths for row in range(len(input_ids))], device=input_ids.device)
