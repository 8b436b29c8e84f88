"""Whether the files of a shard are as its record says, and seals, which save reading them again."""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any


def check_files(record: Path, seal: Path, whole: bool = False) -> dict[str, Path]:
    """Paths of a shard's files by name, each held against the shard's record, which lies in the same folder.

    A file whose size and times are as in the seal is not read: a cache can be large. One of the times is the ctime,
    which no program can set, so a file that is altered with its size and modification time kept is read.

    Args:
        record: names of the files with their sizes and checksums.
        seal: where the sizes and times are noted; need not exist.
        whole: read all files, whatever the seal says.

    Raises:
        ValueError: a file is missing, truncated or altered; says how to rebuild it.
    """
    recorded = _read_record(record)
    paths = {name: record.parent / name for name in recorded}
    sealed = seal.read_bytes() if seal.exists() else b""
    if whole or not sealed or sealed != _read_times(paths.values()):
        for name, path in paths.items():
            problem = find_difference(path, recorded[name])
            if problem:
                raise ValueError(
                    f"cache: shard {path} {problem}; rebuild it with: rm '{record}' and the same run again"
                )
        write_seal(seal, [path.stat() for path in paths.values()])
    return paths


def write_seal(seal: Path, stats: Iterable[os.stat_result]) -> None:
    """Note that files are as their record says: those that have these sizes and times."""
    with suppress(OSError):  # a cache that others own can be read all the same
        seal.write_bytes(_format_times(stats))


def find_difference(path: Path, record: dict[str, Any]) -> str | None:
    """Return how a file differs from its record, or None."""
    if not path.exists():
        return "is missing"
    size = path.stat().st_size
    if size != record["bytes"]:
        return f"is truncated or overlong: expected {record['bytes']} bytes, got {size}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != record["sha256"]:
        return f"is altered: expected sha256 {record['sha256'][:12]}, got {digest[:12]}"
    return None


def _read_record(record: Path) -> dict[str, dict[str, Any]]:
    try:
        recorded = json.loads(record.read_bytes())
        kinds = [(type(file["bytes"]), type(file["sha256"])) for file in recorded.values()]
        if set(kinds) != {(int, str)}:
            raise ValueError
    except (ValueError, AttributeError, TypeError, KeyError):
        raise ValueError(tell_altered(record)) from None
    return recorded


def tell_altered(record: Path, how: str = "") -> str:
    """Say that the record of a shard is none, or not what it should be, and how to rebuild the shard."""
    return f"cache: record {record} is altered{how}; rebuild its shard with: rm '{record}' and the same run again"


def _read_times(paths: Iterable[Path]) -> bytes:
    try:
        return _format_times([path.stat() for path in paths])
    except FileNotFoundError:
        return b""


def _format_times(stats: Iterable[os.stat_result]) -> bytes:
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}" for stat in stats).encode()
