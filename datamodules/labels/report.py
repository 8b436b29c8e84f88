"""What stands beside cached activations about their labels: how the rule decided, and where a plainer one differs."""

from collections import Counter
from collections.abc import Sequence

import regex

from datamodules.examples import Verdict
from datamodules.labels.rules import substring
from datamodules.questions.numbers import answer_number, find_numbers, same_number
from datamodules.questions.question import Question

SHOWN = 5  # examples of each
WORDS = 10  # longer words that are shown
LENGTH = 200  # characters of a text that are shown

_WHY = {
    True: "Usual reason: the gold answer stands inside a longer word, as a demonym or another form of the word "
    "(`Japanese` for `Japan`), or inside a longer number; or its case tells it apart (`us` for `US`). Check whether "
    "these answers should count; if so, give the forms as aliases in the data set.",
    False: "Usual reason: another spelling (accents, hyphens, a number in words or with other digits), or a judge.",
}


def label_report(questions: Sequence[Question], answers: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """Write it.

    Args:
        questions: [N].
        answers: [N] texts.
        verdicts: [N].

    Returns:
        Markdown: the base rate, how often each branch of the rule decided, in how many questions the gold number stands
        already, how many labels the substring rule would give otherwise, and `SHOWN` examples of each.
    """
    n, right = len(verdicts), sum(bool(verdict.right) for verdict in verdicts)
    branches = sorted({(not verdict.right, verdict.branch) for verdict in verdicts})
    stands = {
        f"{branch} ({'wrong' if wrong else 'right'})": [i for i, one in enumerate(verdicts) if one.branch == branch]
        for wrong, branch in branches
    }
    differs = _differing(questions, answers, verdicts)
    lines = [
        "# Labels",
        "",
        f"{right} of {n} answers are right, {right / n:.1%}; always guessing the larger class is right in "
        f"{max(right, n - right) / n:.1%}.",
        "",
        "| what decided | answers | share |",
        "|---|---:|---:|",
        *(f"| {name} | {len(rows)} | {len(rows) / n:.1%} |" for name, rows in stands.items()),
    ]
    numeric, repeated = _gold_in_question(questions)
    if numeric:
        count = sum(bool(verdicts[i].right) for i in repeated)
        lines += [
            "",
            f"In {_gold_line(numeric, repeated)}, where an answer that only repeats it is labelled right: {count} of "
            "these answers are right.",
        ]
    lines += [
        "",
        f"The study's rule, a substring in any case, would label {sum(map(len, differs.values()))} of {n} answers "
        "otherwise:",
        "",
        *(f"- {_differ_title(by_substring)}: {len(rows)}" for by_substring, rows in differs.items()),
    ]
    words = _longer_words(questions, answers, differs[True])
    if words:
        lines += ["", f"Longer words with the gold answer inside: {words}."]
    for name, rows in stands.items():
        lines += ["", f"## What decided: {name}", "", *_examples(questions, answers, rows, numbers=True)]
    for by_substring, rows in differs.items():
        if rows:
            title = _differ_title(by_substring)
            lines += ["", f"## Where the substring differs: {title}", "", _WHY[by_substring], ""]
            lines += _examples(questions, answers, rows)
    return "\n".join(lines) + "\n"


def label_summary(questions: Sequence[Question], answers: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """The report in one line, for the log: labels that the substring rule would give otherwise, gold numbers repeated.

    Args: as of `label_report`.
    """
    differs = _differing(questions, answers, verdicts)
    line = (
        f"a plain substring would label {sum(map(len, differs.values()))} of {len(verdicts)} answers otherwise "
        f"({len(differs[True])} right, {len(differs[False])} wrong)"
    )
    numeric, repeated = _gold_in_question(questions)
    return f"{line}; in {_gold_line(numeric, repeated)}" if repeated else line


def _differing(
    questions: Sequence[Question], answers: Sequence[str], verdicts: Sequence[Verdict]
) -> dict[bool, list[int]]:
    """Examples that the substring rule labels otherwise, by the label it gives them."""
    plain = [bool(substring(answer, question).right) for answer, question in zip(answers, questions, strict=True)]
    return {
        label: [i for i, one in enumerate(verdicts) if plain[i] is label and bool(one.right) is not label]
        for label in (True, False)
    }


def _differ_title(by_substring: bool) -> str:
    return "wrong here, right by substring" if by_substring else "right here, wrong by substring"


def _gold_in_question(questions: Sequence[Question]) -> tuple[int, list[int]]:
    """How many questions have a number and nothing else as their gold answer, and which of them contain it."""
    golds = {i: number for i, question in enumerate(questions) if (number := _whole_number(question)) is not None}
    repeated = [
        i for i, gold in golds.items() if any(same_number(one.value, gold) for one in find_numbers(questions[i].text))
    ]
    return len(golds), repeated


def _whole_number(question: Question) -> float | None:
    """The gold answer as a number, or None where it has other words beside it."""
    gold = question.answers[0] if question.answers else ""
    found = find_numbers(gold)
    if len(found) != 1 or regex.search(r"\w", gold[: found[0].span[0]] + gold[found[0].span[1] :]):
        return None
    return found[0].value


def _gold_line(numeric: int, repeated: Sequence[int]) -> str:
    return f"{len(repeated)} of {numeric} questions the gold number already stands in the question"


def _longer_words(questions: Sequence[Question], answers: Sequence[str], rows: Sequence[int]) -> str:
    """The words of answers that have a gold answer inside, with how many answers have them."""
    counts = Counter[str]()
    for i in rows:
        for gold in map(str.strip, questions[i].answers):
            match = regex.search(rf"\w*{regex.escape(gold)}\w*", answers[i], regex.I)
            if match and len(match[0]) > len(gold):
                counts[f"`{match[0]}` for `{gold}`"] += 1
                break
    return ", ".join(f"{word} ({count})" for word, count in counts.most_common(WORDS))


def _examples(
    questions: Sequence[Question], answers: Sequence[str], rows: Sequence[int], numbers: bool = False
) -> list[str]:
    """`SHOWN` examples, spread over the rows, each with the number it gives where its gold answer is one."""
    lines = []
    for i in rows[:: max(1, len(rows) // SHOWN)][:SHOWN]:
        question, answer = questions[i], answers[i]
        said = answer_number(answer) if numbers and _whole_number(question) is not None else None
        lines += [
            f"- **{question.id}** {_cut(question.text, len(question.text))}",
            f"  - gold: {_cut(' / '.join(question.answers[:SHOWN]))}",
            f"  - said: {_cut(answer, said.span[0] if said else _place(question, answer))}",
        ]
        if said:
            lines.append(f"  - number said: {' '.join(answer[slice(*said.span)].split())}")
    return lines


def _place(question: Question, answer: str) -> int:
    """Where a gold answer stands in an answer, in any case; 0 where none does."""
    found = (answer.lower().find(gold.lower().strip()) for gold in question.answers)
    return next((at for at in found if at >= 0), 0)


def _cut(text: str, at: int = 0) -> str:
    """A text in one line of at most `LENGTH` characters, those around one of its characters."""
    line, place = " ".join(text.split()), len(" ".join(text[:at].split()))
    if len(line) <= LENGTH:
        return line
    start = max(0, min(place - LENGTH // 2, len(line) - LENGTH))
    return f"{'… ' if start else ''}{line[start : start + LENGTH]}{' …' if start + LENGTH < len(line) else ''}"
