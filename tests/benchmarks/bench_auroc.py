"""AUROC with its variance for a whole grid, against scikit-learn's area in a loop.

python -m tests.benchmarks.bench_auroc
"""

import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from probes import auroc_with_variance

CELLS, N, REPEATS = 480, 1000, 5


def main() -> None:
    """Print one line."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(N, generator=generator) < 0.4
    scores = torch.randn(CELLS, N, generator=generator) + labels
    ours, theirs = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        areas, _ = auroc_with_variance(scores, labels)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        oracle = np.array([roc_auc_score(labels, row) for row in scores])
        theirs.append(time.perf_counter() - start)
    error = np.abs(areas.numpy() - oracle).max()
    a, b = min(ours), min(theirs)
    print(
        f"auroc and variance, {CELLS} cells x {N}: scikit-learn (area alone) {1e3 * b:.0f} ms, ours {1e3 * a:.1f} ms, "
        f"{b / a:.1f} times faster (asked: 20), largest error {error:.1e} (asked: 1e-12)"
    )


if __name__ == "__main__":
    main()
