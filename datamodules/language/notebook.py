"""Answers and activations in memory, in one call each: what the two cached stages give, without a cache and quiet."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.language.activation_stage import ActivationStage
from datamodules.language.answer_stage import OUTPUT, AnswerStage
from datamodules.language.cache.shards import count_shards, get_rows
from datamodules.language.generation import Answer, cut_thinking, make_given_answers, read_answers
from datamodules.language.language_model import LanguageModel
from datamodules.language.loaded_model import LoadedModel, find_device, load_model, make_model
from datamodules.language.named_choices import make_named
from datamodules.language.positions import Positions, Rule
from datamodules.language.running_model import RunningModel
from datamodules.language.site_names import check_sites
from datamodules.language.sites import choose_layers
from datamodules.language.tokens import find_tokens
from datamodules.questions.question import Question
from datamodules.questions.statements import FileStatements
from datamodules.stream.ranges import Site

Model = str | LanguageModel | LoadedModel | PreTrainedModel
Phrase = str | tuple[int, int] | None  # an exact answer: its text, or where it stands in the answer


class Captured(NamedTuple):
    """Activations of N examples at L layers and T positions, in the order that `LinearProbes.score` takes.

    Attributes:
        acts: [N, L, T, D] bfloat16, 0 where an example lacks the position.
        valid: [N, T] bool.
        layers: [L] block numbers, counted from 0.
        positions: [T] names.
    """

    acts: Tensor
    valid: Tensor
    layers: tuple[int, ...]
    positions: tuple[str, ...]


def ask(
    model: Model,
    questions: Sequence[str | Question],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings: Any,
) -> list[Answer]:
    """Ask a model questions; it answers greedily, as in a run.

    Args:
        model: one that is loaded already: what `load_model` gives, or a model of transformers. Or one that is loaded
            for this call: a name of conf/model, such as `demo`, a hub id, a folder or a GGUF file, with the settings of
            conf/model/hf.yaml; or a `LanguageModel`.
        questions: N texts, or records of a question set.
        tokenizer: of a model of transformers.
        settings: attributes of `LanguageModel` in place of the model's own, such as `max_new_tokens`, `prompt` and
            `device`.

    Returns:
        [N] answers: `text`, `answer_ids`, `logprobs`, `prompt_ids`, `finish`, and `thought_ids` of models that think.

    Raises:
        ValueError: no such model or setting; a loaded model without a tokenizer, without weights, without a head or
            in training mode; a question that leaves no room for an answer.

    Example:
        >>> ask("demo", ["Where was Mokena Tont born?"])[0].text  # doctest: +SKIP
        ' Mokena Tont was born in Karvel Haven, and the ...'
    """
    if isinstance(questions, str):
        raise ValueError("questions: expected a list of texts, got one text; put it in a list")
    texts = [one.text if isinstance(one, Question) else one for one in questions]
    if others := [one for one in texts if not isinstance(one, str)]:
        raise ValueError(f"questions: expected texts, got {type(others[0]).__name__}; give a list of texts")
    if not texts:
        return []
    with _run(model, tokenizer, settings, head=True) as running:
        prompts = running.model.encode(running.tokenizer, texts)
        _require_room(running, [len(prompt) + running.model.token_limit for prompt in prompts], "question")
        stage = AnswerStage(running, _number(texts), prompts, running.model)
        answers: list[Answer] = []
        for shard in range(count_shards(len(texts))):
            ((_, content),) = stage.make(get_rows(shard, len(texts)), [OUTPUT], _ignore)[OUTPUT].items()
            answers += read_answers(io.BytesIO(content))
        return [cut_thinking(running.tokenizer, answer) for answer in answers]


def capture(
    model: Model,
    texts: Sequence[str] | Sequence[Answer],
    positions: Positions | str | Sequence[Rule | Mapping[str, Any]] | None = None,
    layers: Sequence[int] | None = None,
    site: Site = "resid_post",
    exact_answers: Sequence[Phrase] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings: Any,
) -> Captured:
    """Read activations of a model while it reads texts, or the answers that it wrote, as in a run.

    Args:
        model, tokenizer: as in `ask`; the model needs no head.
        texts: N texts, which the model reads as they are; a phrase in double square brackets takes the place of the
            exact answer, as in statements. Or N answers of `ask`, which it reads behind their prompts.
        positions: a name of conf/positions, or rules such as `{"name": "end", "of": "answer", "at": -1}`. By default
            `statements` for texts, and for answers `paper`, or `answer` where no exact answers are given.
        layers: block numbers, counted from 0; all by default.
        site: which tensor of a block, by TransformerLens' name.
        exact_answers: [N] the exact answer of each answer: its text, or first character and the one behind its last;
            None where it has none.
        settings: as in `ask`.

    Raises:
        ValueError: no such model, setting, position, layer or site; a text that does not fit into the context; an
            exact answer that does not occur; an activation that is not finite.

    Example:
        >>> acts, valid, layers, positions = capture("demo", ["The [[Nile]] is long."])  # doctest: +SKIP
        >>> acts.shape  # doctest: +SKIP
        torch.Size([1, 8, 10, 128])
    """
    check_sites(site, ())
    texts = _list_texts(texts)
    with _run(model, tokenizer, settings, head=False) as running:
        answers, spans = _read(running, texts, exact_answers)
        chosen = _choose_positions(positions, texts, exact_answers)
        if chosen.need_exact_answers and spans is None:
            raise ValueError(
                f"positions: expected exact answers for {_name_exact(chosen)}, got none; give exact_answers=[...], or "
                "positions without them"
            )
        lengths = [len(one.prompt_ids) + len(one.thought_ids) + len(one.answer_ids) for one in answers]
        _require_room(running, lengths, "text")
        tokens, valid = chosen.resolve(
            running.tokenizer,
            [one.prompt_ids for one in answers],
            [one.answer_ids for one in answers],
            spans or [None] * len(answers),
            [one.thought_ids for one in answers],
        )
        tokens, valid = tokens[:, chosen.columns].contiguous(), valid[:, chosen.columns].contiguous()
        rows = choose_layers(running.config.num_hidden_layers, layers)
        stage = ActivationStage(running, _number(answers), answers, chosen.names, tokens, valid, [site], rows)
        parts = []
        for shard in range(count_shards(len(answers))):
            files = stage.make(get_rows(shard, len(answers)), [site], _ignore)[site]
            parts.append(torch.stack([load(bytes(content))["h"] for content in files.values()]))  # [L, T, n, D]
        acts = torch.cat(parts, 2).permute(2, 0, 1, 3).contiguous()
    return Captured(acts, valid, tuple(rows), tuple(chosen.names))


@contextmanager
def _run(model: Model, tokenizer: PreTrainedTokenizerBase | None, settings: Any, head: bool) -> Iterator[RunningModel]:
    """The model at work: one that is loaded already, or one that is loaded for this call and freed behind it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        running: RunningModel
        if isinstance(model, LoadedModel | PreTrainedModel) or tokenizer is not None:
            running = load_model(model, tokenizer, **settings).run(head)
        else:
            made = make_model(model, **settings)
            if head:
                made = made.trained
            made.fetch()
            running = RunningModel(made, find_device(), head=head, quiet=True)
        with running:
            yield running


def _list_texts(texts: Any) -> list[Any]:
    """Texts or answers, all of one kind."""
    listed = [] if isinstance(texts, str) else list(texts)
    if not listed or not any(all(isinstance(one, kind) for one in listed) for kind in (str, Answer)):
        got = (
            "one text"
            if isinstance(texts, str)
            else ", ".join(sorted({type(one).__name__ for one in listed})) or "none"
        )
        raise ValueError(f"texts: expected a list of texts, or of answers of ask, got {got}; give one kind in a list")
    return listed


def _read(
    running: RunningModel, texts: list[Any], phrases: Sequence[Phrase] | None
) -> tuple[list[Answer], list[tuple[int, int] | None] | None]:
    """What the model reads, as answers, and the tokens of each exact answer; None where none are known."""
    if phrases is not None and (isinstance(phrases, str) or len(phrases) != len(texts)):
        got = "one text" if isinstance(phrases, str) else len(phrases)
        raise ValueError(f"exact_answers: expected {len(texts)}, one for each text, got {got}")
    if isinstance(texts[0], Answer):
        answers, patterns = texts, None
    else:
        reader = FileStatements(path="texts")  # knows marked phrases; no file is read
        records = [reader.read_record({"statement": text, "label": 1}) for text in texts]
        if empty := [i for i, record in enumerate(records) if isinstance(record, str)]:
            raise ValueError(f"texts: expected words in each, got an empty one at {empty[0]}; leave it out")
        stated = [record for record in records if isinstance(record, Question)]
        answers = make_given_answers(running.tokenizer, [record.text for record in stated])
        patterns = [str(record.pattern) for record in stated]
    if phrases is not None:
        places = [_find_phrase(answers[i].text, phrase, i) for i, phrase in enumerate(phrases)]
    elif patterns is not None:
        places = [_match(pattern, answer.text) for pattern, answer in zip(patterns, answers, strict=True)]
    else:
        return answers, None
    return answers, [
        find_tokens(running.tokenizer, answer.answer_ids, place) if place else None
        for answer, place in zip(answers, places, strict=True)
    ]


def _find_phrase(text: str, phrase: Phrase, i: int) -> tuple[int, int] | None:
    """First character of an exact answer, and the one behind its last."""
    if phrase is None or isinstance(phrase, tuple):
        return phrase
    start = text.find(phrase) if phrase else -1
    if start < 0:
        raise ValueError(
            f"exact_answers: expected words of the answer, got {phrase[:60]!r} for {text[:60]!r} at {i}; correct "
            "it, or give None"
        )
    return start, start + len(phrase)


def _match(pattern: str, text: str) -> tuple[int, int] | None:
    found = re.search(pattern, text)
    part = "exact" if found and "exact" in found.groupdict() else 0
    return found.span(part) if found and found[part] else None


def _choose_positions(positions: Any, texts: list[Any], phrases: Sequence[Phrase] | None) -> Positions:
    if positions is None:
        given = "answer" if phrases is None else "paper"
        return make_named("positions", given if isinstance(texts[0], Answer) else "statements")
    if isinstance(positions, str):
        found: Any = make_named("positions", positions)
        if found is None:
            raise ValueError(f"positions: expected a name of conf/positions, or a list of rules, got {positions!r}")
        positions = found
    return positions if isinstance(positions, Positions) else Positions(positions)


def _name_exact(positions: Positions) -> str:
    return ", ".join(rule.name for rule in positions.rules if rule.of == "exact_answer")


def _require_room(running: RunningModel, lengths: Sequence[int], what: str) -> None:
    """Refuse what does not fit into the context: leaving it out would shift all behind it."""
    for i, length in enumerate(lengths):
        if length > running.context:
            raise ValueError(
                f"{what}s: expected at most {running.context} tokens with the answer, the context of "
                f"{running.model.title}, got {length} for {what} {i}; leave it out, or set fewer max_new_tokens"
            )


def _number(examples: Sequence[object]) -> list[str]:
    return [str(i) for i in range(len(examples))]


def _ignore(rows: Sequence[int]) -> None:
    """A bar would show these rows as done."""
