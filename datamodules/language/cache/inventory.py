"""Lists the entries of the cache as a table, and removes entries."""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from annotated_types import doc
from rich.console import Console
from rich.table import Table
from rich.text import Text as RichText

from datamodules.card import show_text
from datamodules.language.cache.removal import list_leftovers, remove_entries
from datamodules.language.progress import format_size
from datamodules.stream.local_paths import expand_user
from datamodules.stream.ranges import Folder, Text, Texts

KINDS = ("answers", "activations")
Keys = Annotated[Text | Texts, doc("a key or a list of keys, quoted if it is a number, as in cache.prune=\\'KEY\\'")]
SHORTEST = 4  # characters of a key that may name it
SHOWN = 10  # characters of a key in the table


@dataclass(frozen=True)
class HeldEntry:
    """One entry of the cache.

    Attributes:
        folder: its folder.
        manifest: content of its manifest.
        shards: number of finished shards.
        bytes: total size of its files.
        used: time at which a run last opened it.
    """

    folder: Path
    manifest: dict[str, Any]
    shards: int
    bytes: int
    used: datetime

    @property
    def about(self) -> dict[str, Any]:
        """What the manifest says for people."""
        about = self.manifest.get("about")
        return about if isinstance(about, dict) else {}

    @property
    def state(self) -> str:
        """`whole`, or how many of its shards exist."""
        n = self.manifest.get("shards")
        return "whole" if n == self.shards else f"{self.shards} of {n}"


def list_entries(root: str | Path) -> list[HeldEntry]:
    """Return all entries below a cache root, the one used last first.

    >>> [entry.state for entry in list_entries(Path("cache"))]  # doctest: +SKIP
    ['whole', 'whole']
    """
    entries = []
    for path in expand_user(root, "cache.root").glob("*/*/manifest.json"):
        if path.parts[-3] in KINDS and not path.parts[-2].startswith("."):
            with suppress(FileNotFoundError):  # another process removed the entry meanwhile
                entries.append(_read_entry(path.parent))
    return sorted(entries, key=lambda entry: entry.used, reverse=True)


def _read_entry(folder: Path) -> HeldEntry:
    used, path = folder / ".local" / "used", folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError:
        manifest = {}
    sizes = []
    for file in (path for path in folder.rglob("*") if path.parent.name != ".local"):
        with suppress(FileNotFoundError):  # a file that is being written gets another name
            sizes.append(file.stat().st_size if file.is_file() else 0)
    return HeldEntry(
        folder,
        manifest if isinstance(manifest, dict) else {},
        len(list(folder.glob("shard-*.json"))),
        sum(sizes),
        datetime.fromtimestamp((used if used.exists() else path).stat().st_mtime),
    )


def show_cache(root: Folder, prune: Keys | None = None, console: Console | None = None) -> None:
    """Show what the cache holds, or remove entries by key; on a terminal, ask first.

    Args:
        root: folder of the cache.
        prune: key, or a list of keys, of entries to remove; the first characters are enough.
        console: where the table is printed.

    Raises:
        ValueError: a key does not exist, matches several entries, or is in use; nothing is removed in this case.

    Example:
        >>> show_cache(Path("cache"), prune="c74b")  # doctest: +SKIP
    """
    console = console or Console()
    entries = list_entries(root)
    if prune is None:
        console.print(
            f"{show_text(str(root))}: {len(entries)} entries, {format_size(sum(entry.bytes for entry in entries))}",
            soft_wrap=True,
            markup=False,
            emoji=False,
        )
        console.print(_build_table(entries))
        for folder in list_leftovers(expand_user(root, "cache.root")):
            line = f"{show_text(str(folder))}: left by a removal that was cut short; the next one removes it"
            console.print(line, markup=False, emoji=False, soft_wrap=True)
        return
    keys = prune if isinstance(prune, list | tuple) else [prune]
    if not keys:
        raise ValueError("cache.prune: expected a key or a list of keys, got an empty list; see them without it")
    chosen = {entry.folder: entry for entry in (_find(entries, key, root) for key in keys)}
    what = f"{len(chosen)} of {len(entries)} entries, {format_size(sum(entry.bytes for entry in chosen.values()))}"
    if sys.stdin.isatty():
        console.print(_build_table(list(chosen.values())))
        try:
            reply = console.input(f"Remove {what}? [y/N] ", markup=False)
        except EOFError:  # the end of the input counts as no
            reply = ""
        if reply.strip().casefold() not in ("y", "yes"):
            console.print("Nothing was removed.")
            return
    left = remove_entries(expand_user(root, "cache.root"), list(chosen))
    console.print(f"Removed {what}.")
    for line in left:
        console.print(show_text(line), markup=False, emoji=False, soft_wrap=True)


def _find(entries: Sequence[HeldEntry], key: object, root: Folder) -> HeldEntry:
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


def _build_table(entries: Sequence[HeldEntry]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("key", "model", "dataset", "site"):
        table.add_column(name, overflow="fold", no_wrap=name == "key")
    for name in ("examples", "bytes", "state", "last used"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in entries:
        about = entry.about
        table.add_row(
            entry.folder.name[:SHOWN],
            RichText(show_text(str(about.get("model", "?")))),
            RichText(show_text(str(about.get("dataset", "?")))),
            RichText(show_text(str(entry.manifest.get("site", entry.folder.parent.name)))),
            f"{examples:,}" if isinstance(examples := about.get("examples"), int) else "?",
            format_size(entry.bytes),
            entry.state,
            f"{entry.used:%Y-%m-%d}",
        )
    return table
