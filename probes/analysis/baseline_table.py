"""The table of baselines: how well each tells the label on the rows of one cell, and what the probe there adds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.analysis.auroc import auroc
from probes.analysis.baselines import Baselines
from probes.analysis.clusters import measure_areas
from probes.analysis.paired import Comparison, compare
from probes.analysis.scores import Rows, Scores
from probes.analysis.wording import digits

COVERED = 0.9  # share of the probe's rows that a baseline must have a score for, to be held against it


@dataclass(frozen=True)
class BaselineRow:
    """One baseline, or the probe, on test rows.

    Attributes:
        name: of the baseline; of the probe its layer and position.
        auc: on test rows, NaN where a class is absent.
        error: its clustered standard error.
        n: test rows that have a score.
        n_positive: those with label 1.
        auc_chosen: AUC on the rows that the best baseline is chosen on.
        n_chosen: how many of these have a score.
        note: what a reader should know of it.
    """

    name: str
    auc: float
    error: float
    n: int
    n_positive: int
    auc_chosen: float
    n_chosen: int
    note: str = ""


@dataclass(frozen=True, eq=False)
class BaselineTable:
    """Baselines on the rows of one cell, the best of them, and what the probe adds to it.

    Attributes:
        probe: the cell, on all its test rows.
        rows: the baselines, in the order in which they were made.
        best: name of the best on the rows it is chosen on; None where no baseline covers them.
        chosen_on: these rows, `val`, or `train` where the record holds no validation rows of both classes.
        gain: AUC of the probe less that of the best baseline, on the test rows that both score; None without a best.
        n_gain: how many test rows that is.
        missing: what could not be computed and why, in sentences.
    """

    probe: BaselineRow
    rows: tuple[BaselineRow, ...]
    best: str | None
    chosen_on: str
    gain: Comparison | None
    n_gain: int
    missing: tuple[str, ...]

    def describe(self) -> str:
        """What the probe adds, in a sentence.

        >>> table = tabulate_baselines(baselines, scores, (24, 5))  # doctest: +SKIP
        >>> table.describe()  # doctest: +SKIP
        'Best baseline, chosen on val: TF-IDF, answer, AUC .810 ± .027; the probe (-1, layer 24) is .061 ± ...'
        """
        if self.gain is None or self.best is None:
            return "No baseline can be held against the probe."
        best = next(row for row in self.rows if row.name == self.best)
        difference, error, p = (float(x) for x in (self.gain.difference, self.gain.error, self.gain.p))
        return (
            f"Best baseline, chosen on {self.chosen_on}: {best.name}, AUC {digits(best.auc)} ± {digits(best.error)}; "
            f"the probe ({self.probe.name}) is {digits(abs(difference))} ± {digits(error)} "
            f"{'above' if difference >= 0 else 'below'} it (p {_compare(p)}, {self.n_gain} test rows)."
        )


def tabulate_baselines(baselines: Baselines, scores: Scores, cell: tuple[int, int], k: int = 0) -> BaselineTable:
    """Hold every baseline against the probe of one cell, on the test rows that this cell scores.

    A baseline that some of these rows lack is scored on the rows it has. The best is the one with the highest AUC on
    validation rows among those that score nine tenths of them. Train rows serve where there are no validation rows:
    fitted baselines score these by fits to other rows.

    Args:
        baselines: by `make_baselines` for target k.
        scores: the record of the run.
        cell: row and column of the map, chosen on other rows than test.
        k: number of the target.

    Raises:
        ValueError: the scores are those of other examples.

    Example:
        >>> table = tabulate_baselines(baselines, scores, (24, 5))  # doctest: +SKIP
        >>> table.best, table.gain.difference  # doctest: +SKIP
    """
    n, last = len(baselines.labels), int(scores.examples.max()) if len(scores.examples) else -1
    if last >= n:
        raise ValueError(
            f"baselines: expected at least {last + 1} rows in examples.parquet, got {n}; take the file of the same run"
        )
    layer, position = cell
    test, val = (_rows_of_cell(scores.of(split, k), cell) for split in ("test", "val"))
    labels, chosen = val.labels, val.examples
    chosen_on = "val"
    if len(labels.unique()) < 2:
        chosen = baselines.train.nonzero()[:, 0]
        labels, chosen_on = baselines.labels[chosen], "train"
    names = tuple(baselines.scores)
    found = []
    for name in names:
        score, judged = baselines.scores[name][test.examples], baselines.scores[name][chosen]
        found.append(_measure(name, score, test, _auc(judged, labels), judged, baselines.notes.get(name, "")))
    title = f"{scores.card.positions[position]}, layer {scores.card.layers[layer]}"
    own = test.scores[0, 0].double()
    own_chosen = val.scores[0, 0].double() if chosen_on == "val" else torch.full((0,), torch.nan)
    probe = _measure(title, own, test, _auc(own_chosen, labels[: len(own_chosen)]), own_chosen)
    able = [row for row in found if row.n_chosen >= COVERED * len(chosen) and row.n >= COVERED * len(test.labels)]
    able = [row for row in able if row.auc_chosen == row.auc_chosen]
    best = max(able, key=lambda row: row.auc_chosen).name if able else None
    gain, n_gain = None, 0
    if best is not None:
        other = baselines.scores[best][test.examples]
        both = other.isfinite()
        areas = measure_areas(torch.stack((own, other)), test.labels, both, test.groups)
        gain, n_gain = compare(areas.at(0), areas.at(1)), int(both.sum())
    return BaselineTable(probe, tuple(found), best, chosen_on, gain, n_gain, baselines.missing)


def _rows_of_cell(rows: Rows, cell: tuple[int, int]) -> Rows:
    """The rows that the probe of a cell scores, scores [1, 1, m]."""
    layer, position = cell
    scored = ~rows.scores[layer, position].isnan()
    scores = rows.scores[layer, position, scored][None, None]
    return Rows(scores, rows.labels[scored], rows.examples[scored], rows.groups[scored])


def _measure(name: str, score: Tensor, test: Rows, auc: float, judged: Tensor, note: str = "") -> BaselineRow:
    there = score.isfinite()
    area = measure_areas(score, test.labels, there, test.groups)
    counts = int(there.sum()), int(test.labels[there].sum())
    return BaselineRow(name, float(area.auc), float(area.error()), *counts, auc, int(judged.isfinite().sum()), note)


def _auc(score: Tensor, labels: Tensor) -> float:
    return float(auroc(score, labels, score.isfinite()))


def _compare(p: float) -> str:
    return "< .001" if p < 0.001 else f"= {digits(p)}"
