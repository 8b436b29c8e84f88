"""What capture adds to a forward, and what it saves against keeping everything of one example at a time.

    python -m tests.benchmarks.bench_capture

The model has random weights: on a CPU 32 layers of width 256, on a GPU also one of the shape of a 7B Llama. The forward
alone is the same batch through the same blocks, without the head. The reference is what the study's code does: one
example at a time, the output of every layer for every token brought to the CPU, the wanted tokens taken there. Runs are
interleaved; times are medians. Peak memory is that of a process of its own on the CPU, and of the device on a GPU.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from datamodules.language.capture import capture
from datamodules.language.site_names import SITES
from datamodules.language.sites import find_blocks, get_decoder

LAYERS, POSITIONS, BATCH = 32, 15, 16
Sizes = dict[str, Any]
SMALL: Sizes = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
SEVEN: Sizes = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def made(sizes: Sizes, device: str, layers: int = LAYERS) -> PreTrainedModel:
    """A Llama with random weights."""
    config = LlamaConfig(num_hidden_layers=layers, vocab_size=32000, **sizes)
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    return model.eval().requires_grad_(False)


def sequences(n: int) -> list[list[int]]:
    """n sequences of 100 to 200 tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(100, 201, (n,), generator=generator).tolist()
    return [torch.randint(3, 32000, (length,), generator=generator).tolist() for length in lengths]


def wanted(batch: list[list[int]]) -> torch.Tensor:
    """Fifteen tokens of each sequence, its last ones; [n, 15, 2]."""
    at = torch.tensor([[len(ids) - POSITIONS + t for t in range(POSITIONS)] for ids in batch])
    return at[..., None].repeat(1, 1, 2)


@torch.inference_mode()
def forward_only(model: PreTrainedModel, batch: list[list[int]]) -> None:
    """The batched forward that capture makes, and nothing else."""
    width = max(map(len, batch))
    ids, mask = torch.zeros(2, len(batch), width, dtype=torch.long)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    get_decoder(model)(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)


@torch.inference_mode()
def one_at_a_time(model: PreTrainedModel, batch: list[list[int]]) -> torch.Tensor:
    """Every token of every layer's MLP output of one example after another, brought to the CPU; then those wanted."""
    result = []
    for sequence, tokens in zip(batch, wanted(batch), strict=True):
        kept: list[torch.Tensor] = []
        hooks = [
            block.get_submodule("mlp").register_forward_hook(lambda _, __, output: kept.append(output[0].cpu()))  # noqa: B023
            for block in find_blocks(model)
        ]
        model(torch.tensor([sequence], device=model.device))
        for hook in hooks:
            hook.remove()
        result.append(torch.stack(kept)[:, tokens[:, 0]])
    return torch.stack(result)


def timed(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, in turns, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def peak(way: str) -> float:
    """Megabytes that a process of its own holds more after capturing 64 examples this way than before."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_capture", way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def only(way: str) -> None:
    """Print the growth of this process's peak memory while it captures."""
    model, batch = made(SMALL, "cpu"), sequences(64)
    forward_only(model, batch[:1])
    Path("/proc/self/clear_refs").write_text("5")  # the highest size so far is that of now
    before = held("VmRSS")
    if way == "batched":
        for start in range(0, len(batch), BATCH):
            part = batch[start : start + BATCH]
            capture(model, part, wanted(part), ["mlp_out"], range(LAYERS))
    else:
        one_at_a_time(model, batch)
    print(held("VmHWM") - before)


def held(what: str) -> float:
    """Megabytes of this process by the kernel's account: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def measure(console: Console, sizes: Sizes, device: str, repeats: int) -> None:
    """Print the table of one model."""
    model, batch = made(sizes, device), sequences(BATCH)
    tokens = wanted(batch)
    runs: dict[str, Callable[[], object]] = {
        "forward alone": lambda: forward_only(model, batch),
        "1 site": lambda: capture(model, batch, tokens, ["mlp_out"], range(LAYERS)),
        "6 sites": lambda: capture(model, batch, tokens, SITES, range(LAYERS)),
        "one at a time, every token": lambda: one_at_a_time(model, batch),
    }
    taken = timed(runs, repeats)
    table = Table(
        title=f"{device}, width {sizes['hidden_size']}, {BATCH} x 100 to 200 tokens", title_justify="left", box=None
    )
    for column in ("", "time", "of the forward", "asked"):
        table.add_column(column, justify="left" if not column else "right")
    asked = {"1 site": "at most 1.03", "6 sites": "at most 1.10"}
    for name, seconds in taken.items():
        share = seconds / taken["forward alone"]
        table.add_row(name, f"{1e3 * seconds:.0f} ms", f"{share:.3f}", asked.get(name, ""))
    console.print(table)
    faster = taken["one at a time, every token"] / taken["1 site"]
    console.print(f"1 site, batched, against one at a time: {faster:.2f} times faster\n")
    if device == "cuda":
        tokens_in = len(batch) * max(map(len, batch))
        flops = 2 * sum(p.numel() for p in get_decoder(model).parameters()) * tokens_in
        a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
        ceiling = 2 * 8192**3 / timed({"": lambda: a @ a}, 10)[""]
        console.print(
            f"{flops / taken['1 site'] / ceiling:.2f} of the measured matrix ceiling, {ceiling / 1e12:.0f} TFLOP/s"
        )
        torch.cuda.reset_peak_memory_stats()
        runs["1 site"]()
        console.print(f"peak device memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB\n")


def main() -> None:
    """Print every table."""
    console = Console(width=130)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    measure(console, SMALL, "cpu", 9)
    batched, single = peak("batched"), peak("single")
    console.print(
        f"peak memory over the model's, 64 examples: {batched:.0f} MB batched, {single:.0f} MB one at a time\n"
    )
    if torch.cuda.is_available():
        measure(console, SMALL, "cuda", 9)
        measure(console, SEVEN, "cuda", 9)


if __name__ == "__main__":
    only(sys.argv[1]) if len(sys.argv) > 1 else main()
