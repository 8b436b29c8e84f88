"""Chat templates: turns to token ids, the token that ends a turn, and the clock that a template may read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import MAXYEAR, date, datetime, timedelta
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from datamodules.language.render_limit import RunawayTemplateError, limit_rendering
from datamodules.questions.question import Turn

PART = "{'type': 'text'"
# Arguments of `apply_chat_template` that the template does not get: they would cut or pad the ids, or give no ids.
NOT_OF_TEMPLATES = {
    "tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs", "padding",
    "truncation", "max_length",
}  # fmt: skip
# Errors of a template that does not support its input: Jinja's own errors, and Python errors inside the template.
_FAILURES = (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)


def encode_turns(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[str | Sequence[Turn]], arguments: Mapping[str, Any], today: date
) -> list[list[int]]:
    """Token ids of N prompts, each the turns of a chat, or a text as the only user turn.

    A template that loops over the parts of a turn drops a plain text; it then gets the text as a list of one part.

    Args:
        tokenizer: with a chat template.
        chats: [N], at least one.
        arguments: of the template; `add_generation_prompt` is true unless it is given.
        today: the date that the template sees.

    Raises:
        ValueError: the template fails, runs away, or leaves a text out of its prompt. What the model said before may
            be left out: templates drop its earlier thoughts.

    Example:
        >>> ids = encode_turns(tokenizer, ["Who wrote Faust?"], {}, date(2024, 7, 26))  # doctest: +SKIP
        >>> "Faust" in tokenizer.decode(ids[0])  # doctest: +SKIP
        True
    """
    problem = "a prompt without the question"
    each = [[Turn("user", chat)] if isinstance(chat, str) else chat for chat in chats]
    told = [[turn.text for turn in chat if turn.role != "assistant"] for chat in each]
    for as_parts in (False, True):
        turns = [
            [{"role": t.role, "content": [{"type": "text", "text": t.text}] if as_parts else t.text} for t in chat]
            for chat in each
        ]
        try:
            rendered = _apply(tokenizer, turns, arguments, today, tokenize=False)
            written = any(PART in prompt for prompt in rendered)  # the list itself, as Python prints it
            if not written and all(
                _holds(prompt, one) for prompt, ts in zip(rendered, told, strict=True) for one in ts
            ):
                return _apply(tokenizer, turns, arguments, today, tokenize=True)
        except RunawayTemplateError:
            raise
        except _FAILURES as error:
            if not as_parts:
                problem = str(error)[:200]
    raise ValueError(
        f"model.template: expected a chat template that puts the question into its prompt, got {problem}; set "
        "model.chat=false, or correct the template"
    )


def reads_clock(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any], today: date) -> bool:
    """Whether a chat template writes the date or the time into its prompt.

    The same turn is rendered twice, the second time more than a year later, or earlier where there are no later years.
    """
    turns = [[{"role": "user", "content": "x"}]]
    other = today + timedelta(days=399 if today.year < MAXYEAR - 1 else -399)
    try:
        now, later = (_apply(tokenizer, turns, arguments, day, tokenize=False) for day in (today, other))
    except RunawayTemplateError:
        raise
    except _FAILURES:
        return False
    return now != later


def find_turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the special token that a chat template puts after an answer; None where there is none.

    Fine-tuned models often have a different end-of-text token.
    """
    answer = "forty-two apples"
    turns = [[{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}]]
    try:
        rendered = _apply(tokenizer, turns, {"add_generation_prompt": False}, date(2024, 1, 1), tokenize=False)[0]
    except RunawayTemplateError:
        raise
    except _FAILURES:
        return None
    _, found, behind = rendered.rpartition(answer)
    ids = tokenizer(behind.lstrip(), add_special_tokens=False).input_ids if found else []
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None


def _apply(
    tokenizer: PreTrainedTokenizerBase, turns: Any, arguments: Mapping[str, Any], today: date, tokenize: bool
) -> Any:
    given = {"add_generation_prompt": True, **arguments}
    with _stop_clock(today), limit_rendering(len(turns)):
        return tokenizer.apply_chat_template(turns, tokenize=tokenize, return_dict=False, **given)


@contextmanager
def _stop_clock(day: date) -> Iterator[None]:
    """Fix `strftime_now`, the only clock that templates can read, at the start of a day."""

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(day.year, day.month, day.day, tzinfo=tz)

    module: Any = chat_template_utils
    clock = module.datetime
    module.datetime = Fixed
    try:
        yield
    finally:
        module.datetime = clock


def _holds(prompt: str, text: str) -> bool:
    """Whether a text occurs in a prompt; blanks are ignored, because templates trim them."""
    return "".join(text.split()) in "".join(prompt.split())
