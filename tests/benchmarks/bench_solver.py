"""The solver against scikit-learn, along a path of penalties, as sizes grow, and at its first fit.

    python -m tests.benchmarks.bench_solver [--activations FOLDER]

Prints the tables of docs/benchmarks.md as Markdown. Cells are bfloat16. In *flat* ones every column is independent,
unit normal noise. In *steep* ones variances fall like 1 / rank along hidden axes, and three columns are 30 to 1,000
times the others; in *real-like* ones two columns are 300 times the others. Labels follow a random direction plus noise.
FOLDER is an entry of the cache, such as cache/activations/KEY: its first 899 rows at the last token, in every fourth
layer, then stand for the real-like cell. Further label sets are permutations of the first.

One cell is solved at a time, by one thread. What a table compares takes turns; times are the least of all turns, in
milliseconds of processor time, so that other work on the machine counts little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from probes import LogisticFit, fit_logistic
from probes.solver.penalty import list_penalties
from tests.support.places import ROOT

L2 = 100.0
LARGE = {  # columns that are not like the others: number, factor, offset
    "flat": (),
    "steep": ((7, 30, 40), (70, 300, -900), (700, 1000, 0)),
    "real-like": ((7, 300, 40), (70, 300, -900)),
}
CELLS = (  # rows, columns, kind, cells, label sets
    (899, 576, "real-like", 4, (1, 25, 200)),
    (480, 256, "real-like", 4, (1, 25)),
    (2400, 128, "real-like", 4, (1, 25)),
    (800, 4096, "steep", 1, (1, 25)),
    (1600, 4096, "steep", 1, (1, 25)),
    (8000, 4096, "steep", 1, (1,)),
)
FEW = 2  # label sets that are timed with scikit-learn and whose objectives are compared
PATH = [float(l2) for l2 in np.geomspace(1000, 0.3, 8)]
BASE = {"N": 1000, "D": 1024, "C": 4, "K": 1}
DOUBLED = {"N": (500, 1000, 2000, 4000), "D": (512, 1024, 2048, 4096), "C": (2, 4, 8), "K": (1, 2, 4, 8)}
PENALTIES = {"by_size": "by_size", "l2 = 100": L2}
FIRST_FIT = """
import json, sys, time
import torch
from probes import fit_logistic
from probes.solver import compiled
compiled._own_cache_folder = lambda: sys.argv[1]
torch.set_num_threads(1)
acts, labels = torch.randn(1, 899, 576).bfloat16(), torch.arange(899) % 2
start, processor = time.perf_counter(), time.process_time()
fit_logistic(acts, labels, l2=100.0, standardize=True)
print(json.dumps([time.perf_counter() - start, time.process_time() - processor]))
"""


def made(C: int, N: int, D: int, kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations [C, N, D] bfloat16 and labels [C, N] int64; of the large columns those that D columns have."""
    generator = torch.Generator().manual_seed(seed)
    acts = torch.randn(C, N, D, generator=generator)
    direction = torch.randn(C, D, 1, generator=generator)
    if kind != "flat":
        spread = torch.arange(1, D + 1) ** -0.5
        acts *= spread * (D / spread.square().sum()).sqrt()
        direction *= spread[:, None]
    labels = label(acts, direction, generator)
    if kind != "flat":
        for _ in range(4):  # reflections: the axes no longer show in single columns
            mirror = torch.nn.functional.normalize(torch.randn(D, generator=generator), dim=0)
            acts -= 2 * (acts @ mirror)[..., None] * mirror
    for column, factor, offset in LARGE[kind]:
        if column < D:
            acts[..., column] = factor * acts[..., column] + offset
    return acts.bfloat16(), labels


def label(acts: Tensor, direction: Tensor, generator: torch.Generator) -> Tensor:
    """Labels [C, N] int64 of rows [C, N, D] along a direction [C, D, 1], with as much noise as signal."""
    margin = (acts @ direction)[..., 0]
    noise = torch.randn(*margin.shape, generator=generator)
    return (margin / margin.std(-1, keepdim=True) + noise > 0.2).long()


def load(folder: Path, N: int = 899) -> tuple[Tensor, Tensor]:
    """Real activations [C, N, D] as stored and labels [C, N] int64 along a random direction of standardised columns."""
    layers = sorted(folder.glob("layer=*"))[::4]
    if not layers:
        raise SystemExit(f"{folder}: expected folders layer=NN of a cache entry, got none; give cache/activations/KEY")
    shards = [[load_file(shard)["h"][0] for shard in sorted(layer.glob("shard-*.safetensors"))] for layer in layers]
    acts = torch.stack([torch.cat(parts)[:N] for parts in shards])
    generator = torch.Generator().manual_seed(0)
    scaled = torch.stack([torch.from_numpy(standardised(cell)).float() for cell in acts])
    return acts, label(scaled, torch.randn(len(acts), acts.shape[2], 1, generator=generator), generator)


def permute(labels: Tensor, K: int) -> Tensor:
    """Label sets [K, C, N]: labels [C, N], and permutations of them."""
    generator = torch.Generator().manual_seed(1)
    return torch.stack(
        [labels, *(labels[:, torch.randperm(labels.shape[1], generator=generator)] for _ in range(K - 1))]
    )


def time_in_turns(runs: Sequence[Callable[[], object]], turns: int = 5) -> list[float]:
    """Least milliseconds of processor time of each run, after a turn that is not counted."""
    least = [np.inf] * len(runs)
    for turn in range(turns + 1):
        for i, run in enumerate(runs):
            start = time.process_time()
            run()
            if turn:
                least[i] = min(least[i], 1e3 * (time.process_time() - start))
    return least


def ours(acts: Tensor, labels: Tensor, l2: float | Sequence[float] = L2) -> LogisticFit:
    """The fit of cells [C, N, D] with label sets [K, C, N], as a run fits a block of its grid: in one call."""
    return fit_logistic(acts, labels, l2=l2, standardize=True)


def theirs(X: NDArray, labels: Tensor) -> LogisticRegression:
    """scikit-learn on standardised rows [N, D] float32 and labels [N]."""
    return LogisticRegression(C=1 / L2, tol=1e-6, max_iter=10_000).fit(X, labels.numpy())


def standardised(acts: Tensor) -> NDArray:
    """Columns of rows [N, D] with mean 0 and variance 1, float64; constant ones are 0."""
    X = acts.double().numpy()
    X = X - X.mean(0)
    deviation = X.std(0)
    return X / np.where(deviation == 0, np.inf, deviation)


def objective(X: NDArray, labels: Tensor, weight: NDArray, bias: float) -> float:
    """The stated objective on standardised rows [N, D], all in float64."""
    margin = (2 * labels.numpy() - 1) * (X @ weight + bias)
    return float(np.logaddexp(0, -margin).sum() + L2 / 2 * (weight**2).sum())


def excess(acts: Tensor, X: NDArray, labels: Tensor) -> tuple[float, float]:
    """How far above the optimum scikit-learn and ours end, relative, at most over label sets [K, N] of one cell.

    The optimum is that of float64 copies with the least tolerance.
    """
    deviation, mean = acts.double().numpy().std(0), acts.double().numpy().mean(0)
    K, above = min(FEW, len(labels)), ([], [])
    fits = [fit_logistic(a[None], labels[:, None], l2=L2, tol=tol, standardize=True)
            for a, tol in ((acts, 1e-4), (acts.double(), 1e-12))]  # fmt: skip
    for k in range(K):
        model = theirs(X.astype(np.float32), labels[k])
        found = [(model.coef_[0].astype(np.float64), float(np.ravel(model.intercept_)[0]))]
        for fit in fits:
            weight = fit.weight[k, 0].double().numpy()
            found.append((weight * deviation, float(fit.bias[k, 0]) + float(weight @ mean)))
        a, b, best = (objective(X, labels[k], *answer) for answer in found)
        above[0].append(a / best - 1)
        above[1].append(b / best - 1)
    return max(above[0]), max(above[1])


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    print(f"**{title}**\n", *(f"| {' | '.join(cells)} |" for cells in lines), "", sep="\n", flush=True)


def show_ms(ms: float) -> str:
    """Milliseconds to about two digits."""
    return f"{ms:,.2f}" if ms < 1 else f"{ms:,.1f}" if ms < 100 else f"{ms:,.0f}"


def against_scikit_learn(activations: Path | None) -> None:
    """Times of a cell and of all its label sets, and how far above the optimum both end."""
    rows = []
    for N, D, kind, C, sets in CELLS:
        real = activations is not None and kind == "real-like" and N == 899
        acts, first = load(activations) if real and activations else made(C, N, D, kind)
        C, N, D = acts.shape
        X = [standardised(cell) for cell in acts]
        X32 = [x.astype(np.float32) for x in X]
        for K in sets:
            labels, few = permute(first, K), min(K, FEW)
            run_theirs = lambda: [theirs(X32[c], labels[k, c]) for c in range(C) for k in range(few)]  # noqa: B023, E731
            turns = 3 if N * D * K > 1e7 else 7
            a, b = time_in_turns((run_theirs, lambda: ours(acts, labels)), turns)  # noqa: B023
            a, b = a / C * K / few, b / C
            above = [f"{max(x, 1e-16):.0e}" for x in excess(acts[0], X[0], labels[:, 0])]
            name = f"{N:,} x {D:,} {'real' if real else kind}"
            rows.append([name, f"{K}", f"{show_ms(a)} ms", f"{show_ms(b)} ms", f"{a / b:.1f}", *above])
    columns = ("cell", "label sets", "scikit-learn", "ours", "times faster", "scikit-learn above", "ours above")
    print_table("Against scikit-learn, standardised, l2 = 100", columns, rows)


def path(activations: Path | None) -> None:
    """A path of penalties against single ones."""
    acts, first = load(activations) if activations else made(4, 899, 576, "real-like")
    labels, penalties = permute(first, 1), (PATH, PATH[0], L2, PATH[-1])
    times = time_in_turns([lambda l2=l2: ours(acts, labels, l2) for l2 in penalties], 15)
    names = ("8 penalties, 1,000 to 0.3", "1,000 alone", "100 alone", "0.3 alone")
    rows = [
        [name, f"{show_ms(ms / len(acts))} ms", f"{times[0] / ms:.2f}"] for name, ms in zip(names, times, strict=True)
    ]
    print_table(f"A path, 899 x {acts.shape[2]}", ("penalties", "a cell", "the path takes times as long"), rows)


def growth() -> None:
    """Time as one size is doubled, and the exponent of its growth."""
    rows = []
    for size, values in DOUBLED.items():
        runs, shapes = [], [BASE | {size: value} for value in values]
        for shape in shapes:
            N, D, C, K = (shape[name] for name in "NDCK")
            acts, first = made(C, N, D, "real-like")
            labels = permute(first, K)
            for l2 in PENALTIES.values():
                strength = list_penalties(l2, D, N)[0]
                runs.append(lambda a=acts, y=labels, strength=strength: ours(a, y, strength))
        times = np.array(time_in_turns(runs)).reshape(len(values), -1)
        for i, value in enumerate(values):
            row = [f"{size} = {value:,}"]
            for ms, before in zip(times[i], times[i - 1] if i else (None, None), strict=True):
                row.append(f"{show_ms(ms)} ms")
                row.append(f"{ms / before:.2f}, {np.log2(ms / before):.2f}" if before else "")
            rows.append(row)
    heads = [head for name in PENALTIES for head in (name, "ratio, exponent")]
    print_table("Growth, from N = 1,000, D = 1,024, C = 4, K = 1", ("doubled", *heads), rows)


def first_fit(processes: int = 3) -> None:
    """Seconds of the first fit of a process, where compiled code is kept in an empty folder and in a filled one."""
    seconds: dict[str, list] = {"an empty folder": [], "a filled folder": []}
    for _ in range(processes):
        with tempfile.TemporaryDirectory() as folder:
            for name in seconds:
                command = [sys.executable, "-c", FIRST_FIT, folder]
                run = subprocess.run(
                    command, cwd=ROOT, capture_output=True, text=True, check=True, env=dict(os.environ)
                )
                seconds[name].append(json.loads(run.stdout))
    rows = [[name, *(f"{value:.2f} s" for value in np.min(all_, axis=0))] for name, all_ in seconds.items()]
    print_table("The first fit of a process, 899 x 576 bfloat16", ("compiled code", "clock", "processor time"), rows)


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", type=Path, help="an entry of the cache: cache/activations/KEY")
    activations = parser.parse_args().activations
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with threadpool_limits(1):
        first_fit()
        path(activations)
        growth()
        against_scikit_learn(activations)


if __name__ == "__main__":
    main()
