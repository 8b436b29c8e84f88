"""Puts the tables of the GPU benchmarks into docs/benchmarks.md, each between two markers."""

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.support.places import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"


def write_part(
    name: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    machine: str | None = None,
    page: Path = PAGE,
) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->`; the rest of the page stays.

    Args:
        name: of the benchmark, as the markers have it.
        columns: heads of the table.
        rows: its cells.
        notes: lines below it.
        machine: where it was measured; by default the first CUDA device, with the versions of torch and CUDA.
        page: the page.

    Raises:
        ValueError: the page lacks the markers.
    """
    start, end, text = f"<!-- {name} -->\n", f"<!-- /{name} -->\n", page.read_text()
    before, found, rest = text.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{page}: expected a line {start.strip()} and a line {end.strip()} below it, got none")
    table = ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
    parts = [[f"`python -m tests.benchmarks.{name}` on {machine or describe_machine()}:"], table, [*notes]]
    content = "\n\n".join("\n".join(lines) for lines in parts if lines)
    page.write_text(f"{before}{start}\n{content}\n\n{end}{after}")


def describe_machine() -> str:
    """The first CUDA device, its memory, and the versions that matter."""
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return (
        f"one {torch.cuda.get_device_name(0)} ({memory:.0f} GiB), torch {torch.__version__} with CUDA "
        f"{torch.version.cuda}, Python {platform.python_version()}"
    )
