"""What a model reads before it answers: questions and chats to token ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from datamodules.language.chat import encode_turns
from datamodules.questions.question import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Asked = str | Sequence[Turn]  # a question, or the turns of a chat before the answer
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, prompt: str, asked: Sequence[Asked], template: Mapping[str, Any], today: date
) -> list[list[int]]:
    """Return token ids of the prompts of a model that chats, for N questions or chats; BOS is there only once.

    Args:
        tokenizer: with a chat template.
        prompt: a text with `{question}`, the turn of a question.
        asked: [N].
        template: arguments of the chat template.
        today: the date that the template sees.

    Raises:
        ValueError: the chat template fails or leaves a text out.
    """
    turns = [write_turns(prompt, one) for one in asked]
    return [drop_bos(tokenizer, ids) for ids in encode_turns(tokenizer, turns, template, today)]


def encode_texts(tokenizer: PreTrainedTokenizerBase, prompt: str, asked: Sequence[Asked]) -> list[list[int]]:
    """Return token ids of the prompts of a base model for N questions; BOS as the tokenizer adds it, but only once.

    A prompt is continued, so an EOS that the tokenizer puts behind it is left out.

    Raises:
        ValueError: a chat.
    """
    if any(not isinstance(one, str) for one in asked):
        raise ValueError(
            "model.chat: expected a model that chats for messages, got one without a chat template or with "
            "model.chat=false; choose another, or give questions and responses"
        )
    texts = [prompt.replace("{question}", str(one)) for one in asked]
    eos, encoded = tokenizer.eos_token_id, []
    for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
        ends = 0 if len(ids) < 2 or ids[-1] != eos or text.endswith(str(tokenizer.eos_token)) else 1
        encoded.append(drop_bos(tokenizer, ids[: len(ids) - ends]))
    return encoded


def drop_bos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """Leave out all but one of the BOS tokens at the beginning: a template and a tokenizer may both add one."""
    bos, begins = tokenizer.bos_token_id, 0
    while begins + 1 < len(ids) and ids[begins] == ids[begins + 1] == bos:
        begins += 1
    return list(ids[begins:])


def write_turns(prompt: str, asked: Asked) -> list[Turn]:
    """Return the turns that a chat template gets: those of a chat, or the question in its prompt.

    >>> write_turns("Say: {question}", "red?")
    [Turn(role='user', text='Say: red?')]
    """
    return [Turn("user", prompt.replace("{question}", asked))] if isinstance(asked, str) else list(asked)


def unescape(text: str) -> str:
    r"""Write `\n`, `\t` and two backslashes as a line break, a tab and one backslash.

    >>> unescape(r"a\nb")
    'a\nb'
    """
    return re.sub(r"\\([nt\\])", lambda match: _ESCAPES[match[1]], text)
