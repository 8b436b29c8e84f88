"""A sweep of eight jobs on a finished cache against eight runs one after another.

    python -m tests.benchmarks.bench_sweep

The embedded model, 300 questions, four layers, fifteen positions, eight penalties; all in processes of their own, as
people start them. Seconds of the whole command. Then what the second job of a sweep spends, under a profiler, which
slows it.
"""

import io
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.runs import TRAIN

PENALTIES = ["0.1", "1", "3", "10", "30", "100", "300", "1000"]
SETTINGS = ["dataset.limit=300", "site.layers=[0,2,4,6]", "trainer=cpu"]
PROFILED = """
import cProfile, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, {root!r})
import train
job = train.Job.__call__
def profiled(self, cfg):
    from hydra.core.hydra_config import HydraConfig
    if HydraConfig.get().job.num != 1:
        return job(self, cfg)
    profile = cProfile.Profile()
    try:
        return profile.runcall(job, self, cfg)
    finally:
        profile.dump_stats({stats!r})
train.Job.__call__ = profiled
train.main()
"""


def call(folder: Path, *arguments: str) -> float:
    """Seconds of a command."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - start


def main() -> None:
    """Print seconds of both, and the functions in which the second job of a sweep spends its time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call(folder, str(TRAIN), *SETTINGS)
        together = call(folder, str(TRAIN), "-m", *SETTINGS, f"probe.l2={','.join(PENALTIES)}")
        alone = sum(call(folder, str(TRAIN), *SETTINGS, f"probe.l2={one}") for one in PENALTIES)
        print(f"| a sweep of {len(PENALTIES)} jobs, s | as many runs, s | ratio |\n|---|---|---|")
        print(f"| {together:.1f} | {alone:.1f} | {alone / together:.1f} |")
        stats = str(folder / "stats")
        program = PROFILED.format(root=str(TRAIN.parent), stats=stats)
        call(folder, "-c", program, str(TRAIN), "-m", *SETTINGS, f"probe.l2={','.join(PENALTIES[:2])}")
        text = io.StringIO()
        pstats.Stats(stats, stream=text).sort_stats(pstats.SortKey.CUMULATIVE).print_stats(70)
        print("\nThe second job of a sweep, under a profiler:\n", text.getvalue().replace(str(TRAIN.parent) + "/", ""))


if __name__ == "__main__":
    main()
