"""Which GPU a job has, where several jobs of a sweep run on one machine."""

import fcntl
import os
from pathlib import Path
from typing import IO

GPUS = "PROBEGRID_GPUS"  # those to share, with commas; set by `Sweep` for the processes that a launcher starts
LOCKS = "PROBEGRID_GPU_LOCKS"  # a folder
_held: list[IO[str]] = []  # a lock lasts as long as its process


def list_gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def count_jobs_at_once() -> int:
    """What `${jobs_at_once:}` stands for: as many as there are GPUs, two on a CPU."""
    return len(list_gpus()) or 2


def check_jobs_at_once(n_jobs: int, n_gpus: int) -> None:
    """Hold the number of jobs at once against the number of GPUs, as each job gets one.

    Raises:
        ValueError: there are more jobs than GPUs.
    """
    if not 0 < n_jobs <= n_gpus:
        raise ValueError(
            f"hydra.launcher.n_jobs: expected at most as many jobs at once as GPUs, got {n_jobs} for {n_gpus}; set "
            f"hydra.launcher.n_jobs={n_gpus}"
        )


def take_gpu() -> str | None:
    """Take a GPU that no other process of the sweep has, for all jobs of this process; it sees no other.

    Returns:
        Its name; None where GPUs are not shared, or all are taken.
    """
    names = [name for name in os.environ.get(GPUS, "").split(",") if name]
    if not names or _held:
        return os.environ.get("CUDA_VISIBLE_DEVICES") if _held else None
    for number, name in enumerate(names):
        lock = Path(os.environ[LOCKS], f".gpu-{number}.lock").open("w")  # noqa: SIM115 - held to the end of the process
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _held.append(lock)
        os.environ["CUDA_VISIBLE_DEVICES"] = name
        return name
    raise ValueError(
        f"hydra.launcher.n_jobs: expected at most as many jobs at once as GPUs, got more than {len(names)}; set "
        f"hydra.launcher.n_jobs={len(names)}"
    )
