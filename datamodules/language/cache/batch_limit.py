"""The largest batch of answers that a GPU has held, remembered in the cache entry for the run that goes on with it.

It lies in the folder `.local` of the entry, a file for each kind of GPU: it is no part of the key, and two machines may
remember different ones.
"""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from datamodules.stream.whole_file import replace_whole


class BatchLimit(NamedTuple):
    """Most examples times longest of a batch, in tokens, and whether larger ones may be tried."""

    most: int
    grows: bool


def read_limit(entry: Path, device: str) -> BatchLimit | None:
    """What was remembered for a kind of GPU in the folder of an entry; None where nothing was.

    >>> read_limit(Path("no-such-entry"), "NVIDIA H200")
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        stored = json.loads(_get_path(entry, device).read_bytes())
        limit = BatchLimit(stored["most"], stored["grows"])
        return limit if type(limit.most) is int and limit.most > 0 and type(limit.grows) is bool else None
    return None


def write_limit(entry: Path, device: str, limit: BatchLimit) -> None:
    """Remember a limit in the folder of an entry, in place of the one before."""
    with suppress(OSError):  # of a full disk the shards tell
        replace_whole(_get_path(entry, device), json.dumps(limit._asdict()).encode())


def _get_path(entry: Path, device: str) -> Path:
    return entry / ".local" / f"batch-{re.sub(r'[^A-Za-z0-9]+', '-', device)}.json"
