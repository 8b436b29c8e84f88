"""Linear probes for every layer-token cell: the solver, the AUROC and the Lightning module and callbacks above them."""

from probes.auc_map import AUCMap
from probes.auroc import GridAUROC, auroc, auroc_variance
from probes.grid import ProbeGrid
from probes.heatmap import Heatmap
from probes.logistic import LogisticFit, fit_logistic
from probes.report import Report, load_probes

__all__ = [
    "AUCMap",
    "GridAUROC",
    "Heatmap",
    "LogisticFit",
    "ProbeGrid",
    "Report",
    "auroc",
    "auroc_variance",
    "fit_logistic",
    "load_probes",
]
