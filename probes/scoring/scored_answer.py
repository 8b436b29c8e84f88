"""One scored answer, as Python gets it and as score.csv and score.jsonl hold it."""

from dataclasses import asdict, dataclass
from typing import Any

# In this order in scores.csv; scores.jsonl also has the tokens.
COLUMNS = (
    "id", "question", "answer", "score", "probability", "decision", "exact_answer", "cell", "threshold", "label",
    "finish",
)  # fmt: skip


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer and what the probes make of it.

    Attributes:
        id: of the question.
        question: its text; of a statement empty.
        answer: the text that was scored.
        score: of the cell, or of several together; None where the answer has no such token.
        probability: calibrated, of being right; None likewise.
        decision: whether the score reaches the threshold; None likewise.
        threshold: of the score.
        cell: LAYER:POSITION of the probe, or of several.
        exact_answer: words of the exact answer; None where none was looked for or found.
        read_at: first and last token, counted in the answer, where the first cell reads; before 0 in the prompt.
        tokens: texts of the tokens of the answer, which make up the answer.
        token_scores: the same probe on each of these tokens, a number each.
        token_probabilities: these, calibrated as `probability` is; the calibration is that of the cell's position.
        finish: `stop`, `length` where the answer was cut off, or `given`.
        label: whether the answer is right, where gold answers say so.

    Example:
        >>> scorer("In which country is Oslo?", "Norway.").decision  # doctest: +SKIP
        True
    """

    id: str
    question: str
    answer: str
    score: float | None
    probability: float | None
    decision: bool | None
    threshold: float
    cell: str
    exact_answer: str | None
    read_at: tuple[int, int] | None
    tokens: tuple[str, ...]
    token_scores: tuple[float, ...]
    token_probabilities: tuple[float, ...]
    finish: str
    label: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Every field, JSON-ready."""
        return asdict(self)

    def to_row(self) -> list[Any]:
        """The fields of `COLUMNS`; numbers as short as they are exact in float32, an empty text for None."""
        return [_show(getattr(self, name)) for name in COLUMNS]


def _show(value: Any) -> Any:
    if value is None:
        return ""
    return int(value) if isinstance(value, bool) else f"{value:.9g}" if isinstance(value, float) else value
