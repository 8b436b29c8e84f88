"""Greedy answers in batches: token ids, log-probabilities and the reason of stopping; and how they are stored."""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from datamodules.language.shared_prefix import read_shared
from datamodules.language.stop_text import StopText
from datamodules.language.thinking import count_thought, opens_block
from datamodules.language.token_taps import TokenTaps

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Tokens between two checks for answers that have ended. A check costs a small part of a step on a CPU, where a step
# takes longer the more answers it has; elsewhere a step takes as long for few answers as for many.
CHUNK, CPU_CHUNK = 16, 4
VERSION = 5  # part of the cache key: raise it when the same inputs would give other answers

SCHEMA = pa.schema(
    {
        "prompt_ids": pa.list_(pa.int32()),
        "answer_ids": pa.list_(pa.int32()),
        "logprobs": pa.list_(pa.float32()),
        "finish": pa.string(),
        "text": pa.string(),
    }
)


@dataclass(frozen=True)
class Answer:
    """The answer of the model to one prompt.

    Attributes:
        prompt_ids: token ids that the model read.
        answer_ids: token ids that it wrote, the stop token included; without `thought_ids`.
        logprobs: natural log-probability of each of `answer_ids`.
        finish: `stop` if the model ended the answer, `length` if it was cut off, `given` if it is a given text.
        text: `answer_ids` decoded without special tokens.
        thought_ids: token ids that it wrote before the answer, separated by `cut_thinking`: its thinking, the
            marks around it and the blanks after it. They are read between the prompt and the answer, and belong to
            neither.
    """

    prompt_ids: Sequence[int]
    answer_ids: Sequence[int]
    logprobs: Sequence[float]
    finish: Literal["stop", "length", "given"]
    text: str
    thought_ids: Sequence[int] = ()


class _ChosenLogprobs(LogitsProcessor):
    """Keeps the log-probability of each greedy choice, so that no [batch, steps, V] tensor is needed."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append((scores.max(-1).values - scores.logsumexp(-1)).float())
        return scores


@torch.inference_mode()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    stop: str | None = None,
    stop_ids: Sequence[int] = (),
    taps: TokenTaps | None = None,
) -> list[Answer]:
    """Answer a batch of prompts greedily. Every few tokens, answers that have ended leave the batch.

    Args:
        model: causal language model; the batch runs on its device.
        tokenizer: its tokenizer.
        prompts: token ids of each prompt; padded on the left with a mask, so lengths may differ.
        max_new_tokens: longest answer, in tokens.
        stop: text that ends an answer, beside stop tokens.
        stop_ids: tokens that end an answer, beside those in the model's settings.
        taps: keep the scores of every token of an answer, and of the last one of its prompt, see `TokenTaps.collect`.
            No step of generation reads the last token of an answer, so those that lack it have one more step.

    Returns:
        one `Answer` a prompt, in order.

    Example:
        >>> prompts = tokenizer(["Q: red?\\nA:"]).input_ids  # doctest: +SKIP
        >>> generate_answers(model, tokenizer, prompts, max_new_tokens=20)[0].finish  # doctest: +SKIP
        'length'
    """
    own: int | list[int] | None = model.generation_config.eos_token_id  # type: ignore[union-attr]
    ends_answer = {*stop_ids, *(own if isinstance(own, list) else [] if own is None else [own])}
    # Padding is masked, so any token with an embedding can be used.
    candidates: list[Any] = [tokenizer.pad_token_id, tokenizer.eos_token_id, 0]
    pad = next(i for i in candidates if i is not None and i < count_embeddings(model))
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    opened = [bool(stop) and opens_block(tokenizer, prompt) for prompt in prompts]
    written: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    ended: set[int] = set()
    chunk = CPU_CHUNK if model.device.type == "cpu" else CHUNK
    rows, cache = list(range(len(prompts))), _make_row_cache(model)
    if cache is not None and (taps is None or not taps.whole_prompt):
        read_shared(model, cache, prompts)
        if taps is not None:
            taps.forget()  # the shared beginning is not what they keep of a prompt
    while rows:
        done = len(written[rows[0]])
        stops = [StopText(tokenizer, stop, ids.shape[1], [(written[i], opened[i]) for i in rows])] if stop else []
        chosen = _ChosenLogprobs()
        with _keep_head_contiguous(model):
            longer: Tensor = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=max_new_tokens - done if cache is None else min(chunk, max_new_tokens - done),
                pad_token_id=pad,
                eos_token_id=sorted(ends_answer) or None,
                stopping_criteria=StoppingCriteriaList(stops),
                logits_processor=LogitsProcessorList([chosen]),
                **({} if cache is None else {"past_key_values": cache}),
            )
        new, new_logprobs = longer[:, ids.shape[1] :].tolist(), torch.stack(chosen.steps, dim=1).tolist()
        counts = []
        for row, i in enumerate(rows):
            ends = [one.lengths[row] - done for one in stops if row in one.lengths]
            ends += [n for n, token in enumerate(new[row], 1) if token in ends_answer][:1]
            n = min(ends, default=len(new[row]))  # padding follows the end
            counts.append(n)
            written[i] += new[row][:n]
            logprobs[i] += new_logprobs[row][:n]
            ended |= {i} if ends else set()
        going = [row for row, i in enumerate(rows) if i not in ended and len(written[i]) < max_new_tokens]
        if taps is not None:
            read = taps.keep(rows, counts, len(new[0]), [width - len(prompts[i]) for i in rows])
            if at := [row for row in range(len(rows)) if row not in going and not read[row]]:
                whole = torch.cat([mask, mask.new_ones(len(rows), len(new[0]))], dim=1)
                taps.read_last([rows[row] for row in at], at, longer, whole, cache, pad)
        rows = [rows[row] for row in going]
        if rows and cache is not None:
            cache.batch_select_indices(torch.tensor(going))
            ids = longer[going]
            mask = torch.cat([mask[going], mask.new_ones(len(going), len(new[0]))], dim=1)
    return [
        Answer(prompt, w, p, "stop" if i in ended else "length", _decode(tokenizer, w))
        for i, (prompt, w, p) in enumerate(zip(prompts, written, logprobs, strict=True))
    ]


def _make_row_cache(model: PreTrainedModel) -> DynamicCache | None:
    """Return a cache of keys and values that supports selecting rows; None for models with other states."""
    if not model._supports_default_dynamic_cache():  # type: ignore[operator]
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    return cache if all(isinstance(layer, DynamicLayer) for layer in cache.layers) else None


@contextmanager
def _keep_head_contiguous(model: PreTrainedModel) -> Iterator[None]:
    """Pass the input of the head as a contiguous tensor.

    Only the last states of a prompt reach the head, as a strided view. Some CPU kernels copy the head's weights
    once for every row of such a view: 1.8 GB and 3 s for 32 rows, a vocabulary of 49,152 and a width of 576.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
    try:
        yield
    finally:
        hook.remove()


def count_embeddings(model: PreTrainedModel) -> int:
    """Return the number of tokens that have an embedding."""
    return len(model.get_input_embeddings().weight)  # type: ignore[arg-type]


def require_embeddings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Sequence[int]]
) -> None:
    """Check that the model has an embedding for every token; the tokenizer may know more tokens if none is used.

    Raises:
        ValueError: a token has no embedding; the message names the first.
    """
    highest, rows = max(map(max, filter(None, sequences)), default=-1), count_embeddings(model)
    if highest >= rows:
        raise ValueError(
            f"model: expected tokens below {rows}, for which there are embeddings, got {highest} "
            f"({tokenizer.convert_ids_to_tokens(highest)!r}); the tokenizer belongs to another model"
        )


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def cut_thinking(tokenizer: PreTrainedTokenizerBase, answer: Answer) -> Answer:
    """Separate the thinking from a stored answer; the answer is empty if its thinking does not end."""
    n = count_thought(tokenizer, answer.prompt_ids, answer.answer_ids)
    if not n:
        return answer
    rest = answer.answer_ids[n:]
    return replace(
        answer,
        thought_ids=answer.answer_ids[:n],
        answer_ids=rest,
        logprobs=answer.logprobs[n:],
        text=_decode(tokenizer, rest),
    )


def make_given_answers(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Answer]:
    """Turn N texts into answers; special tokens before a text become the prompt.

    >>> make_given_answers(tokenizer, ["It rains."])[0].finish  # doctest: +SKIP
    'given'
    """
    special = set(tokenizer.all_special_ids)
    answers = []
    for text in texts:
        ids = array("i", tokenizer(text).input_ids)
        start = next((i for i, token in enumerate(ids) if token not in special), len(ids))
        answers.append(Answer(ids[:start], ids[start:], array("f"), "given", _decode(tokenizer, ids[start:])))
    return answers


def write_answers(answers: Sequence[Answer]) -> bytes:
    """Write N answers as a Parquet file.

    >>> answers = make_given_answers(tokenizer, ["It rains."])  # doctest: +SKIP
    >>> Path("answers.parquet").write_bytes(write_answers(answers)) > 0  # doctest: +SKIP
    True
    """
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(answer) for answer in answers], SCHEMA), buffer)
    return buffer.getvalue()


def read_answers(path: Path | BinaryIO) -> list[Answer]:
    """Read the answers of a Parquet file, open or not; numbers are kept in arrays of four bytes each, to save memory.

    >>> read_answers(Path("answers.parquet"))[0].text  # doctest: +SKIP
    'It rains.'
    """
    table = pq.read_table(path)
    rows = [
        _split_arrays(table[name], code) for name, code in (("prompt_ids", "i"), ("answer_ids", "i"), ("logprobs", "f"))
    ]
    return [Answer(*row) for row in zip(*rows, table["finish"].to_pylist(), table["text"].to_pylist(), strict=True)]


def _split_arrays(column: pa.ChunkedArray, code: str) -> list[array]:
    lists = column.combine_chunks()
    numbers, bounds = lists.flatten().to_numpy(), lists.offsets.to_numpy()
    return [array(code, numbers[start:stop].tobytes()) for start, stop in pairwise(bounds)]
