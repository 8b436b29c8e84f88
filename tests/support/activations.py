"""The datamodule of activations on a small model, and what it holds."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from datamodules.activations import ActivationDataModule
from datamodules.card import Count
from datamodules.labels.rules import TextRule, judge_by_gold
from datamodules.labels.spans import RuleSpans
from datamodules.language.language_model import LanguageModel
from datamodules.language.positions import Positions
from datamodules.questions.files import FileQuestions
from datamodules.split import GroupSplit
from tests.support.positions import shipped

COLOURS = FileQuestions(path="colours.csv")


def make(language_model: LanguageModel, questions_csv: Path, cache_root: Path, **changes: Any) -> ActivationDataModule:
    """The datamodule of the paper's positions in `resid_post`; `changes` replace its settings."""
    settings: dict[str, Any] = {
        "model": language_model,
        "dataset": FileQuestions(path=str(questions_csv), pattern=r"\w+"),
        "rule": TextRule(judge_by_gold),
        "spans": RuleSpans(),
        "positions": Positions(shipped("paper")),
        "site": "resid_post",
        "split": GroupSplit(),
        "cache_root": str(cache_root),
    }
    return ActivationDataModule(**(settings | changes))


def table_of(datamodule: ActivationDataModule) -> list[dict[str, Any]]:
    """The rows of its examples.parquet."""
    assert datamodule.folder is not None
    return pq.read_table(datamodule.folder / "examples.parquet").to_pylist()


def counts(datamodule: ActivationDataModule) -> list[Count]:
    """The counts of each split of its one target."""
    assert datamodule.card is not None
    (target,) = datamodule.card.targets
    return [target.counts[name] for name in ("train", "val", "test")]
