"""The report on labels, for people: how the rule decided, and where the substring rule differs."""

import re
from collections import Counter
from collections.abc import Sequence

import regex

from datamodules.card import show_text
from datamodules.examples import Verdict
from datamodules.labels.rules import judge_by_substring
from datamodules.questions.numbers import find_answer_number, find_numbers, is_same_number
from datamodules.questions.question import Question

SHOWN = 5  # examples of each
WORDS = 10  # longer words that are shown
LENGTH = 200  # characters of a text that are shown
# What Markdown takes for more than text: emphasis, code, cells, tags, entities, links, and addresses that it links.
_MARKUP = re.compile(
    r"[\\`<>|~&]|\*(?=\S)|(?<=\S)\*|(?<!\w)_|_(?!\w)|(?<=\])[(\[:]|!(?=\[)|(?i:(?<=http)|(?<=https)|(?<=ftp)|(?<=mailto)):"
)
_ADDRESS = re.compile(r"(?i:(?<=www))\.|@")

_WHY = {
    True: "Usual reason: the gold answer is inside a longer word, such as a demonym or another form of the word "
    "(`Japanese` for `Japan`), or inside a longer number; or its case differs (`us` for `US`). Check whether "
    "these answers should count; if so, give the forms as aliases in the data set.",
    False: "Usual reason: another spelling (accents, hyphens, a number in words or with other digits), or a judge.",
}


def write_label_report(questions: Sequence[Question], answers: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """Write the report.

    Args:
        questions: [N].
        answers: [N] texts.
        verdicts: [N].

    Returns:
        Markdown: the base rate, how often each branch of the rule decided, how many questions already contain the gold
        number, how many labels the substring rule would change, and `SHOWN` examples of each.

    Example:
        >>> question = Question("q0", "g", "?", ("Oslo",))
        >>> write_label_report([question], ["Oslo."], [Verdict(True, "an alias occurs")]).splitlines()[2]
        '1 of 1 answers are right, 100.0%; always guessing the larger class is right in 100.0%.'
    """
    n, right = len(verdicts), sum(bool(verdict.right) for verdict in verdicts)
    branches = sorted({(not verdict.right, verdict.branch) for verdict in verdicts})
    stands = {
        f"{branch} ({'wrong' if wrong else 'right'})": [i for i, one in enumerate(verdicts) if one.branch == branch]
        for wrong, branch in branches
    }
    differs = _find_differing(questions, answers, verdicts)
    lines = [
        "# Labels",
        "",
        f"{right} of {n} answers are right, {right / n:.1%}; always guessing the larger class is right in "
        f"{max(right, n - right) / n:.1%}.",
        "",
        "| what decided | answers | share |",
        "|---|---:|---:|",
        *(f"| {_quote(name)} | {len(rows)} | {len(rows) / n:.1%} |" for name, rows in stands.items()),
    ]
    numeric, repeated = _find_repeated_gold(questions)
    if numeric:
        count = sum(bool(verdicts[i].right) for i in repeated)
        lines += [
            "",
            f"In {_count_repeated_gold(numeric, repeated)}, where an answer that only repeats it is labelled right: "
            f"{count} of these answers are right.",
        ]
    lines += [
        "",
        f"The study's rule, a substring in any case, would label {sum(map(len, differs.values()))} of {n} answers "
        "otherwise:",
        "",
        *(f"- {_name_difference(by_substring)}: {len(rows)}" for by_substring, rows in differs.items()),
    ]
    words = _list_longer_words(questions, answers, differs[True])
    if words:
        lines += ["", f"Longer words with the gold answer inside: {words}."]
    for name, rows in stands.items():
        lines += ["", f"## What decided: {_quote(name)}", "", *_show_examples(questions, answers, rows, numbers=True)]
    for by_substring, rows in differs.items():
        if rows:
            title = _name_difference(by_substring)
            lines += ["", f"## Where the substring differs: {title}", "", _WHY[by_substring], ""]
            lines += _show_examples(questions, answers, rows)
    return "\n".join(lines) + "\n"


def summarise_labels(questions: Sequence[Question], answers: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """Return the report in one line for the log: labels that the substring rule would change, and repeated numbers.

    Args: as of `write_label_report`.

    Example:
        >>> summarise_labels([Question("q0", "g", "?", ("Japan",))], ["Japanese"], [Verdict(False, "nothing found")])
        'a plain substring would label 1 of 1 answers otherwise (1 right, 0 wrong)'
    """
    differs = _find_differing(questions, answers, verdicts)
    line = (
        f"a plain substring would label {sum(map(len, differs.values()))} of {len(verdicts)} answers otherwise "
        f"({len(differs[True])} right, {len(differs[False])} wrong)"
    )
    numeric, repeated = _find_repeated_gold(questions)
    return f"{line}; in {_count_repeated_gold(numeric, repeated)}" if repeated else line


def _find_differing(
    questions: Sequence[Question], answers: Sequence[str], verdicts: Sequence[Verdict]
) -> dict[bool, list[int]]:
    """Find the examples that the substring rule labels differently, by the label that it gives."""
    plain = [
        bool(judge_by_substring(answer, question).right) for answer, question in zip(answers, questions, strict=True)
    ]
    return {
        label: [i for i, one in enumerate(verdicts) if plain[i] is label and bool(one.right) is not label]
        for label in (True, False)
    }


def _name_difference(by_substring: bool) -> str:
    return "wrong here, right by substring" if by_substring else "right here, wrong by substring"


def _find_repeated_gold(questions: Sequence[Question]) -> tuple[int, list[int]]:
    """Count the questions whose gold answer is only a number, and list those that contain this number."""
    golds = {i: number for i, question in enumerate(questions) if (number := _read_whole_number(question)) is not None}
    repeated = [
        i
        for i, gold in golds.items()
        if any(is_same_number(one.value, gold) for one in find_numbers(questions[i].text))
    ]
    return len(golds), repeated


def _read_whole_number(question: Question) -> float | None:
    """Return the gold answer as a number, or None where it contains other words."""
    gold = question.answers[0] if question.answers else ""
    found = find_numbers(gold)
    if len(found) != 1 or regex.search(r"\w", gold[: found[0].characters[0]] + gold[found[0].characters[1] :]):
        return None
    return found[0].value


def _count_repeated_gold(numeric: int, repeated: Sequence[int]) -> str:
    return f"{len(repeated)} of {numeric} questions the gold number already stands in the question"


def _list_longer_words(questions: Sequence[Question], answers: Sequence[str], rows: Sequence[int]) -> str:
    """List longer words with a gold answer inside, each with the number of answers that contain it."""
    counts = Counter[str]()
    for i in rows:
        for gold in map(str.strip, questions[i].answers):
            match = regex.search(rf"\w*{regex.escape(gold)}\w*", answers[i], regex.I)
            if match and len(match[0]) > len(gold):
                counts[f"`{_quote_code(match[0])}` for `{_quote_code(gold)}`"] += 1
                break
    return ", ".join(f"{word} ({count})" for word, count in counts.most_common(WORDS))


def _show_examples(
    questions: Sequence[Question], answers: Sequence[str], rows: Sequence[int], numbers: bool = False
) -> list[str]:
    """`SHOWN` examples, spread over the rows, each with the number it gives where its gold answer is one."""
    lines = []
    for i in rows[:: max(1, len(rows) // SHOWN)][:SHOWN]:
        question, answer = questions[i], answers[i]
        said = find_answer_number(answer) if numbers and _read_whole_number(question) is not None else None
        lines += [
            f"- **{_quote(question.id)}** {_quote(_shorten(question.text, len(question.text)))}",
            f"  - gold: {_quote(_shorten(' / '.join(question.answers[:SHOWN])))}",
            f"  - said: {_quote(_shorten(answer, said.characters[0] if said else _find_gold(question, answer)))}",
        ]
        if said:
            lines.append(f"  - number said: {_quote(' '.join(answer[slice(*said.characters)].split()))}")
    return lines


def _find_gold(question: Question, answer: str) -> int:
    """Find the first character of a gold answer in an answer, in any case; 0 where none occurs."""
    found = (answer.lower().find(gold.lower().strip()) for gold in question.answers)
    return next((at for at in found if at >= 0), 0)


def _quote(text: str) -> str:
    r"""A text in Markdown in which it is nothing but text.

    >>> print(_quote("[a](https://b.c) *d*"))
    [a]\(https\://b.c) \*d\*
    """
    return _ADDRESS.sub(r"\\\g<0>", _MARKUP.sub(r"\\\g<0>", show_text(text)))


def _quote_code(text: str) -> str:
    return show_text(text).replace("`", "'")


def _shorten(text: str, at: int = 0) -> str:
    """Shorten a text to one line of at most `LENGTH` characters around the character `at`."""
    line, place = " ".join(text.split()), len(" ".join(text[:at].split()))
    if len(line) <= LENGTH:
        return line
    start = max(0, min(place - LENGTH // 2, len(line) - LENGTH))
    return f"{'… ' if start else ''}{line[start : start + LENGTH]}{' …' if start + LENGTH < len(line) else ''}"
