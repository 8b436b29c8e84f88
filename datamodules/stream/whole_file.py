"""Writes files so that they are complete or do not exist."""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4


def replace_whole(path: Path, content: bytes | memoryview) -> os.stat_result:
    """Write a file under a temporary name beside its own, sync it, and rename it; of a failed write nothing is left.

    The folder is made if missing. Returns what the system says of the file as it was written.

    Raises:
        OSError: as the system gives it.

    Example:
        >>> replace_whole(Path("labels.md"), b"# Labels")  # doctest: +SKIP
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
            written = os.fstat(file.fileno())  # now, as renaming changes a file's ctime
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # so that the new name also survives a power failure
    finally:
        os.close(folder)
    return written


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file as `replace_whole` does, with an error that names it.

    Raises:
        OSError: the folder cannot be made or written, or is full.

    >>> write_whole(folder / "labels.md", content).read_bytes() == content  # doctest: +SKIP
    True
    """
    try:
        replace_whole(path, content)
    except OSError as error:
        raise OSError(
            f"{path}: expected a folder that can be written, with room for {len(content) / 1e6:,.1f} MB, got: "
            f"{error.strerror or error}; free some space, or choose another folder"
        ) from error
    return path
