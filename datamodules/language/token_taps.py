"""Probe scores of single tokens, read by hooks in forward passes that happen anyway, such as those of generation.

A linear probe needs one number of each token: h.w + b. So no activation is kept, and the probe of a mean of tokens
has the mean of their scores.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from datamodules.language.sites import find_blocks, find_place, get_decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STORE = torch.bfloat16  # activations are rounded as the cache stores them, because the probes were fitted on those


class TokenScores(NamedTuple):
    """Scores of the last tokens of one sequence.

    Attributes:
        scores: [S, C] float32 on the CPU, of the last S tokens by each of C probes.
        start: place of the first of these tokens in the sequence, counted from 0.
    """

    scores: Tensor
    start: int

    def at(self, first: int, last: int) -> Tensor | None:
        """Score of the mean of the tokens from `first` to `last`, [C]; None where they were not read.

        >>> TokenScores(torch.tensor([[1.0], [3.0]]), start=4).at(4, 5)
        tensor([2.])
        """
        if not self.start <= first <= last < self.start + len(self.scores):
            return None
        return self.scores[first - self.start : last + 1 - self.start].mean(0)


class TokenTaps:
    """C probes on the forwards of a model; use in a `with` block, which removes the hooks.

    Args:
        model: causal language model or encoder.
        site: where the probes read.
        layers: [C] block number of each probe.
        weight: [C, D] float32.
        bias: [C] float32.
        whole_prompt: also keep the scores of all tokens of a prompt; otherwise only those of its last one.

    Raises:
        ValueError: the model lacks a layer or the site, or has another width there.

    Example:
        >>> with TokenTaps(model, "resid_post", [4], weight, bias) as taps:  # doctest: +SKIP
        ...     answers = generate_answers(model, tokenizer, prompts, max_new_tokens=20, taps=taps)
        >>> taps.collect(answers[0].prompt_ids, 0).scores.shape  # the end of the prompt and 20 tokens  # doctest: +SKIP
        torch.Size([21, 1])
    """

    def __init__(
        self,
        model: PreTrainedModel,
        site: str,
        layers: Sequence[int],
        weight: Tensor,
        bias: Tensor,
        whole_prompt: bool = False,
    ) -> None:
        blocks = find_blocks(model)
        if outside := [layer for layer in layers if not 0 <= layer < len(blocks)]:
            raise ValueError(
                f"model: expected layers {', '.join(map(str, outside))}, which the probes read, got a model of "
                f"{len(blocks)} layers; take the model that they were fitted on"
            )
        self.model, self.site, self.whole_prompt = model, site, whole_prompt
        self._decoder = get_decoder(model)
        self._takes_places = "position_ids" in inspect.signature(self._decoder.forward).parameters
        self._cells = {layer: [c for c, one in enumerate(layers) if one == layer] for layer in dict.fromkeys(layers)}
        stream = model.config.get_text_config(decoder=True).hidden_size
        self._places = {layer: find_place(site, blocks[layer], stream) for layer in self._cells}
        self._weight = {layer: weight[cells].float() for layer, cells in self._cells.items()}
        self._bias = {layer: bias[cells].float() for layer, cells in self._cells.items()}
        self._order = torch.tensor([c for cells in self._cells.values() for c in cells]).argsort()
        self._shape: tuple[int, int] = (0, 0)
        self._now: dict[int, Tensor] = {}
        self._steps: list[Tensor] = []
        self._rows: dict[int, list[Tensor]] = {}

    def __enter__(self) -> TokenTaps:
        self._hooks = ExitStack()
        begin = self._decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        self._hooks.callback(begin.remove)
        for layer, place in self._places.items():
            for module in place.modules:  # of several the last call counts
                self._hooks.callback(self._add_hook(module, place.side, layer).remove)
        self._hooks.callback(self._decoder.register_forward_hook(self._end).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    @property
    def newest(self) -> Tensor:
        """[B, C] scores of the newest token of each row, on the device of the model."""
        if not self._steps:
            raise ValueError("taps: expected a forward of the model, got none; call model.generate first")
        return self._steps[-1][:, -1]

    def take(self) -> Tensor:
        """Return [B, S, C] of the S tokens that were read since the last call, and forget them."""
        steps, self._steps = self._steps, []
        return torch.cat(steps, 1)

    def forget(self) -> None:
        """Forget what was read since the last call of `take`."""
        self._steps = []

    def keep(self, rows: Sequence[int], lengths: Sequence[int], forwards: int, padding: Sequence[int]) -> list[bool]:
        """Keep what a call of `generate` read of some rows.

        Args:
            rows: [B] number of the prompt in each row.
            lengths: [B] tokens that it wrote to each row; padding follows them.
            forwards: steps of the call, the most that it wrote to a row.
            padding: [B] tokens of padding before each prompt.

        Returns:
            [B] whether the last token of each row was read, which is so where the call went on with other rows.
        """
        block = self.take()
        before = block.shape[1] - forwards  # tokens of the prompt before its last one
        for row, (i, length, pad) in enumerate(zip(rows, lengths, padding, strict=True)):
            first = pad if before else 0
            self._rows.setdefault(i, []).append(block[row, first : before + min(length + 1, forwards)])
        return [length < forwards for length in lengths]

    def read_last(
        self, rows: Sequence[int], at: Sequence[int], ids: Tensor, mask: Tensor, cache: DynamicCache | None, pad: int
    ) -> None:
        """Read the last token of rows that are complete, which no step has read: one more step, of these rows alone.

        Args:
            rows: [n] numbers of their prompts.
            at: [n] rows of the batch.
            ids: [B, W] all tokens of the batch.
            mask: [B, W] which of them are no padding.
            cache: keys and values of all tokens but the last; left as it is. None: the model reads all tokens again.
            pad: any token.
        """
        self._steps = []
        ids, mask = ids[at], mask[at]
        if cache is None:
            self.model.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=1, pad_token_id=pad
            )
        else:  # the head and what surrounds a step of `generate` would cost more than the step
            place = {"position_ids": mask.sum(1, keepdim=True) - 1} if self._takes_places else {}
            side = _select_rows(cache, at)
            self._decoder(input_ids=ids[:, -1:], attention_mask=mask, past_key_values=side, use_cache=True, **place)
        for row, i in zip(self.take()[:, -1:], rows, strict=True):
            self._rows[i].append(row)

    def collect(self, prompt: Sequence[int], i: int) -> TokenScores:
        """Return what was kept of prompt i of a batch, and forget it."""
        scores = torch.cat(self._rows.pop(i)).cpu()
        return TokenScores(scores, 0 if self.whole_prompt else len(prompt) - 1)

    def _begin(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        given = kwargs.get("input_ids", args[0] if args else None)
        given = kwargs.get("inputs_embeds") if given is None else given
        self._shape = given.shape[0], given.shape[1]
        self._now = {}

    def _end(self, *_: object) -> None:
        if missed := [layer for layer in self._places if layer not in self._now]:
            raise ValueError(
                f"site: expected {self.site} of block {missed[0]} to be computed, got a forward without it"
            )
        device = next(iter(self._now.values())).device
        if len(self._now) == 1:
            self._steps.append(self._now[next(iter(self._cells))])
            return
        scores = torch.cat([self._now[layer].to(device) for layer in self._cells], -1)
        self._steps.append(scores[..., self._order.to(device)])

    def _add_hook(self, module: nn.Module, side: str, layer: int) -> torch.utils.hooks.RemovableHandle:
        # Any: blocks take their input by position or by name, and return a tensor or a tuple that starts with it.
        def read_input(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._now[layer] = self._score(layer, args[0] if args else kwargs["hidden_states"])

        def read_output(_: nn.Module, args: Any, output: Any) -> None:
            self._now[layer] = self._score(layer, output[0] if isinstance(output, tuple | list) else output)

        if side == "input":
            return module.register_forward_pre_hook(read_input, with_kwargs=True)
        return module.register_forward_hook(read_output)

    def _score(self, layer: int, h: Tensor) -> Tensor:
        """[B, S, c] by the c probes of a layer; S = 1, or all tokens of a prompt."""
        B, S = self._shape
        if h.shape[:-1] not in ((B, S), (B * S,)):
            raise ValueError(f"site: expected activations [{B}, {S}, D], got {list(h.shape)}; choose another site")
        weight, bias = self._weight[layer], self._bias[layer]
        if weight.device != h.device:
            weight = self._weight[layer] = weight.to(h.device)
            bias = self._bias[layer] = bias.to(h.device)
        if h.shape[-1] != weight.shape[-1]:
            raise ValueError(
                f"model: expected activations of width {weight.shape[-1]}, that of the probes, got {h.shape[-1]}; take "
                "the model that they were fitted on"
            )
        h = h.reshape(B, S, -1)
        if self.whole_prompt and S > 1:  # row by row: a prompt in float32 may be large
            return torch.stack([row.to(STORE).float() @ weight.T for row in h]) + bias
        return torch.addmm(bias, h[:, -1].to(STORE).float(), weight.T)[:, None]


@torch.inference_mode()
def read_token_scores(taps: TokenTaps, sequences: Sequence[Sequence[int]]) -> list[TokenScores]:
    """Read the scores of every token of n sequences in one forward of the model, without its head.

    Args:
        taps: entered, with `whole_prompt`.
        sequences: token ids, prompt and answer, of any lengths.

    Example:
        >>> with TokenTaps(model, "resid_post", [4], weight, bias, whole_prompt=True) as taps:  # doctest: +SKIP
        ...     (found,) = read_token_scores(taps, [[5, 6, 7]])
        >>> found.scores.shape  # doctest: +SKIP
        torch.Size([3, 1])
    """
    width, model = max(map(len, sequences)), taps.model
    ids, mask = torch.zeros(2, len(sequences), width, dtype=torch.long)
    for row, sequence in enumerate(sequences):  # padded on the right, as for `capture`
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    settings = {"use_cache": False} if hasattr(model.config.get_text_config(decoder=True), "use_cache") else {}
    get_decoder(model)(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **settings)
    return [TokenScores(row[: len(one)], 0) for row, one in zip(taps.take().cpu(), sequences, strict=True)]


def _select_rows(cache: DynamicCache, rows: Sequence[int]) -> DynamicCache:
    """A cache of some rows; the other keeps all of them. Layers replace their tensors, and never write into them."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(torch.tensor(rows))
    return chosen
