"""The solver against scikit-learn, and how its time grows.

    python -m tests.benchmarks.bench_solver

Cells are bfloat16 and made two ways. In *flat* ones every column is independent, unit normal noise. In *steep* ones
variances fall like 1 / rank along hidden axes, and three columns are 30 to 1,000 times the others, as in residual
streams. Labels follow a random direction plus noise. scikit-learn gets a cell in float32, as the study's code calls it:
`LogisticRegression(random_state=0).fit`, at most 100 iterations. Both use every core of the machine; their runs are
interleaved, and times are medians.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from probes import fit_logistic

D = 4096
TIMES = ("scikit-learn", "ours", "times faster", "asked")
CELLS = 4  # of one call: enough to keep two cores busy


def made(C: int, N: int, D: int, kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations [C, N, D] bfloat16 and labels [C, N] int64."""
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(C, N, D, generator=generator)
    direction = torch.randn(C, D, 1, generator=generator)
    if kind == "steep":
        spread = torch.arange(1, D + 1) ** -0.5
        acts *= spread * (D / spread.square().sum()).sqrt()
        direction *= spread[:, None]
    margin = (acts @ direction)[..., 0]
    labels = (margin / margin.std(-1, keepdim=True) + torch.randn(C, N, generator=generator) > 0.2).long()
    if kind == "steep":
        for _ in range(4):  # reflections: the axes no longer show in single columns
            mirror = torch.nn.functional.normalize(torch.randn(D, generator=generator), dim=0)
            acts -= 2 * (acts @ mirror)[..., None] * mirror
        acts[..., 7] = 30 * acts[..., 7] + 40
        acts[..., 70] = 300 * acts[..., 70] - 900
        acts[..., 700] = 1000 * acts[..., 700]
    return acts.bfloat16(), labels


def timed(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def reference(acts: Tensor, labels: Tensor) -> LogisticRegression:
    """scikit-learn on one cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 100 iterations do not converge is known
        return LogisticRegression(random_state=0).fit(acts.float().numpy(), labels.numpy())


def objective(acts: Tensor, labels: Tensor, weight: np.ndarray, bias: float) -> float:
    """The stated objective in float64."""
    margin = (2 * labels.numpy() - 1) * (acts.double().numpy() @ weight.astype(np.float64) + bias)
    return float(np.logaddexp(0, -margin).sum() + (weight.astype(np.float64) ** 2).sum() / 2)


def against_scikit_learn(table: Table, sizes: Sequence[tuple[int, int, int]]) -> None:
    """Times of a cell for sizes (rows, factor asked for, cells of a call), and where scikit-learn ends."""
    for n, asked, cells in sizes:
        for kind in ("flat", "steep"):
            acts, labels = made(cells, n, D, kind)
            ours, theirs = [], []
            for _ in range(2 if n > 4000 else 4):  # the first of each only warms up
                start = time.perf_counter()
                fit = fit_logistic(acts, labels)
                middle = time.perf_counter()
                model = reference(acts[0], labels[0])
                ours.append((middle - start) / cells)
                theirs.append(time.perf_counter() - middle)
            best = objective(acts[0], labels[0], fit.weight[0].numpy(), float(fit.bias[0]))
            above = objective(acts[0], labels[0], model.coef_[0], float(np.ravel(model.intercept_)[0])) / best - 1
            a, b = statistics.median(ours[1:]), statistics.median(theirs[1:])
            table.add_row(
                f"fit, {n} rows, {kind}", f"{1e3 * b:.0f} ms", f"{1e3 * a:.1f} ms", f"{b / a:.1f}", f"{asked}",
                f"{int(fit.converged.sum())} of {cells} converged; scikit-learn ends {above:.1e} above",
            )  # fmt: skip


def optimum(table: Table) -> None:
    """Objective against scikit-learn's, converged."""
    for kind in ("flat", "steep"):
        acts, labels = made(1, 800, D, kind)
        fit = fit_logistic(acts, labels)
        X = acts[0].double().numpy()
        centre = X.mean(0)  # without it scikit-learn does not converge where columns have large offsets
        model = LogisticRegression(tol=1e-8, max_iter=1000, solver="newton-cholesky").fit(X - centre, labels[0].numpy())
        bias = float(np.ravel(model.intercept_)[0] - centre @ model.coef_[0])
        best = objective(acts[0], labels[0], model.coef_[0], bias)
        ours = objective(acts[0], labels[0], fit.weight[0].numpy(), float(fit.bias[0]))
        table.add_row(
            f"objective, 800 rows, {kind}", f"{best:.6f}", f"{ours:.6f}", f"{ours / best - 1:.1e}", "1e-5", ""
        )


def shared(table: Table) -> None:
    """Label sets and penalties on the same activations, against one."""
    acts, labels = made(CELLS, 800, D, "flat")
    sets = torch.rand(25, 1, 800, generator=torch.Generator().manual_seed(1)) < 0.5
    valid = torch.rand(25, 1, 800, generator=torch.Generator().manual_seed(2)) < 0.8
    one = timed(lambda: fit_logistic(acts, labels), 3)
    for name, asked, run in (
        ("25 label sets, permutations", 3, lambda: fit_logistic(acts, sets)),
        ("25 label sets, by valid", 3, lambda: fit_logistic(acts, labels, valid)),
        ("8 penalties, 0.01 to 1e5", 2.5, lambda: fit_logistic(acts, labels, l2=[10.0**p for p in range(-2, 6)])),
    ):
        many = timed(run, 3)
        table.add_row(name, f"{1e3 * one:.0f} ms", f"{1e3 * many:.0f} ms", f"{many / one:.2f}", f"{asked}", "")


def growth(table: Table) -> None:
    """Time when each size is doubled."""
    base = {"C": 4, "N": 400, "D": 2048, "K": 4}
    for kind in ("flat", "steep"):
        seconds = {}
        for size in (None, "C", "N", "D", "K"):
            now = base | ({size: 2 * base[size]} if size else {})
            acts, _ = made(now["C"], now["N"], now["D"], kind)
            sets = torch.rand(now["K"], 1, now["N"], generator=torch.Generator().manual_seed(1)) < 0.5
            seconds[size] = timed(lambda: fit_logistic(acts, sets), 3)  # noqa: B023
        for size in ("C", "N", "D", "K"):
            ratio = seconds[size] / seconds[None]
            table.add_row(
                f"{size} from {base[size]} to {2 * base[size]}, {kind}",
                f"{1e3 * seconds[None]:.0f} ms", f"{1e3 * seconds[size]:.0f} ms", f"{ratio:.2f}", "",
                f"exponent {np.log2(ratio):.2f}",
            )  # fmt: skip


def main() -> None:
    """Print every table."""
    console = Console(width=130)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, D = {D}")
    for title, fill, columns in (
        ("Objective", optimum, ("scikit-learn, converged", "ours", "relative gap", "at most")),
        ("Shared work, 4 cells of 800 rows", shared, ("one", "many", "ratio", "at most")),
        ("Growth, from C=4, N=400, D=2048, K=4", growth, ("base", "doubled", "ratio", "")),
        ("Time of a cell", partial(against_scikit_learn, sizes=((800, 40, 8), (1600, 15, 4))), TIMES),
        ("Time of a cell with many rows", partial(against_scikit_learn, sizes=((8000, 5, 2),)), TIMES),
    ):
        table = Table(title=title, title_justify="left", box=None)
        for column in ("what", *columns, "note"):
            table.add_column(column, justify="left" if column in ("what", "note") else "right")
        fill(table)
        console.print(table, "")


if __name__ == "__main__":
    main()
