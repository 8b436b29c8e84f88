"""Questions from a data set of the Hugging Face hub, or from a folder in its layout."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from datasets import Dataset, DatasetDict, disable_progress_bars, load_dataset
from datasets.data_files import sanitize_patterns
from huggingface_hub import DatasetCard

from datamodules.questions.arrow_rows import ArrowRows
from datamodules.questions.row import Row
from datamodules.questions.row_questions import RowQuestions
from datamodules.questions.snapshot import COMMIT, fetch_snapshot, find_snapshot
from datamodules.stream.ranges import Text

CARD = "README.md"
NOT_FOR_READERS = {"config_name", "data_files", "data_dir", "default", "description", "version"}


@dataclass(kw_only=True)
class HubQuestions(RowQuestions):
    """Questions from the hub; see `RowQuestions` for the columns.

    Attributes:
        id: hub id, or a folder in the hub's layout.
        config: configuration of the data set; null if it has only one.
        revision: branch, tag or commit; the newest by default. The commit it resolves to is part of the cache's key.
        train_split: part of the set for training.
        test_split: part of the set for testing; null: all splits are made from `train_split`.

    Example:
        >>> dataset = HubQuestions(id="mandarjoshi/trivia_qa", config="unfiltered.nocontext", answer="answer.value")
        >>> dataset.name
        'trivia_qa'
    """

    id: Text
    config: Text | None = None
    revision: Text | None = None
    train_split: Text = "train"
    test_split: Text | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("id", "train_split"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"dataset.{key}: expected a text, got {getattr(self, key)!r}; quote it")
        self.name = self.name or Path(self.id).name

    @cached_property
    def folder(self) -> Path:
        """The folder with the files: `id` itself, or the snapshot that `fetch` left on this machine.

        Raises:
            ValueError: neither exists.
        """
        return Path(self.id) if Path(self.id).is_dir() else find_snapshot("dataset", self.id, self.revision)

    @property
    def commit(self) -> str | None:
        """What `revision` resolved to; None for a folder."""
        return None if Path(self.id).is_dir() else self.folder.name

    def fetch(self) -> None:
        """Download the parts in use that are not on this machine; a folder needs nothing."""
        if Path(self.id).is_dir():
            return
        snapshot = fetch_snapshot("dataset", self.id, self.revision, allow=[CARD])
        parts, files = self._list_parts(snapshot), None
        if parts is not None:
            files = [CARD, *parts.get(self.train_split, ()), *parts.get(self.test_split or "", ())]
        fetch_snapshot("dataset", self.id, snapshot.name, allow=files)

    def identify(self) -> dict[str, Any]:
        """The data set and its commit."""
        return {"hub": self.id, "config": self.config, "commit": self.commit}

    def describe(self) -> dict[str, Any]:
        """Add the requested revision."""
        return super().describe() | {"revision": self.revision}

    def check_unmoved(self, cache_root: str) -> None:
        """Check that a branch or tag still means the commit from which answers were cached.

        Raises:
            ValueError: it means another commit; the message names both.
        """
        if self.commit is None or COMMIT.fullmatch(self.revision or ""):
            return
        for path in Path(cache_root).expanduser().glob("answers/*/manifest.json"):
            try:
                manifest = json.loads(path.read_bytes())
                revision, then = manifest["about"].get("revision"), dict(manifest["dataset"])
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            now = self.identify()
            if revision == self.revision and then == now | {"commit": then.get("commit")} != now:
                raise ValueError(
                    f"dataset.revision: expected {self.revision or 'the newest'} of {self.id} to be the commit "
                    f"{then['commit']}, as when answers were cached, got {self.commit}; set dataset.revision to the "
                    "one you mean"
                )

    def read_rows(self) -> dict[str, Sequence[Row]]:
        """Load the parts, only the columns in use."""
        if self.test_split is None:
            return {"": self._read_part(self.train_split)}
        return {"train": self._read_part(self.train_split), "test": self._read_part(self.test_split)}

    def _read_part(self, split: str) -> Sequence[Row]:
        table = self._load_part(split)  # stays on disk; rows are read on access
        used = [name for name in table.column_names if name in {column.split(".")[0] for column in self.columns}]
        table = table.select_columns(used or table.column_names)
        return ArrowRows(cast(Sequence[Row], table), table.features.arrow_schema)

    def _load_part(self, split: str) -> Dataset:
        disable_progress_bars()
        parts = self._list_parts(self.folder)
        if parts is not None and split not in parts:
            raise ValueError(f"dataset: expected a part {split!r} of {self.id}, got {', '.join(parts)}")
        try:
            if parts is None:
                loaded = load_dataset(str(self.folder), self.config)
            else:  # by their files: files of other parts and configurations may be missing
                files = {split: parts[split]}
                loaded = load_dataset(str(self.folder), data_files=files, **self._read_settings(self.folder))
        except Exception as error:  # many kinds, all caused by the request
            reason = " ".join(str(error).split())
            raise ValueError(
                f"dataset.id={self.id}: expected a data set that loads, got {reason[:300]}; check dataset.config"
            ) from error
        assert isinstance(loaded, DatasetDict)
        if split not in loaded:
            raise ValueError(f"dataset: expected a part {split!r} of {self.id}, got {', '.join(map(str, loaded))}")
        return loaded[split]

    def _list_parts(self, folder: Path) -> dict[str, list[str]] | None:
        """Patterns of the files of each part, as the data set's card gives them; None where it gives none."""
        files = (self._read_configuration(folder) or {}).get("data_files")
        return None if files is None else {str(part): paths for part, paths in sanitize_patterns(files).items()}

    def _read_settings(self, folder: Path) -> dict[str, Any]:
        """Settings of the card for whatever reads the files, such as `sep`."""
        settings = self._read_configuration(folder) or {}
        return {key: value for key, value in settings.items() if key not in NOT_FOR_READERS}

    def _read_configuration(self, folder: Path) -> dict[str, Any] | None:
        """The configuration in the data set's card; None where the card describes none.

        Raises:
            ValueError: it has no such configuration, or it has several and `config` is not set.
        """
        card = folder / CARD
        described: list[dict[str, Any]] = DatasetCard.load(card).data.get("configs") if card.is_file() else []
        if not described:
            return None
        by_name = {str(one.get("config_name")): one for one in described}
        standard = [name for name, one in by_name.items() if one.get("default") or name == "default"]
        wanted = self.config or next(iter(standard or by_name))
        if wanted not in by_name or (self.config is None and not standard and len(by_name) > 1):
            raise ValueError(
                f"dataset.config: expected one of {', '.join(by_name)} for {self.id}, got {self.config}; name one"
            )
        return by_name[wanted]
