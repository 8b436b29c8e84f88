"""Draw docs/images/solver_passes.png: the gradient norm of a cell against the passes over its rows.

    python -m tests.support.draw_solver_passes

The cell is like one of real activations, 900 x 576 in bfloat16: variances fall like 1 / rank along hidden axes, and a
few columns are far larger than the others. Columns are standardised.
"""

import matplotlib
import numpy as np
import torch

from probes.solver.ladder import factor_hessian
from probes.solver.lbfgs import ANCHORED, BEGUN, CONVERGED, Descents, descend, norm
from probes.solver.rows import describe_columns, standardise, store
from tests.support.places import ROOT

N, D, PENALTIES, MOST = 900, 576, (100.0, 1.0), 160


def follow(acts: torch.Tensor, s: np.ndarray, l2: float, first: int | None) -> tuple[list[int], list[float]]:
    """Passes and gradient norms of a descent, with a Hessian factored after `first` steps."""
    stored = store(acts)
    columns = describe_columns(stored, N)
    rows = standardise(stored, columns)
    d = Descents.empty(1, N, np.ones(D), columns.mean / columns.deviation, (1e-9, 0.0, np.inf, ANCHORED))
    d.s[0], d.ridge[0, :D], d.state["most"], d.state["status"] = s, l2, 10 * MOST, BEGUN
    descend(rows, d, None, 0, None)
    factor, norms = None, [norm(d.measure, d.shift, d.g[0])]
    for step in range(MOST):
        if step == first:
            factor = factor_hessian(rows, d, 0)
            d.memory.forget(0)
        descend(rows, d, factor, 1, None)
        norms.append(norm(d.measure, d.shift, d.g[0]))
        if d.state["status"][0] >= CONVERGED or norms[-1] < 1e-6:
            break
    return [2 * step for step in range(len(norms))], norms


def main() -> None:
    """Draw and save the picture."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    generator = torch.Generator().manual_seed(0)
    spread = torch.arange(1, D + 1) ** -0.5
    hidden = torch.randn(N, D, generator=generator) * spread
    axes = torch.linalg.qr(torch.randn(D, D, generator=generator))[0]
    margin = hidden @ (torch.randn(D, generator=generator) * spread)
    labels = margin / margin.std() + torch.randn(N, generator=generator) > 0
    acts = hidden @ axes
    acts[:, [3, 30]] *= 300
    s = np.where(labels.numpy(), 1.0, -1.0)
    figure, axis = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for l2, color in zip(PENALTIES, ("tab:blue", "tab:orange"), strict=True):
        for first, style, name in ((None, "-", "diagonal"), (20, "--", "a factor after 20 steps")):
            passes, norms = follow(acts.bfloat16(), s, l2, first)
            axis.semilogy(passes, norms, style, color=color, label=f"l2 = {l2:g}, {name}")
    axis.axhline(1e-4, color="gray", linewidth=0.8)
    axis.text(MOST * 2, 1.3e-4, "tol", ha="right", color="gray")
    axis.set(xlabel="passes over the rows", ylabel="gradient norm", xlim=(0, 2 * MOST))
    axis.legend(frameon=False, fontsize=9)
    figure.savefig(ROOT / "docs/images/solver_passes.png", dpi=150)


if __name__ == "__main__":
    main()
