"""Files that are there whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name, sync it, and rename it; of a failed write nothing is left.

    Raises:
        OSError: the folder cannot be written, or is full; names the file.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(
            f"{path}: expected room for {len(content) / 1e6:,.1f} MB, got: {error.strerror or error}; free some space, "
            "or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path
