"""What stands beside cached activations about their labels: how the rule decided, and where a plainer one differs."""

from collections.abc import Sequence

from datamodules.correctness import Verdict, substring
from datamodules.questions import Question

SHOWN = 5  # examples of each
LENGTH = 200  # characters of a text that are shown


def label_report(questions: Sequence[Question], answers: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """Write it.

    Args:
        questions: [N].
        answers: [N] texts.
        verdicts: [N].

    Returns:
        Markdown: the base rate, how often each branch of the rule decided, how many labels the substring rule would
        give otherwise, and `SHOWN` examples of each.
    """
    n, right = len(verdicts), sum(bool(verdict.right) for verdict in verdicts)
    plain = [substring(answer, question).right for answer, question in zip(answers, questions, strict=True)]
    branches = sorted({(not verdict.right, verdict.branch) for verdict in verdicts})
    stands = {
        f"{branch} ({'wrong' if wrong else 'right'})": [i for i, one in enumerate(verdicts) if one.branch == branch]
        for wrong, branch in branches
    }
    differs = {
        f"{what}, by substring {'right' if by_substring else 'wrong'}": [
            i for i, one in enumerate(verdicts) if one.right is not by_substring and plain[i] is by_substring
        ]
        for what, by_substring in (("wrong", True), ("right", False))
    }
    lines = [
        "# Labels",
        "",
        f"{right} of {n} answers are right, {right / n:.1%}; always guessing the larger class is right in "
        f"{max(right, n - right) / n:.1%}.",
        "",
        "| what decided | answers | share |",
        "|---|---:|---:|",
        *(f"| {name} | {len(rows)} | {len(rows) / n:.1%} |" for name, rows in stands.items()),
        "",
        f"A plain substring, case folded, would give {sum(map(len, differs.values()))} of {n} labels otherwise:",
        "",
        *(f"- {name}: {len(rows)}" for name, rows in differs.items()),
    ]
    for title, cases in (("What decided", stands), ("Where the substring differs", differs)):
        for name, rows in cases.items():
            if rows:
                lines += ["", f"## {title}: {name}", ""]
                for i in rows[:: max(1, len(rows) // SHOWN)][:SHOWN]:
                    gold = " / ".join(questions[i].answers[:SHOWN])
                    lines += [
                        f"- **{questions[i].id}** {_cut(questions[i].text, end=True)}",
                        f"  - gold: {_cut(gold)}",
                        f"  - said: {_cut(answers[i])}",
                    ]
    return "\n".join(lines) + "\n"


def _cut(text: str, end: bool = False) -> str:
    """A text in one line of at most `LENGTH` characters, its last ones where `end` is true."""
    line = " ".join(text.split())
    if len(line) <= LENGTH:
        return line
    return f"… {line[-LENGTH:]}" if end else f"{line[:LENGTH]} …"
