"""Files that are there whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name, sync it, and rename it; of a failed write nothing is left.

    The folder is made if missing.

    Raises:
        OSError: the folder cannot be made or written, or is full; names the file.

    >>> write_whole(folder / "labels.md", content).read_bytes() == content  # doctest: +SKIP
    True
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(
            f"{path}: expected a folder that can be written, with room for {len(content) / 1e6:,.1f} MB, got: "
            f"{error.strerror or error}; free some space, or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path
