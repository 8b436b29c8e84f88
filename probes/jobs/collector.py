"""Python's garbage collector, which has nothing to collect while a run imports what it needs."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_collection() -> Iterator[None]:
    """Import without the garbage collector, which afterwards leaves alone what was imported.

    Modules stay until the process ends. The collector goes through all of them again whenever enough objects have been
    made, which takes a seventh of a cached run. Where it has been told to leave objects alone before, as after the
    first job of a sweep, it goes on as it was: a job's own objects must not stay for ever.

    Example:
        >>> with pause_collection():
        ...     import decimal
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
