"""Writes a table that was measured on a GPU into its place in docs/benchmarks.md; the text around it stays."""

from collections.abc import Sequence
from pathlib import Path

import torch

from tests.support.places import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"


def write_table(
    command: str, columns: Sequence[str], rows: Sequence[Sequence[str]], foot: str = "", page: Path = PAGE
) -> None:
    """Replace what stands between the two marks of a benchmark by its table, with the device and torch's version.

    Args:
        command: module that measured it, such as `bench_gpu`, which names the marks.
        columns: heads of the columns.
        rows: cells of each row.
        foot: a line below.
        page: the page.

    Raises:
        ValueError: the page lacks a mark.
    """
    begin, end = f"<!-- {command}: begin -->", f"<!-- {command}: end -->"
    text = page.read_text()
    if not 0 <= text.find(begin) < text.find(end):
        raise ValueError(f"{page}: expected the marks {begin} and {end}, got none, or not in this order; write them")
    device = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    parts = [f"`python -m tests.benchmarks.{command}`, {device}torch {torch.__version__}:", table, foot]
    before, after = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    page.write_text("\n\n".join([before, *filter(None, parts), after]))
