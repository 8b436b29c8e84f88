"""Five splits of a label set in one run against one split, through the Trainer.

    python -m tests.benchmarks.bench_targets

Random activations with a little signal, as bfloat16 in one file; a run is a fit, its validation and the test, with the
scores kept. Times are the best of three, taken in turns; bytes are those of scores.safetensors.
"""

import logging
import tempfile
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from datamodules.precomputed import PrecomputedDataModule
from datamodules.split import GroupSplit
from probes.grids.logistic import LogisticGrid
from probes.report.record import ScoreRecord
from tests.support.trainers import quiet_trainer

SIZES = {"2,000 examples x 24 cells x 128": (2000, 6, 4, 128), "1,500 x 12 x 576": (1500, 6, 2, 576)}
SIZES |= {"1,000 x 4 x 4,096": (1000, 2, 2, 4096)}
SETTINGS = {"raw columns, l2 = 1": {"standardize": False, "l2": 1.0}, "standardised, l2 = 100": {"l2": 100.0}}
SEEDS = [0, 5, 26, 42, 63]
PASSES = 3


def write(path: Path, N: int, L: int, T: int, D: int) -> None:
    """Activations and labels, as `PrecomputedDataModule` reads them."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (N,), generator=rng)
    acts = torch.randn(N, L, T, D, generator=rng) + 0.1 * labels[:, None, None, None]
    save_file({"acts": acts.bfloat16(), "labels": labels}, path)


def run(path: Path, folder: Path, seed: int | list[int], settings: dict) -> float:
    """Seconds of a run."""
    data = PrecomputedDataModule(str(path), GroupSplit(seed=seed), folder)
    trainer, grid = quiet_trainer(folder, callbacks=[ScoreRecord(folder)]), LogisticGrid(**settings)
    start = time.perf_counter()
    trainer.fit(grid, data)
    trainer.test(grid, data, verbose=False)
    return time.perf_counter() - start


def main() -> None:
    """Print a line for each size and setting."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print("| data | probe | one split, s | five splits, s | ratio | scores of five, MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size, shape in SIZES.items():
            write(folder / "acts.safetensors", *shape)
            for setting, settings in SETTINGS.items():
                times: dict[str, list[float]] = {"one": [], "five": []}
                for _ in range(PASSES):
                    for many, seed in (("one", SEEDS[0]), ("five", SEEDS)):
                        times[many].append(run(folder / "acts.safetensors", folder / many, seed, settings))
                one, five = min(times["one"]), min(times["five"])
                megabytes = (folder / "five" / "scores.safetensors").stat().st_size / 1e6
                print(f"| {size} | {setting} | {one:.2f} | {five:.2f} | {five / one:.1f} | {megabytes:.1f} |")


if __name__ == "__main__":
    main()
