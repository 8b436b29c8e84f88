"""What the cache holds, as a table for people, and the removal of what is no longer wanted."""

import fcntl
import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from datamodules.progress import size

KINDS = ("answers", "activations")
SHORTEST = 4  # characters of a key that may name it
SHOWN = 10  # characters of a key in the table


@dataclass(frozen=True)
class Held:
    """One entry of the cache.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        shards: finished ones.
        bytes: of its files.
        used: when a run last opened it.
    """

    folder: Path
    manifest: dict[str, Any]
    shards: int
    bytes: int
    used: datetime

    @property
    def about(self) -> dict[str, Any]:
        """What the manifest says for people."""
        return self.manifest.get("about", {})

    @property
    def state(self) -> str:
        """`whole`, or how many of its shards are there."""
        n = self.manifest.get("shards")
        return "whole" if n == self.shards else f"{self.shards} of {n}"


def held(root: str | Path) -> list[Held]:
    """Return all entries below a cache root, the one used last first."""
    entries = []
    for path in Path(root).expanduser().glob("*/*/manifest.json"):
        if path.parts[-3] in KINDS and not path.parts[-2].startswith("."):
            folder, used = path.parent, path.parent / ".local" / "used"
            try:
                manifest = json.loads(path.read_bytes())
            except ValueError:
                manifest = {}
            entries.append(
                Held(
                    folder,
                    manifest if isinstance(manifest, dict) else {},
                    len(list(folder.glob("shard-*.json"))),
                    sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
                    datetime.fromtimestamp((used if used.exists() else path).stat().st_mtime),
                )
            )
    return sorted(entries, key=lambda entry: entry.used, reverse=True)


def cache_info(root: str, prune: str | Sequence[str] | None = None, console: Console | None = None) -> None:
    """Show what the cache holds, or remove entries by key; on a terminal, ask first.

    Args:
        root: folder of the cache.
        prune: key, or a list of keys, of entries to remove; the first characters will do.
        console: where it is shown.

    Raises:
        ValueError: a key is not there, names several entries, or is in use; nothing is removed then.
    """
    console = console or Console()
    entries = held(root)
    if prune is None:
        console.print(f"{root}: {len(entries)} entries, {size(sum(entry.bytes for entry in entries))}", soft_wrap=True)
        console.print(_table(entries))
        return
    keys = prune if isinstance(prune, list | tuple) else [prune]
    chosen = {entry.folder: entry for entry in (_find(entries, key, root) for key in keys)}
    what = f"{len(chosen)} of {len(entries)} entries, {size(sum(entry.bytes for entry in chosen.values()))}"
    if sys.stdin.isatty():
        console.print(_table(list(chosen.values())))
        if console.input(f"Remove {what}? [y/N] ", markup=False).strip().casefold() not in ("y", "yes"):
            console.print("Nothing was removed.")
            return
    with ExitStack() as locks:
        for folder in chosen:
            for lock in folder.glob(".local/*.lock"):
                file = locks.enter_context(lock.open("w"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ValueError(
                        f"cache.prune: expected entries that no run is building, got {folder.name}; wait for that run, "
                        "or stop it"
                    ) from None
        gone = [folder.rename(folder.with_name(f".{folder.name}.removed")) for folder in chosen]
    for folder in gone:  # no run finds them any more, so a removal that is cut short leaves nothing half
        shutil.rmtree(folder)
    console.print(f"Removed {what}.")


def _find(entries: Sequence[Held], key: object, root: str) -> Held:
    if not isinstance(key, str):
        raise ValueError(
            f"cache.prune: expected the characters of a key, got the number {key}; quote it: cache.prune=\\'KEY\\'"
        )
    found = [entry for entry in entries if len(key) >= SHORTEST and entry.folder.name.startswith(key)]
    if len(found) != 1:
        got = "which none has" if not found else f"which {len(found)} have"
        raise ValueError(
            f"cache.prune: expected keys of {root}, or at least {SHORTEST} first characters of them, got {key!r}, "
            f"{got}; see them with experiment=cache_info"
        )
    return found[0]


def _table(entries: Sequence[Held]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("key", "model", "dataset", "site"):
        table.add_column(name, overflow="fold", no_wrap=name == "key")
    for name in ("examples", "bytes", "state", "last used"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in entries:
        about = entry.about
        table.add_row(
            entry.folder.name[:SHOWN],
            str(about.get("model", "?")),
            str(about.get("dataset", "?")),
            str(entry.manifest.get("site", entry.folder.parent.name)),
            f"{about.get('examples', 0):,}",
            size(entry.bytes),
            entry.state,
            f"{entry.used:%Y-%m-%d}",
        )
    return table
