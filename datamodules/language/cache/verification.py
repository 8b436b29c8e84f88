"""Reads the whole cache and holds it against its checksums: `experiment=cache_verify`."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datamodules.card import show_text
from datamodules.language.cache.cached_activations import UNKEYED
from datamodules.language.cache.checksums import check_files
from datamodules.language.cache.entry import compute_key
from datamodules.language.cache.inventory import HeldEntry, list_entries
from datamodules.language.progress import format_size
from datamodules.stream.local_paths import expand_user
from datamodules.stream.ranges import Folder


def verify_cache(root: Folder) -> None:
    """Read every finished shard of every entry, whatever its times say, and print what differs from its record.

    What is as recorded is noted, so that the next run need not read it.

    Args:
        root: folder of the cache.

    Raises:
        ValueError: something differs; the lines before say what, and how to rebuild it.

    Example:
        >>> verify_cache("cache")  # doctest: +SKIP
        cache: 2 entries, 16 shards, 17.4 MB read: all as recorded
    """
    if not expand_user(root, "cache.root").is_dir():
        raise ValueError(f"cache.root: expected a cache, got {root}, which is not there; name another")
    entries = list_entries(root)
    shards = [(entry, record) for entry in entries for record in sorted(entry.folder.glob("shard-*.json"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets other threads run
        found = [*map(_check_manifest, entries), *pool.map(_check_shard, shards)]
    for line in filter(None, found):
        print(show_text(line))
    n_bytes = format_size(sum(entry.bytes for entry in entries))
    read = f"{len(entries)} entries, {len(shards)} shards, {n_bytes} read"
    if n := len([*filter(None, found)]):
        raise ValueError(f"cache.root: expected {root} as it was written, got {n} of {read} altered; see above")
    print(f"{show_text(str(root))}: {read}: all as recorded")


def _check_manifest(entry: HeldEntry) -> str | None:
    content = {key: value for key, value in entry.manifest.items() if key not in UNKEYED}
    if compute_key(content) == entry.folder.name:
        return None
    path = entry.folder / "manifest.json"
    return f"cache: manifest {path} is altered; rebuild it with: rm '{path}' and the same run again"


def _check_shard(shard: tuple[HeldEntry, Path]) -> str | None:
    entry, record = shard
    try:
        check_files(record, entry.folder / ".local" / f"{record.stem}.seal", whole=True)
    except FileNotFoundError:  # removed meanwhile
        return None
    except (ValueError, OSError) as error:
        return str(error)
    return None
