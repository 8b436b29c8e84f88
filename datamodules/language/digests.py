"""Digests of the content of weight files for the cache key, each computed once and remembered.

Every byte of a file counts, so a change in any tensor changes the digest, and a copy elsewhere has the same one.
Reading all bytes takes time, so the digest of a large file is stored with the size and times of the file.
Copying over it with its time and size kept (`cp -p`, `rsync -t`) still changes its time of change (ctime), which no
program can set.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from datamodules.stream.whole_file import replace_whole

REMEMBERED_BYTES = 2**22  # smaller files are read each time, in about 2 ms
SETTLED_SECONDS = 3.0  # since a file's last change; within a tick of its clock (2 s on FAT) it may change unseen


def digest_files(paths: Iterable[Path], memory: Path | None) -> dict[Path, str]:
    """SHA-256 of the content of every file, as hexadecimal text; large files are read in as many threads as cores.

    Args:
        paths: files, which may be links.
        memory: folder that remembers digests between runs, made if missing; one that cannot be used only makes the
            next run slower. None remembers nothing.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> digest_files([Path("model.safetensors")], Path("cache/digests"))  # doctest: +SKIP
        {PosixPath('model.safetensors'): '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'}
    """
    paths = list(paths)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # hashing lets other threads run
        return dict(zip(paths, pool.map(lambda path: _recall_or_hash(path, memory), paths), strict=True))


def name_memory(cache_root: str | Path) -> Path:
    """Folder of a cache that remembers what was learnt of large files.

    >>> name_memory("cache").as_posix()
    'cache/digests'
    """
    return Path(cache_root).expanduser() / "digests"


def _recall_or_hash(path: Path, memory: Path | None) -> str:
    before = _read_state(os.stat(path))
    if memory is None or before["size"] < REMEMBERED_BYTES:
        return _hash(path)
    record = memory / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:40]}.json"
    known = _recall(record, before)
    if known:
        return known
    digest = _hash(path)
    changed = max(before["mtime_ns"], before["ctime_ns"]) / 1e9
    if _read_state(os.stat(path)) == before and time.time() - changed > SETTLED_SECONDS:
        _remember(record, before | {"path": str(path.absolute()), "sha256": digest})
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_state(stat: os.stat_result) -> dict[str, int]:
    """Return properties of a file of which every change of the file changes at least one."""
    return {key: getattr(stat, f"st_{key}") for key in ("dev", "ino", "size", "mtime_ns", "ctime_ns")}


def _recall(record: Path, state: dict[str, int]) -> str | None:
    with suppress(OSError, ValueError, AttributeError, TypeError, RecursionError):
        known = json.loads(record.read_bytes())
        same = all(known.get(key) == value for key, value in state.items())
        return known["sha256"] if same and re.fullmatch("[0-9a-f]{64}", known.get("sha256")) else None
    return None


def _remember(record: Path, known: dict[str, int | str]) -> None:
    """Write a record; without it the next run is only slower."""
    with suppress(OSError):
        replace_whole(record, json.dumps(known).encode())
