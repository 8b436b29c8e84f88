"""The record of a finished run, read back from its folder."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from probes.analysis.scores import Scores, load_scores

EXAMPLES = "examples.parquet"
SUMMARY = "summary.json"


class Record(NamedTuple):
    """What a run left: its scores, its examples, and its summary.

    Attributes:
        folder: of the run.
        scores: of every validation and test example.
        examples: the table of all N examples; `scores.examples` are its row numbers.
        summary: the content of summary.json; empty where there is none.
    """

    folder: Path
    scores: Scores
    examples: pd.DataFrame
    summary: dict[str, Any]


def read_record(run: str | Path) -> Record:
    """Read the record of a run folder.

    >>> read_record("outputs/latest").examples["question"]  # doctest: +SKIP

    Raises:
        FileNotFoundError: the folder has no scores or no examples.
        ValueError: one of the files is none of a run, or they belong to different runs.
    """
    if not isinstance(run, str | Path):
        raise ValueError(f"run: expected the folder of a finished run, got {run}; name one, as outputs/latest")
    folder = Path(run).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"run: expected the folder of a finished run, got {folder}; name one, as outputs/latest"
        )
    examples = read_examples(folder)
    if examples is None:
        raise FileNotFoundError(f"run: expected {folder / EXAMPLES}, got none; run again, or name another run")
    scores = load_scores(folder, number_groups(examples))
    if len(scores.examples) and int(scores.examples.max()) >= len(examples):
        raise ValueError(
            f"run: expected examples for all scores of {folder}, got {len(examples)} rows and a score of row "
            f"{int(scores.examples.max())}; the files are of different runs, run again"
        )
    path = folder / SUMMARY
    summary = {}
    if path.exists():
        try:
            summary = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(
                f"run: expected JSON in {path}, got another text ({error}); remove it or run again"
            ) from None
        if not isinstance(summary, dict):
            raise ValueError(f"run: expected a JSON object in {path}, got {summary}; remove it or run again")
    return Record(folder, scores, examples, summary)


def number_groups(examples: pd.DataFrame) -> Tensor:
    """Number the groups of N examples from 0, int64 [N]; each example is its own where there are none."""
    groups = examples.get("group", examples.index)
    return torch.from_numpy(pd.factorize(groups, use_na_sentinel=False)[0])


def read_examples(folder: Path) -> pd.DataFrame | None:
    """The table of all examples of a run; None where the folder has none."""
    path = folder / EXAMPLES
    if not path.exists():
        return None
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"run: expected the examples of a run in {path}, got another file ({error})") from None
