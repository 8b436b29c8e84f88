"""Linear probes for every layer-token cell: the solver, the AUROC and the Lightning module and callbacks above them."""

from probes.auc_map import AUCMap
from probes.auroc import GridAUROC, auroc, auroc_variance, auroc_with_variance
from probes.coincidence import Coincidence
from probes.exact_grid import LogisticGrid
from probes.grid import ProbeGrid
from probes.heatmap import Heatmap
from probes.logistic import LogisticFit, fit_logistic
from probes.mass_mean import MassMeanGrid, fit_mass_mean
from probes.minibatch import LinearGrid, MLPGrid
from probes.report import Report, load_probes

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
    "auroc",
    "auroc_variance",
    "auroc_with_variance",
    "fit_logistic",
    "fit_mass_mean",
    "load_probes",
]
