"""Responses from elsewhere as answers: prompt and response in token ids, as if the model had written them."""

from array import array
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from datamodules.language.generation import Answer, cut_thinking
from datamodules.language.language_model import LanguageModel
from datamodules.language.prompts import Asked
from datamodules.language.tokens import decode
from datamodules.questions.question import Question, Response, Tell

SHOWN = 60  # characters of a text in a message
BLANK = "▁"  # how SentencePiece writes a blank

Encode = Callable[[Sequence[Asked]], Sequence[Sequence[int]]]


def make_answers(
    model: LanguageModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], encode: Encode, tell: Tell
) -> list[Answer]:
    """Turn the responses of N questions into answers; thinking is separated.

    Ids that a response brings are used as they are. Otherwise the prompt is the one that the model would answer, the
    response is tokenised by `tokenize_response`, and the token that ends an answer follows where the response says
    that its author stopped. Chats stop where nothing is said.

    Args:
        model: the model that reads them.
        tokenizer: its tokenizer.
        questions: [N], each with a response.
        encode: gives token ids of the prompts for questions or chats.
        tell: takes a line for people.

    Raises:
        ValueError: a chat without a template, a template that refuses it, or ids that do not decode to the text; names
            the first.

    Example:
        >>> questions = [Question("q0", "g", "Who?", ("Goethe",), response=Response("Goethe."))]
        >>> make_answers(model, tokenizer, questions, stages.encode, print)[0].text  # doctest: +SKIP
        'Goethe.'
    """
    responses = [_get_response(question) for question in questions]
    prompts = _make_prompts(tokenizer, questions, responses, encode)
    end, chats = model.find_end(tokenizer), model.chats(tokenizer)
    ends = {*model.find_stop_ids(tokenizer), *([] if end is None else [end])}
    stop = model.find_stop_text(tokenizer)
    answers, added = [], 0
    for question, one, prompt in zip(questions, responses, prompts, strict=True):
        ids, finish = one.ids, one.finish
        if len(ids):
            _require_known(tokenizer, question, ids, "response_ids")
            finish = finish or ("stop" if ids[-1] in ends else None)
        else:
            ids = array("i", tokenize_response(tokenizer, one.text))
            finish = finish or ("stop" if chats or (ids and ids[-1] in ends) else None)
            if (
                finish == "stop"
                and end is not None
                and not (ids and ids[-1] in ends)
                and not (stop and stop in one.text)
            ):
                ids.append(end)
                added += 1
        text = decode(tokenizer, ids)
        answer = cut_thinking(tokenizer, Answer(prompt, ids, one.logprobs, finish or "given", text))
        if len(one.ids) and not any(_agree(one.text, t) for t in (text, answer.text, decode(tokenizer, ids, True))):
            raise ValueError(
                f"dataset.response_ids: expected ids that decode to the response, got {_show(text)} beside "
                f"{_show(one.text)} in {question.id}; correct one, take the tokenizer that wrote them, or set "
                "dataset.response_ids=null"
            )
        answers.append(answer)
    exact = sum(bool(len(one.ids)) for one in responses)
    tell(
        f"responses: {exact} of {len(responses)} with their token ids, the others tokenised; the token that ends an "
        f"answer is put behind {added}"
    )
    return answers


def tokenize_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids that the tokenizer gives for a response where a prompt stands before it.

    No token holds both the end of the prompt and the beginning of the response, as none that a model writes does.
    SentencePiece puts a blank before a text and leaves it out when it decodes, so that `Paris` and ` Paris` are the
    same response there; a text that begins with a line break has none before it.

    >>> tokenize_response(tokenizer, "Paris.")  # doctest: +SKIP
    [5465, 28723]
    """
    first = tokenizer.convert_ids_to_tokens(tokenizer("x", add_special_tokens=False).input_ids)[0]
    if not first.startswith(BLANK):
        return tokenizer(text, add_special_tokens=False).input_ids
    ids = tokenizer(text.removeprefix(" "), add_special_tokens=False).input_ids
    alone = text[:1] != " " and text[:1].isspace() and tokenizer.convert_ids_to_tokens(ids[:1]) == [BLANK]
    return ids[1:] if alone else ids


def _make_prompts(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], responses: Sequence[Response], encode: Encode
) -> list[Sequence[int]]:
    prompts: list[Sequence[int]] = [one.prompt_ids for one in responses]
    for question, one in zip(questions, responses, strict=True):
        if len(one.prompt_ids):
            _require_known(tokenizer, question, one.prompt_ids, "prompt_ids")
            read = decode(tokenizer, one.prompt_ids, special=True)
            asked = [turn.text for turn in one.turns if turn.role != "assistant"] or [question.text]
            if missing := next((text for text in asked if _squeeze(text) not in _squeeze(read)), None):
                raise ValueError(
                    f"dataset.prompt_ids: expected ids that decode to a prompt with {_show(missing)}, got "
                    f"{_show(read)} in {question.id}; correct one, take the tokenizer of these ids, or "
                    "set dataset.prompt_ids=null"
                )
    todo = [i for i, prompt in enumerate(prompts) if not len(prompt)]
    asked = [responses[i].turns or questions[i].text for i in todo]
    try:
        made = encode(asked) if todo else []
    except ValueError as error:
        raise ValueError(f"{error}{_find_refused(questions, todo, asked, encode)}") from None
    for i, ids in zip(todo, made, strict=True):
        prompts[i] = ids
    return prompts


def _find_refused(questions: Sequence[Question], todo: Sequence[int], asked: Sequence[Asked], encode: Encode) -> str:
    """Name the first question whose prompt cannot be made by itself."""
    for i, one in zip(todo, asked, strict=True):
        try:
            encode([one])
        except ValueError:
            return f" (row {questions[i].id})"
    return ""


def _require_known(tokenizer: PreTrainedTokenizerBase, question: Question, ids: Sequence[int], column: str) -> None:
    if (highest := max(ids)) >= len(tokenizer):
        raise ValueError(
            f"dataset.{column}: expected token ids below {len(tokenizer)}, which the tokenizer of the model knows, got "
            f"{highest} in {question.id}; take the model that wrote them, or set dataset.{column}=null"
        )


def _get_response(question: Question) -> Response:
    if question.response is None:
        raise ValueError(
            f"dataset: expected a response for {question.id}, got none; give one, or leave the question out"
        )
    return question.response


def _agree(text: str, decoded: str) -> bool:
    """Whether two texts are the same but for blanks, and for a last character of which bytes are missing."""
    return _squeeze(text).rstrip("\ufffd") == _squeeze(decoded).rstrip("\ufffd")


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _show(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
