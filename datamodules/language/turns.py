"""Finds the tokens of each turn in a prompt: what the system, the user and the assistant say, without the template."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from datamodules.language.prompts import write_turns
from datamodules.language.tokens import decode, find_tokens
from datamodules.questions.question import Question, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from datamodules.language.language_model import LanguageModel

TurnTokens = tuple[str, int, int]  # role, first token and last token of what it says, counted in the prompt


def find_turns(
    model: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    prompts: Sequence[Sequence[int]],
) -> list[list[TurnTokens]]:
    """Find the turns in the prompts of N questions.

    In the prompt of a base model the question alone is the turn of its user. A turn that a prompt does not hold, such
    as an answer whose thought the template drops, is left out.

    Args:
        model: whose prompts these are.
        tokenizer: its tokenizer.
        questions: [N].
        prompts: [N] token ids.

    Returns:
        [N] turns in their order.

    Example:
        >>> prompts = [tokenizer("Q: Who wrote it?\\nA:").input_ids]  # doctest: +SKIP
        >>> find_turns(model, tokenizer, [Question("q0", "g", "Who wrote it?", ())], prompts)  # doctest: +SKIP
        [[('user', 2, 5)]]
    """
    chats = model.chats(tokenizer)
    behind: dict[tuple[str, ...], list[str]] = {}
    found = []
    for question, ids in zip(questions, prompts, strict=True):
        turns = list(question.response.turns) if question.response else []
        if not turns:
            turns = write_turns(model, tokenizer, question.text) if chats else [Turn("user", question.text)]
        roles = tuple(turn.role for turn in turns)
        if roles not in behind:
            behind[roles] = _read_template(model, tokenizer, roles, chats)
        found.append(_find_each(tokenizer, ids, turns, behind[roles]))
    return found


def _find_each(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], turns: Sequence[Turn], behind: Sequence[str]
) -> list[TurnTokens]:
    """Find turns from the last to the first, each before the one behind it; blanks do not count.

    A text may occur elsewhere in the prompt, so the occurrence with what the template puts behind it is preferred.
    """
    text = decode(tokenizer, ids, special=True)
    kept = [i for i, char in enumerate(text) if not char.isspace()]
    squeezed = "".join(text[i] for i in kept)
    found: list[TurnTokens] = []
    end = len(squeezed)
    for turn, after in zip(reversed(turns), reversed(behind), strict=True):
        said = _squeeze(turn.text)
        at = squeezed.rfind(said + after, 0, end)
        at = squeezed.rfind(said, 0, end) if at < 0 else at
        if not said or at < 0:
            continue
        run = find_tokens(tokenizer, ids, (kept[at], kept[at + len(said) - 1] + 1), special=True)
        if run:
            found.append((turn.role, *run))
            end = at
    return found[::-1]


def _read_template(
    model: LanguageModel, tokenizer: PreTrainedTokenizerBase, roles: Sequence[str], chats: bool
) -> list[str]:
    """What a prompt has behind each turn of these roles, without blanks; empty where the template does not say."""
    marks = [f"Zq{i}qZ" for i in range(len(roles))]
    asked = [Turn(role, mark) for role, mark in zip(roles, marks, strict=True)] if chats else marks[0]
    try:
        prompt = _squeeze(decode(tokenizer, model.encode(tokenizer, [asked])[0], special=True))
    except ValueError:  # the ids of the prompts came with the responses
        return [""] * len(roles)
    starts = [prompt.find(mark) for mark in marks]
    if min(starts) < 0 or starts != sorted(starts):
        return [""] * len(roles)
    return [
        prompt[start + len(mark) : stop]
        for start, mark, stop in zip(starts, marks, chain(starts[1:], [len(prompt)]), strict=True)
    ]


def _squeeze(text: str) -> str:
    return "".join(text.split())
