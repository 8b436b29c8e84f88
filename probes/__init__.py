"""Linear probes for every layer-token cell: the solver, the AUROC and the Lightning module and callbacks above them."""

from probes.analysis.auc_map import AUCMap
from probes.analysis.auroc import auroc, auroc_variance, auroc_with_variance
from probes.analysis.scores import Scores, load_scores
from probes.exact_grid import LogisticGrid
from probes.grid import ProbeGrid
from probes.grid_auroc import GridAUROC
from probes.mass_mean import MassMeanGrid
from probes.minibatch import LinearGrid, MLPGrid
from probes.report.coincidence import Coincidence
from probes.report.heatmap import Heatmap
from probes.report.probes_file import load_probes
from probes.report.record import ScoreRecord
from probes.report.summary import Report
from probes.solver.logistic import LogisticFit, fit_logistic
from probes.solver.mass_mean import fit_mass_mean

__all__ = [
    "AUCMap",
    "Coincidence",
    "GridAUROC",
    "Heatmap",
    "LinearGrid",
    "LogisticFit",
    "LogisticGrid",
    "MLPGrid",
    "MassMeanGrid",
    "ProbeGrid",
    "Report",
    "ScoreRecord",
    "Scores",
    "auroc",
    "auroc_variance",
    "auroc_with_variance",
    "fit_logistic",
    "fit_mass_mean",
    "load_probes",
    "load_scores",
]
