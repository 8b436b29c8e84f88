"""The record of a finished run, read back from its folder."""

import json
from pathlib import Path
from stat import S_ISDIR
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from datamodules.card import show_text
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
    folder = find_folder(run)
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
        shown = show_text(str(path))[:200]
        try:
            summary = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"run: expected JSON in {shown}, got another text ({reason}); run again") from None
        if not isinstance(summary, dict):
            raise ValueError(f"run: expected a JSON object in {shown}, got {str(summary)[:80]}; remove it or run again")
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
    shown = show_text(str(path))[:200]
    if not path.is_file():  # a pipe would wait for its writer
        raise ValueError(f"run: expected the examples of a run in {shown}, got no regular file; run again")
    try:
        return pd.read_parquet(path, page_checksum_verification=True)
    except Exception as error:  # readers of damaged files raise nearly anything
        reason = show_text(" ".join(str(error).split()) or type(error).__name__)[:200]
        raise ValueError(
            f"run: expected the examples of a run in {shown}, got another file, or a damaged one ({reason}); run again"
        ) from None


def find_folder(run: str | Path) -> Path:
    """The folder of a run.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no path, or that of something else.

    Example:
        >>> find_folder("outputs/latest")  # doctest: +SKIP
        PosixPath('outputs/latest')
    """
    expected = "run: expected the folder of a finished run"
    shown = show_text(str(run) if isinstance(run, str | Path) else repr(run))[:200]
    if not isinstance(run, str | Path) or not str(run):
        raise ValueError(f"{expected}, got {shown or 'an empty text'}; name one, as outputs/latest")
    try:
        folder = Path(run).expanduser()
        mode = folder.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"{expected}, got {shown}: no such folder; name one, as outputs/latest") from None
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL character, ~ of nobody
        reason = show_text(str(getattr(error, "strerror", None) or error))[:200]
        raise ValueError(f"{expected}, got {shown} ({reason}); name one, as outputs/latest") from None
    if not S_ISDIR(mode):
        raise ValueError(f"{expected}, got the file {shown}; name one, as outputs/latest")
    return folder
