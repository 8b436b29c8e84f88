"""A hub cache made by hand, in the layout of huggingface_hub: refs, blobs, and snapshots whose files link to blobs."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

Rows = Sequence[Mapping[str, Any]]


def repository(cache: Path, kind: str, id_: str) -> Path:
    """Folder of a repository in a cache."""
    return cache / f"{kind}s--{id_.replace('/', '--')}"


def publish(cache: Path, kind: str, id_: str, folder: Path, revision: str = "main", listed: bool = False) -> str:
    """Put the files of a folder into a cache, as a download of all of them would.

    Args:
        cache: what `HF_HUB_CACHE` names.
        kind: `model` or `dataset`.
        id_: hub id.
        folder: with the files.
        revision: branch that leads to them.
        listed: with the list of the commit's files, which newer versions of the client leave and older ones do not.

    Returns:
        the commit, which follows from the files.
    """
    home, entries, digest = repository(cache, kind, id_), dict[str, TreeCacheEntry](), hashlib.sha1()
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    blobs = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    for name, blob in blobs.items():
        digest.update(f"{name} {blob}\n".encode())
    commit = digest.hexdigest()
    (home / "blobs").mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        (home / "blobs" / blobs[name]).write_bytes(path.read_bytes())
        link = home / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(home / "blobs" / blobs[name], link.parent))
        entries[name] = TreeCacheEntry(path.stat().st_size, blobs[name])
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    if listed:
        write_tree_cache(str(home), commit, entries)
    return commit


def publish_model(cache: Path, id_: str, build: Callable[[Path], None], **how: Any) -> str:
    """Publish what `build` writes into the folder that it is given; see `publish`."""
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        return publish(cache, "model", id_, Path(folder), **how)


def publish_dataset(cache: Path, id_: str, config: str, parts: Mapping[str, Rows], **how: Any) -> str:
    """Publish a data set; see `write_dataset` and `publish`."""
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), config, parts)
        return publish(cache, "dataset", id_, Path(folder), **how)


def write_dataset(folder: Path, config: str, parts: Mapping[str, Rows]) -> str:
    """Write a data set as the hub keeps it, a Parquet file a part and a card that names them; returns the folder."""
    card = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for part, rows in parts.items():
        (folder / config).mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist([dict(row) for row in rows])
        pq.write_table(table, folder / config / f"{part}-00000-of-00001.parquet")
        card += [f"  - split: {part}", f"    path: {config}/{part}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", "# A set", ""]))
    return str(folder)
