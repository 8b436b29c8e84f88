"""The stream of cell blocks against plain reads of the same files, and its peak memory against its budget.

    python -m tests.benchmarks.bench_stream [gigabytes]

A cache of bfloat16 shards as a run leaves it, in a temporary folder, larger than the budget; the page cache is warm.
Rates are of the files' bytes, of which a split wants a part, best of several passes taken in turns. The plain program
reads every file into one reused buffer: as large as the stream's budget, as a file, or small enough for the processor's
cache. The last shows what the system can read; nobody can use bytes that the next read overwrites. A buffer of a file's
size may or may not lie in the processor's cache, from run to run.
Peak memory is that of a process which does nothing else, from the moment it has everything imported.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from datamodules.stream.blocks import CellBlocks, Examples
from datamodules.stream.memory import Budget
from datamodules.stream.store import Shards

N, T, D, SHARD = 1000, 15, 4096, 256
PASSES = 7
SPLITS = {"all rows": 1.0, "train rows (60%)": 0.6, "test rows (25%)": 0.25}


def write_cache(folder: Path, n_layers: int) -> None:
    """Layer files of random bfloat16."""
    numbers = np.random.default_rng(0).integers(0, 2**14, (T, SHARD, D), np.int16)
    acts = torch.from_numpy(numbers).view(torch.bfloat16)
    for layer in range(n_layers):
        (folder / f"layer={layer:02d}").mkdir()
        for shard, start in enumerate(range(0, N, SHARD)):
            h = acts[:, : min(SHARD, N - start)].contiguous()
            save_file({"h": h}, folder / f"layer={layer:02d}" / f"shard-{shard:05d}.safetensors")


def blocks(folder: Path, share: float, budget: int) -> CellBlocks:
    """The stream of a share of the rows, drawn as a split draws them."""
    store = Shards([sorted(layer.iterdir()) for layer in sorted(folder.iterdir())])
    rows = np.sort(np.random.default_rng(0).permutation(N)[: int(share * N)])
    n = len(rows)
    held, valid = torch.ones(1, n, dtype=torch.bool), torch.ones(n, T, dtype=torch.bool)
    examples = Examples(store, rows, torch.arange(n)[None] % 2, held, valid, torch.arange(n))
    return CellBlocks(examples, Budget(budget))


def stream(loader: CellBlocks) -> float:
    """Seconds to take every block and drop it."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def plain(files: list[Path], buffer: memoryview) -> float:
    """Seconds to read every file into one buffer, again and again where the file is larger."""
    start = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def peak_above_start(folder: Path, share: float, budget: int) -> int:
    """Bytes by which a process that streams outgrows itself after imports."""
    code = f"from tests.benchmarks.bench_stream import peak; peak({str(folder)!r}, {share}, {budget})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def peak(folder: str, share: float, budget: int) -> None:
    """Print it, in the process that is measured."""
    loader = blocks(Path(folder), share, budget)
    before = peak_memory()
    stream(loader)
    print(peak_memory() - before)


def peak_memory() -> int:
    """Bytes of memory this process has had at most. Linux's `ru_maxrss` starts from that of the parent process."""
    return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[0])


def main() -> None:
    """Measure and print the table."""
    n_layers = round(float(sys.argv[1] if len(sys.argv) > 1 else 1.5) * 1e9 / (2 * N * T * D))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cache(folder, n_layers)
        files = sorted(folder.rglob("*.safetensors"))
        total = sum(path.stat().st_size for path in files)
        budget = total // 8
        print(f"{total / 1e9:.2f} GB in {len(files)} files, N={N}, D={D}, bfloat16; budget {budget / 1e6:.0f} MB")
        loaders = {name: blocks(folder, share, budget) for name, share in SPLITS.items()}
        sizes = {"budget": budget, "file": max(path.stat().st_size for path in files), "2 MiB": 2**21}
        buffers = {f"plain readinto, {name}": memoryview(bytearray(size)) for name, size in sizes.items()}
        seconds: dict[str, list[float]] = {name: [] for name in [*buffers, *loaders]}
        for _ in range(PASSES):
            for name, buffer in buffers.items():
                seconds[name].append(plain(files, buffer))
            for name, loader in loaders.items():
                seconds[name].append(stream(loader))
        rate = {name: total / min(taken) / 1e9 for name, taken in seconds.items()}
        print(f"{'':24}{'GB/s':>8}{'of plain: budget':>18}{'file':>7}{'2 MiB':>7}{'peak MB':>9}{'of budget':>11}")
        for name, value in rate.items():
            line = f"{name:24}{value:8.2f}"
            if name in SPLITS:
                grown = peak_above_start(folder, SPLITS[name], budget)
                against = [value / rate[plainly] for plainly in buffers]
                line += "{:18.2f}{:7.2f}{:7.2f}".format(*against) + f"{grown / 1e6:9.0f}{grown / budget:11.2f}"
            print(line)


if __name__ == "__main__":
    main()
