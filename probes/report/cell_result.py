"""What a model card says of the best cell of a target."""

from typing import NamedTuple

from probes.analysis.assessment import Assessment


class CellResult(NamedTuple):
    """The best cell of a target.

    Attributes:
        target: its name.
        layer, position: of the cell.
        chosen_on: the split whose AUC chose it.
        val_auc, auc, auc_se: None where they are not known; `auc` and its standard error are of the test rows.
        n: test rows.
        assessment: of its decisions; None where the scores allow none.
        left_out: why there is none.
    """

    target: str
    layer: int
    position: str
    chosen_on: str
    val_auc: float | None
    auc: float | None
    auc_se: float | None
    n: int
    assessment: Assessment | None
    left_out: str = ""
