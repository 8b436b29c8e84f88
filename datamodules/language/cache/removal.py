"""Removes entries of the cache, and finishes removals that were cut short."""

import fcntl
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from datamodules.language.cache.claim import NO_LOCKS

REMOVED = ".removed"  # end of the name of a folder that is being removed


def remove_entries(root: Path, folders: Sequence[Path]) -> list[str]:
    """Remove entries, and what earlier removals have left; none of them where one is in use.

    An entry that is a link, as one that was moved to a larger disk, loses the link; where it leads is left alone.

    Args:
        root: folder of the cache.
        folders: of the entries.

    Returns:
        A line for each thing that is still there.

    Raises:
        ValueError: an entry is in use, or the file system has no locks to tell.
    """
    with ExitStack() as locks:
        for folder in folders:
            used = locks.enter_context((folder / ".local" / "used").open("w"))
            try:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"cache.prune: expected entries that no run is using, got {folder.name}; wait for that run, or "
                    "stop it"
                ) from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                raise ValueError(
                    f"cache.prune: expected a cache.root whose file system has locks, which tell that no run is using "
                    f"an entry, got {root} without flock; mount it with flock, or stop all runs and: rm -r '{folder}'"
                ) from None
        for folder in folders:  # no run finds them any more, so a removal that is cut short leaves nothing half
            folder.rename(folder.with_name(f".{folder.name}.{uuid4().hex}{REMOVED}"))
    return [line for folder in list_leftovers(root) for line in _remove(folder)]


def list_leftovers(root: Path) -> list[Path]:
    """Folders and links of removals that were cut short.

    >>> list_leftovers(Path("no-such-cache"))
    []
    """
    return sorted(root.glob(f"*/.*{REMOVED}"))


def _remove(folder: Path) -> list[str]:
    """Remove one, and say what remains of it; one that cannot be removed keeps no other from being removed."""
    try:
        if folder.is_symlink():
            target = folder.resolve()
            folder.unlink()
            return [f"{target}: a link led there; its files were left alone: rm -r '{target}' removes them"]
        shutil.rmtree(folder)
    except FileNotFoundError:  # another process removes it too
        pass
    except OSError as error:
        return [f"{error.filename or folder}: not removed ({error.strerror or error}); remove it by hand"]
    return []
