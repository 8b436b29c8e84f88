"""Cheap numbers of an example: its log-probabilities and lengths, read from examples.parquet without activations."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SUMMARIES: dict[str, Callable[[NDArray], float]] = {
    "mean": np.mean,
    "min": np.min,
    "max": np.max,
    "sum": np.sum,
    "first": lambda logprobs: logprobs[0],
}


def read_logprobs(examples: pd.DataFrame, positions: Sequence[str] = ()) -> tuple[dict[str, NDArray], list[str]]:
    """Summarise the log-probabilities of the tokens of each answer, and of its exact answer.

    Args:
        examples: examples.parquet, N rows.
        positions: [T] names of the positions. They locate the exact answer in records that do not hold its tokens.

    Returns:
        Named numbers [N] float64, NaN for an example without such tokens, or with a log-probability that is not finite;
        and what is missing, in sentences.

    Example:
        >>> examples = pd.DataFrame({"logprobs": [[-1.0, -3.0], []], "exact_answer_tokens": [[1, 1], None]})
        >>> read_logprobs(examples)[0]["logprob sum, answer"].tolist()
        [-4.0, nan]
    """
    if "logprobs" not in examples or not any(len(row) for row in _lists(examples, "logprobs")):
        return {}, ["no log-probabilities are recorded; the baselines from them are left out"]
    logprobs = [np.asarray(row, np.float64) for row in _lists(examples, "logprobs")]
    found = {f"logprob {name}, answer": _summarise(logprobs, one) for name, one in SUMMARIES.items()}
    missing = []
    if broken := sum(not np.isfinite(row).all() for row in logprobs):
        missing.append(f"{broken} of {len(logprobs)} answers have log-probabilities that are not finite")
    tokens = find_exact_answers(examples, positions)
    if any(tokens):
        exact = [row[slice(*where)] if where else row[:0] for row, where in zip(logprobs, tokens, strict=True)]
        found |= {f"logprob {name}, exact answer": _summarise(exact, one) for name, one in SUMMARIES.items()}
    else:
        missing.append("no exact answers are recorded; the baselines from their log-probabilities are left out")
    return found, missing


def find_exact_answers(examples: pd.DataFrame, positions: Sequence[str] = ()) -> list[tuple[int, int] | None]:
    """Locate each exact answer: its first token in the answer and one past its last; None where there is none.

    The column `exact_answer_tokens` says so. In records without it the columns of the exact answer's first and last
    token do, which count from the start of the prompt.
    """
    if "exact_answer_tokens" in examples:
        return [(int(row[0]), int(row[1]) + 1) if len(row) else None for row in _lists(examples, "exact_answer_tokens")]
    names = ("exact_answer_first", "exact_answer_last")
    columns = ("prompt_ids", "thought_ids", "first_token", "last_token", "valid")
    if not all(name in positions for name in names) or not all(column in examples for column in columns):
        return [None] * len(examples)
    first, last = (list(positions).index(name) for name in names)
    found: list[tuple[int, int] | None] = []
    for prompt, thought, firsts, lasts, valid in zip(*(_lists(examples, name) for name in columns), strict=True):
        start = len(prompt) + len(thought)
        there = bool(valid[first] and valid[last])
        found.append((int(firsts[first]) - start, int(lasts[last]) + 1 - start) if there else None)
    return found


def measure_lengths(examples: pd.DataFrame) -> tuple[dict[str, NDArray], list[str]]:
    """Lengths of answer and question, [N] float64, in tokens, or in characters where the tokens are not recorded.

    A question's tokens are those of its prompt. Where the question is itself the answer, as with statements, one length
    is given. Also what is missing, in sentences.

    >>> measure_lengths(pd.DataFrame({"question": ["Who?", "Where is it?"], "answer_ids": [[5, 6], [7]]}))[0]
    {'answer length': array([2., 1.]), 'question length': array([ 4., 12.])}
    """
    found = {}
    for name, tokens in (("answer", "answer_ids"), ("question", "prompt_ids")):
        if name == "question" and is_stated(examples):
            continue
        if tokens in examples:
            found[f"{name} length"] = np.array([len(row) for row in _lists(examples, tokens)], np.float64)
        elif name in examples:
            found[f"{name} length"] = np.array([len(text) for text in read_texts(examples, name)], np.float64)
    return found, [] if found else ["no texts are recorded; the baselines from texts and lengths are left out"]


def is_stated(examples: pd.DataFrame) -> bool:
    """Whether the examples are statements, which no model answered: the question is the answer.

    >>> is_stated(pd.DataFrame({"question": ["It rains."], "answer": ["It rains."]}))
    True
    """
    if not {"question", "answer"} <= set(examples):
        return False
    return read_texts(examples, "question") == read_texts(examples, "answer")


def read_texts(examples: pd.DataFrame, column: str) -> list[str]:
    """Texts of a column, empty where there is none, [N]."""
    return [text.strip() if isinstance(text, str) else "" for text in examples[column]]


def _lists(examples: pd.DataFrame, column: str) -> list[NDArray]:
    """Rows of a column of lists, empty where there is none, [N]."""
    return [np.asarray(row) if isinstance(row, list | tuple | np.ndarray) else np.zeros(0) for row in examples[column]]


def _summarise(rows: Sequence[NDArray], summary: Callable[[NDArray], float]) -> NDArray:
    return np.array([summary(row) if len(row) and np.isfinite(row).all() else np.nan for row in rows], np.float64)
