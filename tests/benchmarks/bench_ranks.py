"""Two ranks against one: seconds of capture and of fit, from the summaries of whole runs on the embedded model."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.places import ROOT

STAGES = ("activations", "fit and validation", "test")
WAYS = {
    "1 rank, 1 thread": (["trainer=cpu"], 1),
    "1 rank, 2 threads": (["trainer=cpu"], 2),
    "2 ranks, 1 thread each": (["trainer=ddp_cpu"], 1),
}
ROUNDS = 2


def main() -> None:
    """Print the table: the least of a few rounds, each way in turn, as other work on the machine disturbs all alike."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(folder, "answers", ["site=resid_pre", "experiment=cache_only"], 2)  # shared by all that follow
        answers = folder / "answers" / "cache"
        rounds = [
            {
                way: _run(folder, f"{n}, {way}", overrides, threads, answers)
                for way, (overrides, threads) in WAYS.items()
            }
            for n in range(ROUNDS)
        ]
        tables = {path.read_bytes() for path in folder.glob("*/run/heatmap.csv")}
    least = {way: {stage: min(one[way][stage] for one in rounds) for stage in STAGES} for way in WAYS}
    base = least["1 rank, 1 thread"]
    print(f"| demo_facts, 8 x 15 cells | {' | '.join(STAGES)} |")
    print("|---|---|---|---|")
    for way, seconds in least.items():
        cells = (f"{seconds[stage]:.1f} s, {base[stage] / seconds[stage]:.2f} times as fast" for stage in STAGES)
        print(f"| {way} | {' | '.join(cells)} |")
    print(f"\n{len(tables)} different heatmap.csv; load of the machine at the end: {os.getloadavg()[0]:.1f}")


def _run(folder: Path, name: str, overrides: list[str], threads: int, answers: Path | None = None) -> dict[str, float]:
    """Run on a cache of its own that holds the answers, if any; returns the seconds of each stage."""
    own = folder / name
    own.mkdir()
    if answers is not None:
        shutil.copytree(answers / "answers", own / "cache" / "answers")
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), f"hydra.run.dir='{own}/run'", f"cache.root='{own}/cache'", *overrides],
        check=True,
        cwd=own,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
    )
    summary = own / "run" / "summary.json"
    return json.loads(summary.read_text())["seconds"] if summary.exists() else {}


if __name__ == "__main__":
    main()
