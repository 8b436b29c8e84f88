"""On a GPU: the whole grid of 32 layers and 15 positions, streamed and solved, against what the device can do.

    python -m tests.benchmarks.bench_gpu

Cells are bfloat16 with 1,000 rows of width 4,096, flat and steep as in `bench_solver`; every layer is the same cells.
The stream is measured from the page cache against copies of one pinned buffer, the solver with the activations on the
device already, by the operations of its Gram matrices against a float32 product. The table goes to docs/benchmarks.md
too. Without a GPU it says so and ends; `--small` runs it in miniature on whatever there is and writes nothing.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from datamodules.stream.blocks import CellBlocks, Examples
from datamodules.stream.memory import Budget
from datamodules.stream.store import Shards
from probes import fit_logistic
from tests.benchmarks.bench_solver import made
from tests.benchmarks.gpu_page import write_table

SHARD = 256  # rows of a file, as the cache has them


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Best time of a call, after one that is not counted; the device has finished what it was given."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        synchronise()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def synchronise() -> None:
    """Wait for the device, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write_cache(folder: Path, acts: Tensor, L: int) -> None:
    """Layers that are all the cells `acts` [T, N, D], in files as a run leaves them."""
    for layer in range(L):
        (folder / f"layer={layer:02d}").mkdir()
        for shard, start in enumerate(range(0, acts.shape[1], SHARD)):
            h = acts[:, start : start + SHARD].contiguous()
            save_file({"h": h}, folder / f"layer={layer:02d}" / f"shard-{shard:05d}.safetensors")


def solving(acts: Tensor, labels: Tensor, device: torch.device, L: int) -> tuple[float, int]:
    """Seconds to solve L layers of the cells `acts` [T, n, D] that lie on the device, and how many converged."""
    grid, labels = acts.to(device).repeat(L, 1, 1), labels.to(device)
    converged = int(fit_logistic(grid, labels).converged.sum())
    return seconds(lambda: fit_logistic(grid, labels), 2), converged


def measure(
    console: Console, device: torch.device, L: int, T: int, N: int, D: int
) -> tuple[list[str], list[list[str]], str]:
    """Print the table of one grid; returns its columns, its rows and the line below."""
    pinned = torch.empty(2**28 if device.type == "cuda" else 2**24, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty_like(pinned, device=device)
    copy = pinned.numel() / seconds(lambda: target.copy_(pinned, non_blocking=True))
    square = torch.randn(min(8192, 2 * D), min(8192, 2 * D), device=device)
    matrix = 2 * len(square) ** 3 / seconds(lambda: square @ square)
    console.print(f"pinned copy {copy / 1e9:.1f} GB/s, float32 product {matrix / 1e12:.2f} TFLOP/s")
    table = Table(title=f"{L} x {T} cells, N={N}, D={D}", title_justify="left", box=None)
    columns = ["cells", "stream", "of pinned copy", "solve", "of float32 product", "both", "device memory", "note"]
    rows_said = []
    for column in columns:
        table.add_column(column, justify="left" if column in ("cells", "note") else "right")
    for kind in ("flat", "steep"):
        with tempfile.TemporaryDirectory() as name:
            acts, labels = made(T, N, D, kind)
            write_cache(Path(name), acts, L)
            n = N * 4 // 5
            rows, valid = np.arange(n), torch.ones(n, T, dtype=torch.bool)
            store = Shards([sorted(layer.iterdir()) for layer in sorted(Path(name).iterdir())])
            # One label set for all: that of the first position's cells.
            held = torch.ones(1, n, dtype=torch.bool)
            examples = Examples(store, rows, labels[:1, :n], held, valid, torch.arange(n), device)
            blocks = CellBlocks(examples, Budget(None))

            def stream(blocks: CellBlocks = blocks) -> None:
                for _ in blocks:
                    pass

            streamed = seconds(stream, 3)
            solved, converged = solving(acts[:, :n], labels[0, :n], device, L)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()

            def both(blocks: CellBlocks = blocks) -> None:
                for block in blocks:
                    fit_logistic(block["acts"], block["labels"], block["valid"])

            whole = seconds(both, 2)
            peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
            bytes_read = 2 * L * T * n * D
            gram = 2 * L * T * n**2 * D
            said = [
                kind, f"{streamed:.2f} s", f"{bytes_read / streamed / copy:.2f}", f"{solved:.2f} s",
                f"{gram / solved / matrix:.2f}", f"{whole:.2f} s", f"{peak:.1f} GiB",
                f"{converged} of {L * T} converged",
            ]  # fmt: skip
            table.add_row(*said)
            rows_said.append(said)
    console.print(table)
    console.print("asked for: solved in 1 s, streamed at .80 of the pinned copy")
    sizes = f"{L} x {T} cells, N={N}, D={D}"
    return (
        columns,
        rows_said,
        f"{sizes}; pinned copy {copy / 1e9:.1f} GB/s, float32 product {matrix / 1e12:.2f} TFLOP/s.",
    )


def main() -> None:
    """Print the table, or why there is none; `--small` runs it in miniature on whatever there is."""
    console = Console(width=140)
    if "--small" in sys.argv:
        measure(console, torch.device("cuda" if torch.cuda.is_available() else "cpu"), 2, 3, 600, 768)
    elif torch.cuda.is_available():
        console.print(torch.cuda.get_device_name())
        write_table("bench_gpu", *measure(console, torch.device("cuda"), 32, 15, 1000, 4096))
    else:
        console.print("no GPU here: nothing measured on one")


if __name__ == "__main__":
    main()
