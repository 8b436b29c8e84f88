"""Cells that judge an answer together: chosen, weighed, calibrated and given a threshold on validation rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.card import Card, show_text
from probes.analysis.calibration import Calibration, Threshold, choose_threshold, fit_platt
from probes.analysis.scores import Rows
from probes.analysis.shares import Share, measure_share
from probes.python.linear_probes import CellProbe, LinearProbes


@dataclass(frozen=True)
class Ensemble:
    """C cells with one score: that of the cell, or the mean of the calibrated log-odds of several.

    Attributes:
        cells: the best first.
        gains: [C] what the score of each cell counts.
        offset: of the score.
        calibration: from the score to a probability.
        threshold: of the score.
        tested: share of test rows of label 0 that reach it; None without test rows.

    Example:
        >>> ensemble = choose_ensemble(LinearProbes.load("outputs/latest"), n=3)  # doctest: +SKIP
        >>> ensemble.name  # doctest: +SKIP
        '14:exact_answer_last, 13:exact_answer_last, 15:exact_answer_first'
    """

    cells: tuple[CellProbe, ...]
    gains: tuple[float, ...]
    offset: float
    calibration: Calibration
    threshold: Threshold
    tested: Share | None = None

    @property
    def name(self) -> str:
        """LAYER:POSITION of each cell."""
        return ", ".join(f"{cell.layer}:{cell.position}" for cell in self.cells)

    def combine(self, scores: Tensor) -> Tensor:
        """Scores [..] of the ensemble from those of its cells [.., C]; linear, so that it also holds for tokens."""
        return combine(scores, self.gains, self.offset)


class Way(NamedTuple):
    """One way to judge an answer.

    Attributes:
        ensemble: the cells.
        columns: which of the probes on the model are theirs.
    """

    ensemble: Ensemble
    columns: list[int]

    def gather(self, tokens: Any, there: Mapping[str, tuple[int, int]], n: int | None = None) -> Tensor:
        """Scores [C] of the cells, or of the first n, at their positions.

        Args:
            tokens: `TokenScores` of one sequence.
            there: first and last token of each position.
            n: how many cells.
        """
        read = zip(self.ensemble.cells[:n], self.columns, strict=False)
        return torch.stack([tokens.at(*there[cell.position])[column] for cell, column in read])


def choose_ensemble(
    probes: LinearProbes,
    n: int = 1,
    fpr: float = 0.05,
    positions: Collection[str] | None = None,
    target: str | None = None,
) -> Ensemble:
    """Choose the n cells of the highest validation AUC, of equals the first, and fit what lies behind them.

    Args:
        probes: of a run, with its scores.
        n: cells.
        fpr: false-alarm rate of the threshold.
        positions: which may be chosen; all by default.
        target: name of the label set, the first by default.

    Raises:
        ValueError: the run has no validation scores, or too few cells with enough of them, or whose scores are higher
            for right answers.
    """
    if type(n) is not int or n < 1:
        raise ValueError(f"cells: expected a whole number above 0, got {n!r}; 1 is the best cell alone")
    names = [one.name for one in probes.card.targets]
    if target is not None and target not in names:
        raise ValueError(f"target: expected one of {', '.join(names)}; got {target!r}; choose among these")
    k = names.index(target) if target is not None else 0
    require_own_scores(probes)
    assert probes.record is not None  # required above
    val, test = (probes.record.maps(split)[k] for split in ("val", "test"))
    allowed = val.readable() & (test.readable() | (test.n == 0).all()) & ~probes.bias[k].isnan()
    if positions is not None:
        allowed &= torch.tensor([name in positions for name in probes.card.positions])
    if int(allowed.sum()) < n:
        raise ValueError(
            f"run: expected {n} cells with a probe and enough validation rows of both classes, got "
            f"{int(allowed.sum())}; take more questions, a larger split.val, or fewer cells"
        )
    ranked = val.auc.where(allowed, -torch.inf).flatten().argsort(descending=True, stable=True)[: int(allowed.sum())]
    rows, cells = probes.record.of("val", k), []
    for row, t in (divmod(int(cell), len(probes.card.positions)) for cell in ranked):
        cell = probes.cell(probes.card.layers[row], probes.card.positions[t], names[k])
        scores, labels, groups = _gather(rows, probes.card, [cell])
        if scores.std() > 0 and fit_platt(scores[:, 0], labels, groups).slope > 0:
            cells.append(cell)
        if len(cells) == n:
            return fit_ensemble(probes, cells, fpr)
    if not cells:
        raise ValueError(
            "run: expected a cell with higher scores for right answers, got none: no cell of the run tells right "
            "answers from wrong ones on validation rows; take more questions, or other layers and positions"
        )
    raise ValueError(
        f"run: expected {n} cells with higher scores for right answers on validation rows, got {len(cells)}; take "
        "fewer cells"
    )


def choose_ensembles(
    probes: LinearProbes, n: int, fpr: float, target: str | None, rules: Sequence[Any], finds_exact_answers: bool
) -> list[Ensemble]:
    """Choose the best cells and, where these read the exact answer, the best that do not, for answers without one.

    Args:
        probes, n, fpr, target: as `choose_ensemble` takes them.
        rules: of the run's positions.
        finds_exact_answers: whether those of exact answers may be chosen.

    Raises:
        ValueError: no cell can be chosen.
    """
    readable = [rule for rule in rules if rule.at != "max"]
    plain = {rule.name for rule in readable if rule.of != "exact_answer"}
    allowed = {rule.name for rule in readable} if finds_exact_answers else plain
    if not allowed & set(probes.card.positions):
        raise ValueError(
            "run: expected a position that can be read in new answers, got "
            f"{', '.join(probes.card.positions)}; those of exact answers need spans that find them without the gold "
            "answer, and a maximum is no score of tokens; run with more positions"
        )
    best = choose_ensemble(probes, n, fpr, allowed, target)
    if all(cell.position in plain for cell in best.cells):
        return [best]
    try:
        return [best, choose_ensemble(probes, n, fpr, plain, target)]
    except ValueError:  # too few such cells: answers without an exact answer have no score
        return [best]


def fit_cell(probes: LinearProbes, cell: Any, fpr: float, target: str | None, maxima: Collection[str]) -> Ensemble:
    """`fit_ensemble` of one cell that was asked for.

    Args:
        probes, fpr, target: as `choose_ensemble` takes them.
        cell: layer and position.
        maxima: positions of a maximum over tokens.

    Raises:
        ValueError: no such cell, one of a maximum, or what `fit_ensemble` raises.
    """
    if not isinstance(cell, tuple | list) or len(cell) != 2 or not isinstance(cell[1], str):
        raise ValueError(f"cell: expected a layer and a position, got {cell!r}; write it as (14, 'mean')")
    layer, position = cell
    if position in maxima:
        raise ValueError(
            f"cell: expected a position whose score is linear in tokens, got {position}, a maximum over tokens; choose "
            "another cell"
        )
    return fit_ensemble(probes, [probes.cell(layer, position, target)], fpr)


def require_own_scores(probes: LinearProbes) -> None:
    """Refuse probes without recorded scores, or whose recorded scores are not theirs alone.

    Raises:
        ValueError: the run kept no scores, or fitted its probes beside a baseline.
    """
    if offset := probes.about.get("offset"):
        raise ValueError(
            f"run: expected scores of the probes alone, got some that contain the log-odds of the baseline "
            f"{show_text(str(offset))}; run again without probe.offset"
        )
    if probes.record is None:
        raise ValueError(
            "run: expected scores beside the probes, which choose the cell and its threshold, got none; run again with "
            "a larger scores.max_bytes"
        )


def fit_ensemble(probes: LinearProbes, cells: Sequence[CellProbe], fpr: float = 0.05) -> Ensemble:
    """Weigh, calibrate and find the threshold of given cells on validation rows; those that all cells score.

    Raises:
        ValueError: no validation rows, or too few; the score is not higher for right answers.
    """
    require_own_scores(probes)
    assert probes.record is not None  # required above
    k = [one.name for one in probes.card.targets].index(cells[0].target)
    val, test = (_gather(probes.record.of(split, k), probes.card, cells) for split in ("val", "test"))
    scores, labels, groups = val
    if not len(labels):
        raise ValueError(
            f"run: expected validation rows that have {', '.join({one.position for one in cells})}, got none; choose "
            "another cell, or run with split.val"
        )
    gains, offset = (1.0,), 0.0
    if len(cells) > 1:
        lines = [fit_platt(of_cell, labels, groups) for of_cell in scores.unbind(-1)]
        gains = tuple(line.slope / len(lines) for line in lines)
        offset = sum(line.offset for line in lines) / len(lines)
    combined = combine(scores, gains, offset)
    calibration = fit_platt(combined, labels, groups)
    if not calibration.slope > 0:
        raise ValueError(
            f"cell: expected higher scores for right answers, got a calibration of slope {calibration.slope:.3g} for "
            f"{', '.join(f'{one.layer}:{one.position}' for one in cells)} on validation rows; choose another cell"
        )
    threshold = choose_threshold(combined, labels, groups, fpr)
    wrong = test[1] == 0
    reached = combine(test[0][wrong], gains, offset) >= threshold.value
    tested = measure_share(reached, test[2][wrong]) if len(reached) else None
    return Ensemble(tuple(cells), gains, offset, calibration, threshold, tested)


def combine(scores: Tensor, gains: Sequence[float], offset: float) -> Tensor:
    """Weigh scores [.., C]: [..] float32, computed in float64.

    >>> combine(torch.tensor([[1.0, 3.0]]), (0.5, 1.0), -1.0)
    tensor([2.5000])
    """
    return (scores.double() @ torch.tensor(gains, dtype=torch.float64, device=scores.device) + offset).float()


def _gather(rows: Rows, card: Card, cells: Sequence[CellProbe]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores [n, C], labels [n] and groups [n] of the rows that all cells score."""
    places = [(card.layers.index(one.layer), card.positions.index(one.position)) for one in cells]
    scores = torch.stack([rows.scores[place] for place in places], -1)
    held = scores.isfinite().all(-1)
    return scores[held], rows.labels[held], rows.groups[held]
