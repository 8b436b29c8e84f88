"""Linear probes for every layer-token cell: the solver, the AUROC and the Lightning module and callbacks above them.

A name is loaded when it is first used, so that `from probes import fit_logistic` needs torch and numpy only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probes.analysis.auc_map import AUCMap
    from probes.analysis.auroc import auroc, auroc_variance, auroc_with_variance
    from probes.analysis.band import Band, band
    from probes.analysis.chance import Chance, null_of_best
    from probes.analysis.clusters import Areas, influences, measure_areas
    from probes.analysis.paired import Comparison, compare
    from probes.analysis.scores import Scores, load_scores
    from probes.grids.grid import ProbeGrid
    from probes.grids.grid_auroc import GridAUROC
    from probes.grids.logistic import LogisticGrid
    from probes.grids.mass_mean import MassMeanGrid
    from probes.grids.minibatch import LinearGrid
    from probes.grids.mlp import MLPGrid
    from probes.python.estimator import LinearProbe
    from probes.python.fit_grid import fit_grid
    from probes.python.fitted_grid import Best, FittedGrid, load_grid
    from probes.python.linear_probes import LinearProbes
    from probes.report.coincidence import Coincidence
    from probes.report.heatmap import Heatmap
    from probes.report.probes_file import load_probes
    from probes.report.record import ScoreRecord
    from probes.report.report import Report
    from probes.scoring.scorer import Scorer
    from probes.solver.logistic import LogisticFit, fit_logistic
    from probes.solver.mass_mean import fit_mass_mean

__all__ = [
    "AUCMap",
    "Areas",
    "Band",
    "Best",
    "Chance",
    "Coincidence",
    "Comparison",
    "FittedGrid",
    "GridAUROC",
    "Heatmap",
    "LinearGrid",
    "LinearProbe",
    "LinearProbes",
    "LogisticFit",
    "LogisticGrid",
    "MLPGrid",
    "MassMeanGrid",
    "ProbeGrid",
    "Report",
    "ScoreRecord",
    "Scorer",
    "Scores",
    "auroc",
    "auroc_variance",
    "auroc_with_variance",
    "band",
    "compare",
    "fit_grid",
    "fit_logistic",
    "fit_mass_mean",
    "influences",
    "load_grid",
    "load_probes",
    "load_scores",
    "measure_areas",
    "null_of_best",
]

_MODULES = {
    "AUCMap": "probes.analysis.auc_map",
    "Areas": "probes.analysis.clusters",
    "Band": "probes.analysis.band",
    "Best": "probes.python.fitted_grid",
    "Chance": "probes.analysis.chance",
    "Coincidence": "probes.report.coincidence",
    "Comparison": "probes.analysis.paired",
    "FittedGrid": "probes.python.fitted_grid",
    "GridAUROC": "probes.grids.grid_auroc",
    "Heatmap": "probes.report.heatmap",
    "LinearGrid": "probes.grids.minibatch",
    "LinearProbe": "probes.python.estimator",
    "LinearProbes": "probes.python.linear_probes",
    "LogisticFit": "probes.solver.logistic",
    "LogisticGrid": "probes.grids.logistic",
    "MLPGrid": "probes.grids.mlp",
    "MassMeanGrid": "probes.grids.mass_mean",
    "ProbeGrid": "probes.grids.grid",
    "Report": "probes.report.report",
    "ScoreRecord": "probes.report.record",
    "Scorer": "probes.scoring.scorer",
    "Scores": "probes.analysis.scores",
    "auroc": "probes.analysis.auroc",
    "auroc_variance": "probes.analysis.auroc",
    "auroc_with_variance": "probes.analysis.auroc",
    "band": "probes.analysis.band",
    "compare": "probes.analysis.paired",
    "fit_grid": "probes.python.fit_grid",
    "fit_logistic": "probes.solver.logistic",
    "fit_mass_mean": "probes.solver.mass_mean",
    "influences": "probes.analysis.clusters",
    "load_grid": "probes.python.fitted_grid",
    "load_probes": "probes.report.probes_file",
    "load_scores": "probes.analysis.scores",
    "measure_areas": "probes.analysis.clusters",
    "null_of_best": "probes.analysis.chance",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
