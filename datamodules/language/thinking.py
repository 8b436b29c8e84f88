"""The block in which some models think before they answer: finds its end in a text and in token ids.

The marks around it may be special tokens, added tokens, or plain text over several tokens, so they are looked for in
the decoded text, special tokens shown. The answer follows the last block. A prompt may open the block, as the templates
of DeepSeek-R1 and Qwen3-Thinking do; the written text then holds the closing mark only.
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from datamodules.language.tokens import decode, find_tokens

MARKS = (
    ("<think>", "</think>"),  # Qwen3, DeepSeek-R1, QwQ, SmolLM3, GLM, Granite, Nemotron and most others
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
)
OPENS_ANSWER = ("<|START_RESPONSE|>", "<response>", "<answer>")  # Command A, Granite 3, Hunyuan: after the block
OFF = {"enable_thinking": False, "thinking": False}  # arguments of chat templates; each template knows one or none
CURE = (
    "raise model.thinking_tokens, or switch thinking off with model.template={enable_thinking: false} where the chat "
    "template knows it"
)


def _join_alternatives(texts: Sequence[str]) -> str:
    """A regular expression of any of these texts."""
    return "|".join(map(re.escape, texts))


_TAIL = 64  # tokens: enough for a mark and the blanks after it, at one token a byte
_OPENING, _CLOSING = zip(*MARKS, strict=True)
_OPENS = re.compile(_join_alternatives(_OPENING))
_CLOSES = re.compile(rf"(?:{_join_alternatives(_CLOSING)})\s*(?:(?:{_join_alternatives(OPENS_ANSWER)})\s*)?")


def find_answer(text: str, opened: bool = False) -> int | None:
    """Find the character at which the answer begins in a written text, with special tokens shown.

    Args:
        text: what a model wrote.
        opened: whether the prompt already opened a block.

    Returns:
        0 where there is no block; else the character after the last closing mark and the blanks that follow it. A
        closing mark without an opening one counts. None while a block is open.

    Example:
        >>> find_answer("<think>\\nFrance, so\\n</think>\\n\\nParis.")
        29
        >>> find_answer("<think>\\nFrance, so")
    """
    start = max((match.end() for match in _CLOSES.finditer(text)), default=None if opened else 0)
    return None if start is None or _OPENS.search(text, start) else start


def opens_block(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt ends with an opening mark and optional blanks. A block that is closed again does not count.

    >>> opens_block(tokenizer, tokenizer("Q: red?<think>\\n").input_ids)  # doctest: +SKIP
    True
    """
    tail = decode(tokenizer, prompt_ids[-_TAIL:], special=True)
    return tail.rstrip().endswith(_OPENING)


def count_thought(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], written_ids: Sequence[int]) -> int:
    """Count the written tokens of the block and the blanks after it; all tokens if the block is still open.

    A token that carries the end of the closing mark and the beginning of the answer, such as `>"`, belongs to the
    answer, so that no character of the answer is lost.

    >>> written = tokenizer("<think>\\nFrance\\n</think>\\n\\nParis.").input_ids  # doctest: +SKIP
    >>> tokenizer.decode(written[count_thought(tokenizer, [], written) :])  # doctest: +SKIP
    'Paris.'
    """
    text = decode(tokenizer, written_ids, special=True)
    start = find_answer(text, opens_block(tokenizer, prompt_ids))
    if start == 0:
        return 0
    rest = "" if start is None else text[start:]
    # Thoughts are long, so only the end is decoded token by token: no token of the answer has less than a byte of it.
    end = written_ids[-(len(rest.encode()) + _TAIL) :]
    at = len(decode(tokenizer, end, special=True)) - len(rest)
    found = find_tokens(tokenizer, end, (at, at + 1), special=True) if rest else None
    return len(written_ids) - len(end) + found[0] if found else len(written_ids)
