"""Several classes, each a target against the rest: their mean AUC, in one cell for all."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from datamodules.card import is_control
from probes.analysis.auc_map import AUCMap, choose_cell
from probes.analysis.clusters import measure_areas
from probes.analysis.reading import finite
from probes.analysis.scores import Scores


class MeanOverClasses(NamedTuple):
    """The best cell for all classes at once.

    Attributes:
        layer, position: the cell.
        auc: mean test AUC of the classes in it.
        auc_se: its standard error, which respects groups and that classes share their examples; None where it cannot
            be told.
        n_classes: how many have a readable cell; the mean is theirs.
        chosen_on: `val`, or `test` where no validation row can choose; the mean is then too high.
    """

    layer: int
    position: str
    auc: float
    auc_se: float | None
    n_classes: int
    chosen_on: str

    def describe(self) -> str:
        """Say it in a sentence."""
        how = "chosen on validation rows" if self.chosen_on == "val" else "chosen on these rows, so too high"
        error = "" if self.auc_se is None else f" ± {self.auc_se:.3f}"
        return (
            f"Mean of {self.n_classes} classes, each against the rest: in the best cell for all ({how}), layer "
            f"{self.layer}, {self.position}, the mean test AUC is {self.auc:.3f}{error}."
        )


def average_classes(
    test: Sequence[AUCMap], val: Sequence[AUCMap | None], record: Scores | None = None
) -> MeanOverClasses | None:
    """Choose one cell for all classes by the mean of their validation AUCs.

    Classes that no cell of the test map can read are left out, and cells that cannot be read for one of the others.

    Args:
        test: maps of the classes.
        val: of the same; None where there is none.
        record: the scores behind the maps, for the standard error; without them there is none.

    Returns:
        None with fewer than two classes, or where no cell can be read for all of them.
    """
    read = [one.readable().any() and not is_control(one.target) for one in test]
    chosen = [one for one, here in zip(test, read, strict=True) if here]
    if len(chosen) < 2:
        return None
    by = [one for one, here in zip(val, read, strict=True) if here and one is not None]
    mean = _mean(chosen)
    cell = choose_cell(mean, _mean(by) if len(by) == len(chosen) else None)
    if cell is None:
        return None
    place = mean.layers[cell.row], mean.positions[cell.column]
    error = None if record is None else measure_error(record, [one.target for one in chosen], cell.cell)
    return MeanOverClasses(*place, float(mean.auc[cell.cell]), error, len(chosen), cell.on)


def measure_error(record: Scores, targets: Sequence[str], cell: tuple[int, int]) -> float | None:
    """Standard error of the mean test AUC of several targets in one cell.

    The AUCs are correlated, as they are measured on the same examples: the influences of each group are averaged over
    the targets before they are squared.

    Args:
        record: scores of the targets.
        targets: their names.
        cell: row and column of the map.

    Returns:
        None where the targets are tested on other rows, as with several splits, or where no error can be given.
    """
    names = [one.name for one in record.card.targets]
    if not set(targets) <= set(names):  # the mean map of several splits has a name of its own
        return None
    rows = [record.of("test", names.index(one)) for one in targets]
    if any(not torch.equal(one.examples, rows[0].examples) for one in rows):
        return None
    scores = torch.stack([one.scores[cell] for one in rows])
    labels = torch.stack([one.labels for one in rows])
    areas = measure_areas(scores, labels, ~scores.isnan(), rows[0].groups)
    return finite(areas.average(0).error())


def _mean(maps: Sequence[AUCMap]) -> AUCMap:
    """The mean map, NaN where one of the maps cannot be read."""
    return replace(maps[0], auc=torch.stack([one.auc.where(one.readable(), torch.nan) for one in maps]).mean(0))
