"""Paths of files and folders as the user writes them."""

from pathlib import Path


def expand_user(path: str | Path, key: str) -> Path:
    """Return a path with `~` replaced by the home folder.

    Args:
        path: as it was given.
        key: option of the configuration that gave it, for the message.

    Raises:
        ValueError: `~name` of a user that this machine does not have, or a NUL character.

    Example:
        >>> expand_user("data/questions.csv", "dataset.path")
        PosixPath('data/questions.csv')
    """
    if "\0" in str(path):
        raise ValueError(f"{key}: expected a path, got {ascii(str(path))[:200]} with a NUL character; take it out")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{key}: expected a path, got {path}: this machine has no such home folder; write it in full"
        ) from None
