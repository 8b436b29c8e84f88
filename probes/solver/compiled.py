"""Compilation of the loops that numpy and PyTorch have no single call for."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numba
from numba.core import config


def cache_folder(here: Path) -> str | None:
    """Where compiled code of the package in `here` is kept between runs; None where nothing can be written.

    numba looks at the file of a function only, not at those of the functions it calls, so a change there would go
    unnoticed. The folder is therefore named by the content of every source file there that has compiled functions.
    """
    sources = [source.read_bytes() for source in sorted(here.glob("*.py"))]
    content = hashlib.sha256(b"".join(source for source in sources if b"@compiled" in source))
    folder = here / "__pycache__" / f"compiled-{content.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder) if os.access(folder, os.W_OK) else None


_CACHE = cache_folder(Path(__file__).parent)
F = TypeVar("F", bound=Callable)


def compiled(function: F) -> F:
    """Compile for the types of the first call; other threads run meanwhile.

    Sums may be taken in any order, hence many terms at once; infinity and NaN keep their meaning.
    """
    before = getattr(config, "CACHE_DIR")  # noqa: B009
    setattr(config, "CACHE_DIR", _CACHE or "")  # noqa: B010 - read when a function is decorated, and by nothing else
    try:
        return cast(
            F, numba.njit(nogil=True, cache=_CACHE is not None, fastmath={"reassoc", "contract", "nsz"})(function)
        )
    finally:
        setattr(config, "CACHE_DIR", before)  # noqa: B010
