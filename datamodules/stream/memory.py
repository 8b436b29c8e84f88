"""How much memory there is, and how large a block may be."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from datamodules.stream.read_ahead import count_copies, count_readers

log = logging.getLogger(__name__)

SHARE = 0.25  # share of the free memory that the stream may use, where no budget is given
DEVICE_SHARE = 1 / 16  # share of a GPU's free memory for one block: three exist at once, and the solver makes copies
ENOUGH_FOR_GPU = 2**28  # bytes of a block where no budget is given: larger ones make the first wait longer
LIMITS_V2 = "memory.max", "memory.current"
LIMITS_V1 = "memory.limit_in_bytes", "memory.usage_in_bytes"


@dataclass
class Budget:
    """Bytes for everything that a stream keeps in the memory of this machine.

    Attributes:
        given: the budget of this process; a share of the free memory where None.
        n_processes: how many share this machine's memory.
        quiet: do not log (all ranks except the first).

    Example:
        >>> Budget(given=3_000).block(least=100, enough=500, scratch=0, device=torch.device("cpu"), what="a cell")
        500
    """

    given: int | None = None
    n_processes: int = 1
    quiet: bool = False

    def __post_init__(self) -> None:
        self._said: set[str] = set()

    def block(self, least: int, enough: int, scratch: int, device: torch.device, what: str) -> int:
        """Return how many bytes a block may have.

        Warns, once for each `what`, if the budget is smaller than `least` needs, or the GPU too small for the budget.

        Args:
            least: bytes of the smallest possible block, which is always allowed.
            enough: bytes beyond which reading gets no faster; on a GPU more may be solved at once.
            scratch: bytes that each reading thread holds.
            device: where the blocks are used.
            what: the smallest possible block in words.
        """
        alive, scratch = count_copies(device), scratch * count_readers(device)
        whole = self.given or int(measure_free_memory() * SHARE / self.n_processes)
        size = (whole - scratch) // alive
        if size < least:
            needed = alive * least + scratch
            self._warn(
                what,
                f"datamodule.block_bytes: expected at least {needed:,} bytes, {alive} times {what} and what reads it, "
                f"got {whole:,}; going on with {needed:,}",
            )
        if device.type != "cuda":
            return max(least, min(size, enough))
        if self.given is None:
            size = min(size, max(enough, ENOUGH_FOR_GPU))
        most = int(measure_free_device_memory(device) * DEVICE_SHARE)
        if self.given and size > most:
            self._warn(
                what,
                f"datamodule.block_bytes: expected blocks of at most {most:,} bytes, a sixteenth of what is free on "
                f"{device}, got {size:,}; going on with smaller ones",
            )
        return max(least, min(size, most))

    def _warn(self, what: str, line: str) -> None:
        if not self.quiet and what not in self._said:
            log.warning(line)
        self._said.add(what)


def measure_free_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process can use without swapping, by the system and by its control group.

    Args:
        root: where `proc` and `sys` are mounted.

    Example:
        >>> measure_free_memory() > 0
        True
    """
    try:
        available = re.search(r"^MemAvailable: +(\d+) kB$", (root / "proc/meminfo").read_text(), re.M)
    except OSError:
        available = None
    if available is None:  # not Linux: all installed memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([1024 * int(available[1]), *_measure_control_groups(root)])


def measure_free_device_memory(device: torch.device) -> int:
    """Bytes free on a GPU."""
    return torch.cuda.mem_get_info(device)[0]


def _measure_control_groups(root: Path) -> Iterator[int]:
    """Yield the bytes left in each control group of this process, page cache not counted; versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        limit, usage = LIMITS_V1 if controllers else LIMITS_V2
        # In a container the path may be that of the host, which does not exist here; the mount is then the container.
        inner = mount / path.lstrip("/")
        for folder in [inner, *inner.parents][: len(inner.relative_to(mount).parts) + 1]:
            with suppress(OSError, ValueError):  # a limit of "max" is none
                cached = re.findall(r"^(?:in)?active_file (\d+)$", (folder / "memory.stat").read_text(), re.M)
                used = int((folder / usage).read_text()) - sum(map(int, cached))
                yield max(0, int((folder / limit).read_text()) - used)
