"""Questions from a data set of the Hugging Face hub, or from a folder in its layout."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from datasets import Dataset, DatasetDict, disable_progress_bars, load_dataset
from huggingface_hub import snapshot_download

from datamodules.columns import ArrowRows
from datamodules.hub_errors import one_line
from datamodules.table import Row
from datamodules.tabular import RowQuestions

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(kw_only=True)
class HubQuestions(RowQuestions):
    """Questions from the hub; see `RowQuestions` for the columns.

    Attributes:
        id: hub id, or a folder in the hub's layout.
        config: configuration of the data set; null where it has one only.
        revision: branch, tag or commit; the newest by default. The commit it resolves to is part of the cache's key.
        train_split: its part that trains.
        test_split: its part that tests; null: the split is dealt from `train_split`.
    """

    id: str
    config: str | None = None
    revision: str | None = None
    train_split: str = "train"
    test_split: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("id", "train_split"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"dataset.{key}: expected a text, got {getattr(self, key)!r}; quote it")
        self.name = self.name or Path(self.id).name

    @cached_property
    def commit(self) -> str | None:
        """What `revision` resolves to now, or without a network at the last download; None for a folder.

        Raises:
            ValueError: no such data set or revision, or neither network nor download.
        """
        if Path(self.id).is_dir():
            return None
        with one_line("dataset", self.id, self.revision):
            readme = snapshot_download(self.id, repo_type="dataset", revision=self.revision, allow_patterns="README.md")
        return Path(readme).name  # snapshots lie in folders named by their commit

    def fetch(self) -> None:
        """Download the data set, as far as it is not here."""
        self._load(self.train_split)

    def identity(self) -> dict[str, Any]:
        """The data set and its commit."""
        return {"hub": self.id, "config": self.config, "commit": self.commit}

    def about(self) -> dict[str, Any]:
        """Also the revision that was asked for."""
        return super().about() | {"revision": self.revision}

    def check_unmoved(self, cache_root: str) -> None:
        """Refuse a branch or tag that led to another commit when answers were cached.

        Raises:
            ValueError: names both commits.
        """
        if self.commit is None or COMMIT.fullmatch(self.revision or ""):
            return
        for path in Path(cache_root).expanduser().glob("answers/*/manifest.json"):
            try:
                manifest = json.loads(path.read_bytes())
                asked, then = manifest["about"].get("revision"), dict(manifest["dataset"])
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            if asked == self.revision and then == self.identity() | {"commit": then.get("commit")} != self.identity():
                raise ValueError(
                    f"dataset.revision: expected {self.revision or 'the newest'} of {self.id} to be the commit "
                    f"{then['commit']}, as when answers were cached, got {self.commit}; set dataset.revision to the "
                    "one you mean"
                )

    def rows(self) -> dict[str, Sequence[Row]]:
        """Load the parts, the columns in use only."""
        if self.test_split is None:
            return {"": self._rows(self.train_split)}
        return {"train": self._rows(self.train_split), "test": self._rows(self.test_split)}

    def _rows(self, split: str) -> Sequence[Row]:
        table = self._load(split)  # stays on disk; rows are read as they are asked for
        used = [name for name in table.column_names if name in {column.split(".")[0] for column in self.columns}]
        table = table.select_columns(used or table.column_names)
        return ArrowRows(cast(Sequence[Row], table), table.features.arrow_schema)

    def _load(self, split: str) -> Dataset:
        disable_progress_bars()
        commit = self.commit
        try:
            parts = load_dataset(self.id, self.config, revision=commit)
        except Exception as error:  # of many kinds, all about what was asked for or the network
            reason = " ".join(str(error).split())
            raise ValueError(
                f"dataset.id={self.id}: expected a data set that loads, got {reason[:300]}; check dataset.config"
            ) from error
        assert isinstance(parts, DatasetDict)
        if split not in parts:
            raise ValueError(f"dataset: expected a part {split!r} of {self.id}, got {', '.join(map(str, parts))}")
        return parts[split]
