"""Files of a run that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it when the block ends well and removed when it does not.

    Each call has its own: several may write the same file at once. One that is killed leaves a hidden file, which
    the next run in that folder removes.

    Raises:
        OSError: the folder cannot be written, or is full; names the file.

    >>> with whole_file(folder / "heatmap.csv") as path:  # doctest: +SKIP
    ...     path.write_text(content)
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error.__cause__, OSError):  # a file that was written inside this block has told it
            raise
        raise OSError(
            f"{path}: expected a folder that can be written, with room for it, got: {error.strerror or error}; free "
            "some space, or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
