"""What a model reads before it answers: questions and chats to token ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from datamodules.language.chat import encode_turns
from datamodules.questions.question import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from datamodules.language.language_model import LanguageModel

Asked = str | Sequence[Turn]  # a question, or the turns of a chat before the answer
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


def encode_prompts(model: LanguageModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Asked]) -> list[list[int]]:
    """Return token ids of the prompts for N questions or chats; BOS as tokenizer or template add it, but only once.

    A question is put into the prompt of the model; the turns of a chat are those of the template.

    Raises:
        ValueError: the chat template fails or leaves a text out, or there is none for the turns of a chat.
    """
    chats = model.chats(tokenizer)
    if chats:
        turns = [write_turns(model, tokenizer, one) for one in asked]
        every = encode_turns(tokenizer, turns, model.template or {}, model.day)
    elif any(not isinstance(one, str) for one in asked):
        raise ValueError(
            f"model.chat: expected a chat template for messages, got {model.name} without one or "
            "with model.chat=false; choose a model that chats, or give questions and responses"
        )
    else:
        texts = [fill_prompt(model, tokenizer, str(one)) for one in asked]
        every = tokenizer(texts).input_ids
    eos, bos, encoded = tokenizer.eos_token_id, tokenizer.bos_token_id, []
    for i, ids in enumerate(every):
        written = chats or fill_prompt(model, tokenizer, str(asked[i])).endswith(str(tokenizer.eos_token))
        ends = 0 if written or len(ids) < 2 or ids[-1] != eos else 1
        begins = 0
        while begins + 1 < len(ids) and ids[begins] == ids[begins + 1] == bos:
            begins += 1
        encoded.append(list(ids[begins : len(ids) - ends]))  # a prompt is continued, so it has no EOS at its end
    return encoded


def write_turns(model: LanguageModel, tokenizer: PreTrainedTokenizerBase, asked: Asked) -> list[Turn]:
    """Return the turns that the template of a model that chats gets: those of a chat, or the question in its prompt.

    >>> write_turns(LanguageModel("gpt2", prompt="Say: {question}", chat=True), tokenizer, "red?")  # doctest: +SKIP
    [Turn(role='user', text='Say: red?')]
    """
    return [Turn("user", fill_prompt(model, tokenizer, asked))] if isinstance(asked, str) else list(asked)


def fill_prompt(model: LanguageModel, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """Put a question into the prompt of a model: `prompt`, or that for models that chat or do not.

    >>> fill_prompt(LanguageModel("gpt2"), tokenizer, "red?")  # doctest: +SKIP
    'Q: red?\\nA:'
    """
    own = model.chat_prompt or "{question}" if model.chats(tokenizer) else model.base_prompt or "Q: {question}\nA:"
    return unescape(model.prompt or own).replace("{question}", question)


def unescape(text: str) -> str:
    r"""Write `\n`, `\t` and two backslashes as a line break, a tab and one backslash.

    >>> unescape(r"a\nb")
    'a\nb'
    """
    return re.sub(r"\\([nt\\])", lambda match: _ESCAPES[match[1]], text)
