"""The solver against other tools that fit linear probes on activations: lmprobe, probelab and probekit.

    pip install lmprobe probelab probekit
    python -m tests.benchmarks.bench_peers [--activations FOLDER]

None of them is a dependency; one that is not installed is left out. All are given the objective of `fit_logistic`, with
l2 = 100 on standardised columns. Cells and FOLDER are those of bench_solver. A tool that takes several cells gets all
at once, others one a call. Each gets the rows in the dtype that it works in, converted before the clock starts.

One thread; all tools and settings take turns; times are the least of all turns, in milliseconds of processor time a
cell. *Above* is how far the objective ends above the optimum, relative, at most over the cells; the optimum is that of
a float64 fit with the least tolerance.
"""

import argparse
import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from probes import fit_logistic
from tests.benchmarks.bench_solver import L2, load, made, objective, print_table, show_ms, standardised, time_in_turns

CELLS = (  # rows, columns, kind, cells, turns
    (899, 576, "real-like", 8, 7),
    (480, 256, "real-like", 8, 7),
    (1600, 4096, "steep", 2, 3),
)
EQUAL = 1e-10  # what ends at most this far above the optimum, or no further than ours, is as good
TOOLS = ("lmprobe", "probelab", "probekit")


class Way(NamedTuple):
    """A tool with its settings: how it fits a grid, and how the probe of a cell is read."""

    tool: str
    settings: str
    dtype: torch.dtype  # of the rows it gets
    fit: Callable[[Tensor, Tensor], Any]  # rows [C, N, D] and labels [C, N]
    read: Callable[[Any, int], tuple[NDArray, float]]  # weight [D] on unscaled columns, and bias


class Outcome(NamedTuple):
    """What a way reached on one grid."""

    way: Way
    ms: float  # a cell
    above: float


def unscale(weight: Any, bias: Any, mean: Any, deviation: Any) -> tuple[NDArray, float]:
    """Weight [D] and bias on columns as they are, float64, from those on scaled columns."""
    weight, bias, mean, deviation = (np.asarray(value, np.float64) for value in (weight, bias, mean, deviation))
    weight = weight / deviation
    return weight, float(bias - weight @ mean)


def ways_of_ours() -> Iterator[Way]:
    """The solver on rows as they are stored, and on float32 ones."""
    fit = lambda acts, labels: fit_logistic(acts, labels, l2=L2, standardize=True)  # noqa: E731
    for dtype in (torch.bfloat16, torch.float32):
        yield Way("ours", str(dtype).removeprefix("torch."), dtype, fit, read_ours)


def read_ours(fit: Any, c: int) -> tuple[NDArray, float]:
    """Weight [D] and bias of a cell."""
    return fit.weight[c].double().numpy(), float(fit.bias[c])


def ways_of_lmprobe() -> Iterator[Way]:
    """It scales the columns and calls scikit-learn, one cell a call; tensors become float32, so it gets arrays."""
    tool = importlib.import_module("lmprobe")

    def way(settings: str, dtype: torch.dtype, **more: Any) -> Way:
        def fit(acts: Tensor, labels: Tensor) -> list:
            cells = zip(acts.numpy(), labels.numpy(), strict=True)
            return [tool.Probe(classifier_kwargs={"C": 1 / L2, **more}).fit_from_activations(*cell) for cell in cells]

        return Way("lmprobe", settings, dtype, fit, read)

    def read(fits: list, c: int) -> tuple[NDArray, float]:
        scaler, model = fits[c].scaler_, fits[c].classifier_
        return unscale(model.coef_[0], np.ravel(model.intercept_)[0], scaler.mean_, scaler.scale_)

    yield way("as it comes", torch.float32)
    yield way("newton-cg, tol = 5e-7", torch.float32, solver="newton-cg", tol=5e-7)
    yield way("float64, tol = 1e-7", torch.float64, tol=1e-7)


def ways_of_probelab() -> Iterator[Way]:
    """L-BFGS of torch, one cell a call; its tolerances cannot be set."""
    tool = importlib.import_module("probelab")

    def fit(acts: Tensor, labels: Tensor) -> list:
        cells = zip(acts, labels, strict=True)
        return [tool.probes.Logistic(C=1 / L2, seed=0).fit(tool.Activations(x, dims="bh"), y) for x, y in cells]

    def read(fits: list, c: int) -> tuple[NDArray, float]:
        linear = fits[c].linear
        return unscale(linear.weight[0].detach(), linear.bias[0].detach(), fits[c].scaler_mean, fits[c].scaler_std)

    yield Way("probelab", "as it comes", torch.float32, fit, read)
    yield Way("probelab", "float64", torch.float64, fit, read)


def ways_of_probekit() -> Iterator[Way]:
    """Newton steps of all cells at once, with a dense Hessian if it is small; or scikit-learn, one cell after another.

    The Newton steps scale columns by the sample deviation, so their penalty is made that of the population's.
    """
    tool = importlib.import_module("probekit")

    def way(settings: str, alone: bool = False, **more: Any) -> Way:
        def fit(acts: Tensor, labels: Tensor) -> Any:
            N = acts.shape[1]
            more["c_param"] = 1 / L2 if "backend" in more else N / (N - 1) / L2
            if alone:
                return [tool.logistic_probe(*cell, **more) for cell in zip(acts, labels, strict=True)]
            return tool.logistic_probe(acts, labels, **more)

        return Way("probekit", settings, torch.float32, fit, read)

    def read(fits: Any, c: int) -> tuple[NDArray, float]:
        probe = fits[c]
        return unscale(probe.weights, probe.bias, probe.normalization.mean, probe.normalization.std)

    yield way("as it comes")
    yield way("tol = 1e-3, cg_tol = 1e-6", tol=1e-3, cg_tol=1e-6)
    yield way("the same, one cell a call", alone=True, tol=1e-3, cg_tol=1e-6)
    yield way("scikit-learn", backend="sklearn", cv_folds=None)
    yield way("scikit-learn, newton-cg, tol = 5e-7", backend="sklearn", cv_folds=None, solver="newton-cg", tol=5e-7)


def list_ways() -> list[Way]:
    """Every way of ours and of the tools that are installed; a line for each that is not."""
    ways = list(ways_of_ours())
    for tool, ways_of_it in zip(TOOLS, (ways_of_lmprobe, ways_of_probelab, ways_of_probekit), strict=True):
        try:
            ways += ways_of_it()
        except ModuleNotFoundError as error:
            if error.name != tool:
                raise
            print(f"{tool} is not installed: pip install {tool}")
    return ways


def compare(acts: Tensor, labels: Tensor, ways: list[Way], turns: int) -> list[Outcome]:
    """Time of each way on cells [C, N, D] with labels [C, N], and how far above the optimum it ends."""
    rows = {dtype: acts.to(dtype) for dtype in {way.dtype for way in ways} | {torch.float64}}
    times = time_in_turns([lambda way=way: way.fit(rows[way.dtype], labels) for way in ways], turns)
    best = fit_logistic(rows[torch.float64], labels, l2=L2, tol=1e-12, standardize=True)
    above = np.full((len(ways), len(acts)), np.nan)
    fits = [way.fit(rows[way.dtype], labels) for way in ways]
    for c, cell in enumerate(rows[torch.float64].numpy()):
        X, deviation, mean = standardised(acts[c]), cell.std(0), cell.mean(0)
        probes = [read_ours(best, c), *(way.read(fit, c) for way, fit in zip(ways, fits, strict=True))]
        optimum, *ends = (objective(X, labels[c], w * deviation, b + float(w @ mean)) for w, b in probes)
        above[:, c] = np.array(ends) / optimum - 1
    return [
        Outcome(way, ms / len(acts), max(high, 1e-16)) for way, ms, high in zip(ways, times, above.max(1), strict=True)
    ]


def find_fastest(outcomes: list[Outcome], above: float) -> Outcome | None:
    """The fastest way of another tool that ends at most this far above the optimum."""
    good = [outcome for outcome in outcomes if outcome.way.tool != "ours" and outcome.above <= above]
    return min(good, key=lambda outcome: outcome.ms, default=None)


def print_tables(results: dict[str, list[Outcome]]) -> None:
    """Every way on every grid; then the fastest of the others, as good as ours and at all."""
    names, all_outcomes = list(results), list(results.values())
    rows = []
    for outcomes in zip(*all_outcomes, strict=True):
        way = outcomes[0].way
        rows.append([way.tool, way.settings])
        for outcome in outcomes:
            rows[-1] += [show_ms(outcome.ms), f"{outcome.above:.0e}"]
    heads = [head for name in names for head in (name, "above")]
    print_table("Against other tools, ms a cell, standardised, l2 = 100", ("tool", "settings", *heads), rows)
    rows = []
    for name, outcomes in results.items():
        stored, wide = outcomes[:2]
        for objective_, limit in (("as good", max(EQUAL, stored.above, wide.above)), ("any", np.inf)):
            fastest = find_fastest(outcomes, limit)
            if fastest is None:
                rows.append([name, objective_, "none", *[""] * 4])
                continue
            ratios = [f"{fastest.ms / ours.ms:.1f}" for ours in (stored, wide)]
            tool = f"{fastest.way.tool}, {fastest.way.settings}"
            rows.append([name, objective_, tool, f"{show_ms(fastest.ms)} ms", f"{fastest.above:.0e}", *ratios])
    columns = ("cell", "objective", "the fastest other", "time", "above", "ours faster", "ours in float32")
    print_table("The fastest of the others", columns, rows)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", type=Path, help="an entry of the cache: cache/activations/KEY")
    activations = parser.parse_args().activations
    torch.set_num_threads(1)
    ways, results = list_ways(), {}
    tools = sorted({way.tool for way in ways} - {"ours"})
    if not tools:
        return
    versions = ", ".join(f"{tool} {version(tool)}" for tool in ("torch", "scikit-learn", *tools))
    print(f"{versions}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for N, D, kind, C, turns in CELLS:
            real = activations is not None and (N, kind) == (899, "real-like")
            acts, labels = load(activations) if real and activations else made(C, N, D, kind)
            name = f"{N:,} x {acts.shape[2]:,} {'real' if real else kind}"
            results[name] = compare(acts, labels, ways, turns)
        print_tables(results)


if __name__ == "__main__":
    main()
