"""Checks how many exact answers were found, and whether the exact-answer columns can be trusted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from datamodules.card import MIN_PER_CLASS
from datamodules.examples import Span
from datamodules.labels.spans import NONE, SHORT, count_words
from datamodules.language.generation import Answer
from datamodules.questions.find import cuts_word, find
from datamodules.questions.question import Question, Tell

CLASSES = ("right", "wrong")
SEARCHED = ("model", "gold", "options")  # methods that search for words and may find only parts of words
PATTERN = 60  # characters of one that are shown
SAYS_NONE = "say that there is none"
SHOWN = 5  # answers without an exact answer that the error message shows


@dataclass(frozen=True)
class SpanCount:
    """What one method found in the right answers, or in the wrong ones.

    Attributes:
        how: the method, as in `Span`.
        label: `right` or `wrong`.
        n: answers.
        found: how many of them have an exact answer.
        parts: how many exact answers are parts of a word, such as `Japan` in `Japanese`.
        share: median share of an answer's words that is its exact answer; None where none was found.
    """

    how: str
    label: str
    n: int
    found: int
    parts: int
    share: float | None


def count_spans(answers: Sequence[str], labels: Sequence[bool], spans: Sequence[Span]) -> list[SpanCount]:
    """Count exact answers by method and label, right answers first.

    Args:
        answers: [N] texts.
        labels: [N], true for right.
        spans: [N].

    Example:
        >>> count_spans(["It is Oslo."], [True], [Span((6, 10), "gold")])[0].found
        1
    """
    counted = []
    for how in sorted({one.how for one in spans}):
        for label in CLASSES:
            rows = [i for i, one in enumerate(spans) if one.how == how and bool(labels[i]) == (label == "right")]
            having = [i for i in rows if spans[i].characters]
            shares = [measure_share(answers[i], spans[i]) for i in having]
            parts = sum(is_part(answers[i], spans[i]) for i in having)
            if rows:
                counted.append(SpanCount(how, label, len(rows), len(having), parts, median(shares) if shares else None))
    return counted


def is_part(answer: str, span: Span) -> bool:
    """Whether an exact answer is part of a word, because the words do not occur as whole words.

    >>> is_part("Japanese trains", Span((0, 5), "gold"))
    True
    """
    return span.how in SEARCHED and span.characters is not None and cuts_word(answer, span.characters)


def measure_share(answer: str, span: Span) -> float:
    """Share of an answer's words that is its exact answer, 0 where there is none.

    >>> measure_share("It is Oslo now.", Span((6, 10), "gold"))
    0.25
    """
    marked = answer[slice(*span.characters)] if span.characters else ""
    return min(1.0, count_words(marked) / max(1, count_words(answer)))


def check_spans(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    labels: Sequence[bool],
    spans: Sequence[Span],
    max_new_tokens: int,
    tell: Tell,
    warn: Tell,
) -> None:
    """Log how often exact answers were found; warn where they may mislead, and raise where there are too few.

    If a class has few exact answers, the exact-answer columns hold almost only the other class. Below `MIN_PER_CLASS`
    no probe can be judged, and this raises; below one half it warns. It also warns where exact answers are most of the
    answer.

    Args:
        questions: [N].
        answers: [N].
        labels: [N], true for right.
        spans: [N].
        max_new_tokens: longest answer, in tokens.
        tell: takes a line for people.
        warn: takes a warning.

    Raises:
        ValueError: over half of the answers have no exact answer, or fewer than `MIN_PER_CLASS` of a class have one.
    """
    texts = [answer.text for answer in answers]
    for row in count_spans(texts, labels, spans):
        share = "" if row.share is None else f"; median share of the answer's words {row.share:.1%}"
        tell(f"exact answers: {row.how}, {row.label} answers: found in {_format_ratio(row.found, row.n)}{share}")
    found = [i for i, one in enumerate(spans) if one.characters]
    if parts := [i for i in found if is_part(texts[i], spans[i])]:
        text, characters = texts[parts[0]], spans[parts[0]].characters or (0, 0)
        tell(
            f"exact answers: {len(parts)} of {len(found)} are parts of a word, as {text[slice(*characters)]!r} of "
            f"{_find_word_around(text, characters)!r}: their answers do not contain it as a whole word"
        )
    rows = {name: [i for i, label in enumerate(labels) if bool(label) == (name == "right")] for name in CLASSES}
    having = {name: [i for i in rows[name] if spans[i].characters] for name in CLASSES}
    lacking = {name: [i for i in rows[name] if not spans[i].characters] for name in CLASSES}
    counts = " and ".join(f"{len(having[name])} of {len(rows[name])} {name}" for name in CLASSES)
    wanted, without = "", []
    if 2 * len(found) < len(spans):
        wanted = f"over half of {len(spans)} answers, got {len(found)} ({counts})"
        without = sorted(lacking["right"] + lacking["wrong"])
    elif scarce := [name for name in CLASSES if len(having[name]) < MIN_PER_CLASS and lacking[name]]:
        wanted = f"at least {MIN_PER_CLASS} right and {MIN_PER_CLASS} wrong answers, got {counts}"
        without = lacking[scarce[0]]
    if without:
        shown = "; ".join(_describe(questions[i], answers[i], spans[i]) for i in without[:SHOWN])
        raise ValueError(
            f"spans: expected exact answers in {wanted}; {advise(questions, answers, spans, without, max_new_tokens)}, "
            f"or positions=answer, which needs none; none in: {shown}"
        )
    for name in CLASSES:
        if 2 * len(having[name]) < len(rows[name]):
            shares = " and ".join(f"{len(having[one]) / len(rows[one]):.1%} of {one}" for one in CLASSES)
            warn(
                f"exact answers: found in {shares} answers, so {len(having['right']) / len(found):.1%} of the rows in "
                f"their columns are right, and {len(rows['right']) / len(spans):.1%} of all; "
                + advise(questions, answers, spans, lacking[name], max_new_tokens)
            )
        long = [i for i in having[name] if count_words(texts[i]) > SHORT]
        if len(long) >= MIN_PER_CLASS and (share := median(measure_share(texts[i], spans[i]) for i in long)) > 0.5:
            warn(
                f"exact answers: in {name} answers of over {SHORT} words they are {share:.1%} of the words (median): "
                "they look like the answer itself; see exact_answers.html, and narrow dataset.pattern or choose "
                "another way with spans"
            )


def advise(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    spans: Sequence[Span],
    lacking: Sequence[int],
    max_new_tokens: int,
) -> str:
    """Return advice on the answers in rows `lacking`, which have no exact answer."""
    n = len(lacking)
    why = {i: _explain_refusal(answers[i].text, spans[i].replies[-1]) for i in lacking if spans[i].replies}
    # A rejected reply is the cause if there is one, even where the answer was cut off.
    written = [i for i in lacking if questions[i].response is None]  # by this model, which could write more
    cut = sum(answers[i].finish == "length" and why.get(i, SAYS_NONE) == SAYS_NONE for i in written)
    if 2 * cut > n:
        return f"{cut} of {n} without one are cut off at model.max_new_tokens={max_new_tokens}: raise it"
    how = Counter(spans[i].how for i in lacking).most_common(1)[0][0]
    those = [i for i in lacking if spans[i].how == how]
    if how == "pattern":
        pattern = questions[those[0]].pattern
        shown = pattern if len(pattern) <= PATTERN else f"{pattern[:PATTERN]}…"
        return f"the pattern '{shown}' matches nothing in {len(those)} of {n} without one: widen dataset.pattern"
    if how == "options":
        return (
            f"{len(those)} of {n} without one name no option: let the question ask for one of them, add spellings to "
            "dataset.labels, or set spans=model"
        )
    if how == "number":
        return f"{len(those)} of {n} without one hold no number: let the question ask for one, or set spans=model"
    if how == "gold":
        return (
            f"{len(those)} of {n} without one do not hold the gold answer, and spans=rule seeks nothing else here: "
            "set spans=model, which asks the model, or dataset.pattern, dataset.options, dataset.labels or spans=number"
        )
    if how == "model":
        replied = ", ".join(f"{count} {what}" for what, count in Counter(why[i] for i in those).most_common())
        return (
            f"of the last replies about {len(those)} of {n} without one, {replied}: ask another model with "
            "+model@spans.model=NAME, or set spans=rule with dataset.pattern"
        )
    return "choose another way with spans"


def _explain_refusal(answer: str, reply: str) -> str:
    """Return why a reply was rejected."""
    if reply.casefold() == NONE:
        return SAYS_NONE
    if not reply:
        return "are empty"
    return "copy too much of the answer" if find(answer, reply) else "do not occur in the answer"


def _describe(question: Question, answer: Answer, span: Span) -> str:
    replied = f" (replied {span.replies[-1][:40]!r})" if span.replies else ""
    return f"{question.id} {answer.text.strip()[:80]!r}{replied}"


def _format_ratio(part: int, n: int) -> str:
    return f"{part} of {n}, {part / n:.1%}"


def _find_word_around(text: str, characters: tuple[int, int]) -> str:
    """Return the text between the blanks around a range of characters."""
    before, after = text[: characters[0]].split(" ")[-1], text[characters[1] :].split(" ")[0]
    return (before + text[slice(*characters)] + after).strip()
