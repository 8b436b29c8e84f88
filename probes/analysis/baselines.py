"""Baselines: scores that need no probe. How well can the label be told from log-probabilities, lengths and texts?

They are made from examples.parquet alone. `baseline_table` holds them against a probe.
"""

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.analysis.auroc import auroc
from probes.analysis.cheap_numbers import is_stated, measure_lengths, read_logprobs, read_texts
from probes.analysis.log_odds import (
    Fit,
    cross_fit,
    fit_numbers,
    fit_words,
    has_both,
    number_answers,
    rate_answers,
)

RATE = "rate of the said answer"
NUMBERS, LENGTHS = "regression on log-probabilities and lengths", "regression on lengths"
NUMBERS_AND_RATE = "regression with the rate of the said answer"

KEPT = 16  # baselines that a process keeps
_kept: dict[bytes, "Baselines"] = {}  # the oldest first


@dataclass(frozen=True, eq=False)
class Baselines:
    """Scores of N examples for one target, without a probe.

    Attributes:
        scores: [N] float64 by name, higher for label 1, NaN where an example has none. Those in `fitted` are log-odds.
        fitted: names of those that are fitted on train rows; train rows got theirs from fits to other groups.
        notes: by name, what a reader should know of it.
        missing: what could not be computed and why, in sentences.
        labels: [N] uint8, 0 or 1.
        train: [N] bool, the train rows of the target.
    """

    scores: dict[str, Tensor]
    fitted: tuple[str, ...]
    notes: dict[str, str]
    missing: tuple[str, ...]
    labels: Tensor
    train: Tensor


def make_baselines(examples: pd.DataFrame, target: str = "", positions: Sequence[str] = ()) -> Baselines:
    """Make every baseline that the record of N examples allows, for one target.

    * The mean, min, max, sum and first of the log-probabilities, over the answer and over the exact answer. The model's
      confidence counts for the answer: the higher, the likelier it is right.
    * Lengths of answer and question; which way they point is taken from the train rows.
    * Logistic regression on TF-IDF of the question, of the answer, and of both.
    * How often the train rows that say the same are right: the same exact answer, or where there is none, answer.
    * Logistic regression on all of these numbers, without that rate and with it.

    The result is kept, as most jobs of a sweep have the same examples; it is not to be changed.

    Args:
        examples: examples.parquet. What it lacks is left out.
        target: its name; may be left out where there is one.
        positions: [T] names of the positions, for records without the tokens of exact answers.

    Raises:
        ValueError: the examples have no such target.

    Example:
        >>> examples = pd.read_parquet("outputs/latest/examples.parquet")  # doctest: +SKIP
        >>> make_baselines(examples).scores["logprob sum, exact answer"]  # doctest: +SKIP
    """
    content = pickle.dumps((examples, target, list(positions)), pickle.HIGHEST_PROTOCOL)
    key = hashlib.sha256(content).digest()
    if key not in _kept:
        made = _make(examples, target, positions)
        if len(_kept) >= KEPT:
            del _kept[next(iter(_kept))]
        _kept[key] = made
    return _kept[key]


def _make(examples: pd.DataFrame, target: str, positions: Sequence[str]) -> Baselines:
    labels, train = read_target(examples, target)
    groups = pd.factorize(examples["group"], use_na_sentinel=False)[0] if "group" in examples else np.arange(len(train))
    logprobs, missing = read_logprobs(examples, positions)
    lengths, more = measure_lengths(examples)
    scores, notes = dict(logprobs), {}
    missing += more
    can_fit = has_both(labels[train])
    if not can_fit:
        missing.append("the train rows lack a class; the baselines that are fitted on them are left out")
        lengths = {}
    for name, length in lengths.items():
        longer = auroc(torch.from_numpy(length[train]), torch.from_numpy(labels[train])) >= 0.5
        scores[name] = length if longer else -length
        notes[name] = f"{'longer' if longer else 'shorter'} counts as label 1, as in the train rows"
    fitted = {}
    if can_fit:
        fits, more = _choose_fits(examples, labels, groups, logprobs | lengths)
        missing += more
        fitted = {name: cross_fit(fit, train, labels, groups) for name, fit in fits.items()}
    return Baselines(
        scores={name: torch.from_numpy(np.asarray(score, np.float64)) for name, score in (scores | fitted).items()},
        fitted=tuple(fitted),
        notes=notes,
        missing=tuple(missing),
        labels=torch.from_numpy(labels.astype(np.uint8)),
        train=torch.from_numpy(train),
    )


def _choose_fits(
    examples: pd.DataFrame, labels: NDArray, groups: NDArray, numbers: dict[str, NDArray]
) -> tuple[dict[str, Fit], list[str]]:
    """The fitted baselines that the record allows, by name; and what is missing, in sentences."""
    fits: dict[str, Fit] = {}
    missing = []
    texts = {name: read_texts(examples, name) for name in ("question", "answer") if name in examples}
    if is_stated(examples):
        del texts["question"]
    for name, chosen in [*((name, [one]) for name, one in texts.items()), ("both", [*texts.values()])]:
        if name == "both" and len(chosen) < 2:
            continue
        try:
            fits[f"TF-IDF, {name}"] = fit_words(chosen, labels)
        except ValueError as error:
            missing.append(f"TF-IDF, {name}: {error}; left out")
    cheap = np.stack([*numbers.values()], 1) if numbers else np.empty((len(labels), 0))
    if len(numbers) > 1:
        has_logprobs = any(name.startswith("logprob") for name in numbers)
        fits[NUMBERS if has_logprobs else LENGTHS] = fit_numbers(lambda rows: cheap, labels)
    if "answer" in texts:
        exact = read_texts(examples, "exact_answer") if "exact_answer" in examples else [""] * len(labels)
        said = number_answers([one or answer for one, answer in zip(exact, texts["answer"], strict=True)])
        rate = partial(rate_answers, said, labels, groups)
        fits[RATE] = rate
        if numbers:
            fits[NUMBERS_AND_RATE] = fit_numbers(lambda rows: np.column_stack((cheap, rate(rows))), labels)
    return fits, missing


def read_target(examples: pd.DataFrame, target: str = "") -> tuple[NDArray, NDArray]:
    """Labels int64 [N] in {0, 1} and train rows bool [N] of a target.

    Raises:
        ValueError: the examples have no such target.
    """
    end = f"/{target}" if f"label/{target}" in examples else ""
    if f"label{end}" not in examples or f"split{end}" not in examples:
        known = [name.removeprefix("label/") for name in examples if name.startswith("label/")]
        raise ValueError(
            f"examples: expected labels of {target or 'one target'}, got {', '.join(known) or 'none'}; name one of them"
        )
    labels, train = examples[f"label{end}"], examples[f"split{end}"] == "train"
    return labels.to_numpy(np.int64, copy=True), train.to_numpy(bool, copy=True)
