"""Compares files with their records."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_times(paths: Iterable[Path]) -> bytes:
    """Return sizes and times of change of files; empty if one is missing."""
    try:
        stats = [path.stat() for path in paths]
        return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats).encode()
    except FileNotFoundError:
        return b""


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
