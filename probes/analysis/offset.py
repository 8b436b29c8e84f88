"""An offset: the log-odds that a baseline gives each example, beside which a probe is fitted."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.analysis.auroc import auroc
from probes.analysis.baseline_table import COVERED
from probes.analysis.baselines import Baselines, make_baselines
from probes.analysis.log_odds import base_log_odds, cross_fit, fit_numbers, has_both

BEST = "best"  # stands for the baseline of the highest AUC on validation rows


def make_offset(
    examples: pd.DataFrame, name: str = BEST, target: str = "", positions: Sequence[str] = ()
) -> tuple[str, Tensor]:
    """Give every example the log-odds of one baseline.

    Baselines that are no log-odds, such as the sum of the log-probabilities, become such by a logistic regression on
    the train rows. Train rows have theirs from fits to other groups, so that they are as good as those of unseen rows.
    An example without any has the log-odds of the train rows' base rate.

    Args:
        examples: examples.parquet, N rows.
        name: of a baseline, or `best` for that of the highest AUC on validation rows, or on train rows where there are
            no validation rows of both classes, among those that nine tenths of them have.
        target: its name; may be left out where there is one.
        positions: [T] names, see `make_baselines`.

    Returns:
        The name of the baseline, and log-odds [N] float64.

    Raises:
        ValueError: no baseline can be computed, or none of this name; train rows without both classes.

    Example:
        >>> examples = pd.DataFrame({
        ...     "question": list("abcdefgh"), "answer": list("xyzwxyzw"), "label": [1, 1, 0, 0] * 2,
        ...     "split": ["train"] * 6 + ["test"] * 2, "group": range(8)})
        >>> name, log_odds = make_offset(examples, "rate of the said answer")
        >>> log_odds[6:].exp()  # both say what one wrong train row says, and the base rate is 4 / 6
        tensor([0.8000, 0.8000], dtype=torch.float64)
    """
    made = make_baselines(examples, target, positions)
    known = list(made.scores)
    if not known:
        raise ValueError(f"probe.offset: expected a baseline, got none: {'; '.join(made.missing)}; set it to null")
    if name == BEST:
        name = _choose_best(made, examples, target)
    if name not in made.scores:
        raise ValueError(
            f"probe.offset: expected {BEST} or a baseline of this run, {'; '.join(known)}; got {name!r}; choose one"
        )
    labels, train = made.labels.long().numpy(), made.train.numpy()
    if not has_both(labels[train]):
        raise ValueError("probe.offset: expected train rows of both classes, got one; take more questions")
    score = made.scores[name].numpy()
    if name not in made.fitted:
        groups = examples["group"] if "group" in examples else np.arange(len(labels))
        numbers = pd.factorize(groups, use_na_sentinel=False)[0]
        score = cross_fit(fit_numbers(lambda rows: score[:, None], labels), train, labels, numbers)
    return name, torch.from_numpy(np.where(np.isfinite(score), score, base_log_odds(labels[train])))


def _choose_best(made: Baselines, examples: pd.DataFrame, target: str) -> str:
    end = f"/{target}" if f"split/{target}" in examples else ""
    rows = torch.from_numpy((examples[f"split{end}"] == "val").to_numpy(bool, copy=True))
    rows = rows if len(made.labels[rows].unique()) == 2 else made.train
    areas = {
        name: float(auroc(score[rows], made.labels[rows], score[rows].isfinite()))
        for name, score in made.scores.items()
        if int(score[rows].isfinite().sum()) >= COVERED * int(rows.sum())
    }
    areas = {name: area for name, area in areas.items() if area == area}
    if not areas:
        raise ValueError("probe.offset: expected a baseline that most validation rows have, got none; set it to null")
    return max(areas, key=lambda name: areas[name])
