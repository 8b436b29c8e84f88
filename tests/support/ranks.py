"""A small grid that several ranks share, and the processes of a run."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_activations(path: Path, broken: bool = False) -> list[str]:
    """Write 300 random examples of 2 layers and 3 positions, the label in one direction of layer 1.

    Args:
        path: of the file.
        broken: make an activation of the last cell infinite.

    Returns:
        Overrides for a run on them.
    """
    generator = torch.Generator().manual_seed(0)
    acts, labels = torch.randn(300, 2, 3, 8, generator=generator), torch.arange(300) % 2
    acts[:, 1, :, 0] += labels[:, None]
    if broken:
        acts[:, 1, 2, 3] = torch.inf
    save_file({"acts": acts, "labels": labels}, path)
    return ["datamodule=precomputed", f"datamodule.path={path}"]


def find_children(pid: int) -> list[int]:
    """The processes that a process has started and that still run, in the order of their start."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return sorted(int(line.split()[0]) for line in found.splitlines() if "Z" not in line.split()[1])


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    stat = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(stat.strip()) and "Z" not in stat


def wait_until(condition: Callable[[], object], seconds: float = 100) -> bool:
    """Wait until a condition holds; returns whether it did in time."""
    end = time.monotonic() + seconds
    while not (holds := bool(condition())) and time.monotonic() < end:
        time.sleep(0.05)
    return holds
