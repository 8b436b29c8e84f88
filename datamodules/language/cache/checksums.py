"""Whether files are as their records say."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def format_times(stats: Iterable[os.stat_result]) -> bytes:
    """Sizes and times of change of some files."""
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats).encode()


def read_times(paths: Iterable[Path]) -> bytes:
    """Sizes and times of change, empty where a file is missing."""
    try:
        return format_times([path.stat() for path in paths])
    except FileNotFoundError:
        return b""


def find_difference(path: Path, record: dict[str, Any]) -> str | None:
    """How a file differs from its record, or None."""
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
