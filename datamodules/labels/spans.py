"""Finds the exact answer in an answer, by a rule or with a model.

A method that uses the label, as the study's own does, finds words in nearly every right answer and misses them in wrong
ones only. `RuleSpans` with a pattern, options or numbers, and `ModelSpans` by default, do not use the label.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol

from annotated_types import doc

from datamodules.examples import Span
from datamodules.language.language_model import LanguageModel
from datamodules.language.thinking import OFF
from datamodules.questions.find import find, find_first
from datamodules.questions.numbers import find_answer_number
from datamodules.questions.question import Question
from datamodules.questions.words import WORD, drop_article, make_plain
from datamodules.stream.ranges import Count

RULES = ("auto", "pattern", "options", "number")
REPLY_TOKENS = 48  # longest reply
NONE = "no answer"  # the reply that the prompt asks for where there is none
MAX_WORDS = 6  # of a reply: the gold answers of the study's Movies and Winogrande files have five and fewer
SHORT = 3  # words that may be a whole answer and its exact answer at once, as in `Herman Melville.`


# Asks a model. Takes N ids for messages, N texts and the model (None: that of the answers). Returns N replies.
Ask = Callable[[Sequence[str], Sequence[str], LanguageModel | None], list[str]]


class SpanFinder(Protocol):
    """A way to find the exact answers of N answers."""

    def __call__(
        self, questions: Sequence[Question], answers: Sequence[str], labels: Sequence[bool], ask: Ask
    ) -> list[Span]:
        """Return one for each."""
        ...


@dataclass
class RuleSpans:
    """The words that a rule names, in right and wrong answers alike.

    Attributes:
        rule: `pattern`: the first match of the question's regular expression, or of its group `exact`. `options`: the
            option of the question that is named first, in any spelling. `number`: the number that `rule=number` judges,
            see `numbers.find_answer_number`. `auto`: pattern or options where the question has them, else the gold
            answer where it occurs, which leaves wrong answers without.

    Example:
        >>> question = Question("q0", "g", "?", ("Oslo",), options=(("Oslo",), ("Rome",)))
        >>> RuleSpans("options").find_one(question, "It is Rome.").characters
        (6, 10)
    """

    rule: Literal["auto", "pattern", "options", "number"] = "auto"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"spans.rule: expected one of {', '.join(RULES)}; got {self.rule!r}")

    def __call__(
        self, questions: Sequence[Question], answers: Sequence[str], labels: Sequence[bool], ask: Ask
    ) -> list[Span]:
        """Return one for each; uses neither a model nor the labels."""
        return [self.find_one(question, answer) for question, answer in zip(questions, answers, strict=True)]

    def find_one(self, question: Question, answer: str) -> Span:
        """Return the exact answer of one answer."""
        if self.rule == "number":
            said = find_answer_number(answer)
            return Span(said.characters if said else None, "number")
        if self.rule == "options" and len(question.options) < 2:
            raise ValueError(
                f"spans.rule=options: expected options of every question, got {list(question.options)} for "
                f"{question.id}; name their columns with dataset.options, or label words with dataset.labels"
            )
        if self.rule == "pattern" and not question.pattern:
            raise ValueError(
                f"spans.rule=pattern: expected a regular expression for every question, got none for {question.id}; "
                "set dataset.pattern"
            )
        if question.pattern and self.rule != "options":
            match = re.search(question.pattern, answer)
            part = "exact" if match and "exact" in match.groupdict() else 0
            return Span(match.span(part) if match and match[part] else None, "pattern")
        if question.options:
            names = [word for option in question.options for word in option]
            bare = [drop_article(name) for name in names]  # as the rule that judges has it
            return Span(find_first(answer, [*names, *bare], meant=True), "options")
        return Span(find_gold(question, answer), "gold")


Asked = Annotated[LanguageModel | None, doc("null or a model, given with +model@spans.model=NAME")]


@dataclass
class ModelSpans:
    """Exact answers that a model extracts, from every answer or, as in the study, from wrong answers only.

    A reply is rejected if it does not occur in the answer or copies too much of it (see `copies_too_much`). The model
    is then asked again with other examples.

    Attributes:
        only_wrong: use the gold answer in right answers, and ask the model about wrong ones. The result then depends on
            the label, as in the study. If a question has options or a pattern, these are used for right and wrong
            answers alike, and no model is asked.
        tries: highest number of tries for one answer.
        max_words: longest accepted reply, in words.
        model: the model to ask; the model of the answers where None.

    Example:
        >>> ask = lambda ids, texts, model: ["Rome"]  # noqa: E731
        >>> ModelSpans()([Question("q0", "g", "?", ("Oslo",))], ["It is Rome."], [False], ask)[0].characters
        (6, 10)
    """

    only_wrong: bool = False
    tries: Count = 5
    max_words: Count = MAX_WORDS
    model: Asked = None

    def __post_init__(self) -> None:
        most = len(list(itertools.permutations(_EXAMPLES, 2)))
        if type(self.only_wrong) is not bool:
            raise ValueError(f"spans.only_wrong: expected true or false, got {self.only_wrong!r}")
        require_model("spans.model", self.model)
        if type(self.tries) is not int or not 1 <= self.tries <= most:
            raise ValueError(f"spans.tries: expected 1 to {most}, got {self.tries}")
        if type(self.max_words) is not int or self.max_words < 1:
            raise ValueError(f"spans.max_words: expected a whole number above 0, got {self.max_words!r}")

    def __call__(
        self, questions: Sequence[Question], answers: Sequence[str], labels: Sequence[bool], ask: Ask
    ) -> list[Span]:
        """Return one for each."""
        found = [
            self._find_unasked(question, answer, right) if self.only_wrong else None
            for question, answer, right in zip(questions, answers, labels, strict=True)
        ]
        replies: dict[int, list[str]] = {i: [] for i, span in enumerate(found) if span is None}
        for k in range(self.tries):
            open_ = [i for i in replies if found[i] is None]
            if not open_:
                break
            texts = [write_extraction_prompt(questions[i].text, answers[i], k) for i in open_]
            for i, reply in zip(open_, ask([questions[i].id for i in open_], texts, self.model), strict=True):
                words = clean_reply(reply)
                replies[i].append(words)
                characters = find(answers[i], words)
                taken = characters and not copies_too_much(words, answers[i], self.max_words)
                if taken or words.casefold() == NONE:
                    found[i] = Span(characters, "model", tuple(replies[i]))
        return [span or Span(None, "model", tuple(replies[i])) for i, span in enumerate(found)]

    def _find_unasked(self, question: Question, answer: str, right: bool) -> Span | None:
        """Find the exact answer as `only_wrong` does without a model; None if the model must be asked."""
        if question.options or question.pattern:
            return RuleSpans().find_one(question, answer)
        characters = find_gold(question, answer) if right else None
        return Span(characters, "gold") if characters else None


def copies_too_much(reply: str, answer: str, max_words: int = MAX_WORDS) -> bool:
    """Whether a reply copies the answer instead of naming its exact answer.

    This is so with more than `max_words` words, or with more than half of the words of the answer. Up to `SHORT` words
    may be a whole answer.

    >>> copies_too_much("Herman Melville", "Herman Melville.")
    False
    >>> copies_too_much("It was Herman Melville", "It was Herman Melville.")
    True
    """
    n = count_words(reply)
    return n > max_words or (n > SHORT and 2 * n > count_words(answer))


def count_words(text: str) -> int:
    """Count the words of a text; in scripts without blanks, each character is one word.

    >>> count_words("Herman Melville, 1851")
    3
    """
    return len(WORD.findall(make_plain(text)))


def require_model(key: str, model: object) -> None:
    """Raise ValueError if `model` is neither None nor a `LanguageModel`."""
    if model is not None and not isinstance(model, LanguageModel):
        raise ValueError(f"{key}: expected null or a model, got {model!r}; give it with +model@{key}=NAME")


def prepare_for_replies(model: LanguageModel) -> LanguageModel:
    """Return a model with settings for short replies: the plain text as the only turn, one line, no thinking.

    >>> prepare_for_replies(LanguageModel(id="gpt2")).max_new_tokens
    48
    """
    # A template ignores arguments that it does not know.
    template = {**(model.template or {}), "add_generation_prompt": True, **OFF}
    short = {"stop": "\n", "max_new_tokens": REPLY_TOKENS, "thinking_tokens": 0}
    return replace(model, prompt="{question}", template=template, **short)


def find_gold(question: Question, answer: str) -> tuple[int, int] | None:
    """Find the gold answer or alias that comes first in an answer; whole words are preferred to parts of words.

    Returns:
        first character and one past the last; None where none occurs.

    Example:
        >>> find_gold(Question("q0", "g", "?", ("Oslo",)), "It is Oslo.")
        (6, 10)
    """
    return find_first(answer, question.answers, meant=True)


def clean_reply(reply: str) -> str:
    """Return the words of a reply: its first line, without quotation marks around it and a full stop after it.

    >>> clean_reply('Exact answer: "Herman Melville".')
    'Herman Melville'
    """
    lines = reply.strip().splitlines()
    words = lines[0].strip() if lines else ""
    words = re.sub(r"^exact answer:\s*", "", words, flags=re.IGNORECASE)
    return words.strip("\"'`“”‘’«» ").removesuffix(".").strip("\"'`“”‘’«» ")


_EXAMPLES = (
    (
        "Who wrote the novel Moby-Dick?",
        "It was written by Herman Melville, who published it in 1851.",
        "Herman Melville",
    ),
    ("What is the capital of Australia?", "Many would say Sydney, and the capital is indeed Sydney.", "Sydney"),
    ("How many legs does a spider have?", "A spider is not an insect: it walks on eight legs.", "eight"),
    ("In which year did the Titanic sink?", "The ship went down on its first voyage, in April 1912.", "1912"),
    ("Which planet is the largest?", "Of the planets around the Sun, Saturn is the largest.", "Saturn"),
    ("Who painted Guernica?", "I am sorry, I do not know who painted it.", "NO ANSWER"),
)


def write_extraction_prompt(question: str, answer: str, k: int) -> str:
    """Write the prompt about one answer for try k: an instruction, two examples that change with k, the answer.

    >>> write_extraction_prompt("When?", "In 1999.", 0)[-13:]
    'Exact answer:'
    """
    pairs = list(itertools.permutations(_EXAMPLES, 2))
    shown = pairs[(7 * k) % len(pairs)]  # 7 and the number of pairs, 30, have no common divisor: all come in turn
    examples = "\n\n".join(f"Question: {q}\nAnswer: {a}\nExact answer: {e}" for q, a, e in shown)
    return (
        "Below are a question and an answer to it. Copy from the answer the exact answer: the shortest words that "
        "answer the question, right or wrong, letter by letter as they stand there. Write nothing else. If the answer "
        f"gives none, write NO ANSWER.\n\n{examples}\n\n"
        f"Question: {question}\nAnswer: {' '.join(answer.split())}\nExact answer:"
    )
