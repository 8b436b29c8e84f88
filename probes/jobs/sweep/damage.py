"""Files of finished runs that were damaged: one line each, and the table is made without them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from datamodules.card import show_text

log = logging.getLogger("probegrid")
READING = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, YAMLError, HydraException,
    OmegaConfBaseException,
)  # fmt: skip


@contextmanager
def tell_damage(path: Path) -> Iterator[None]:
    """Leave out a file that is not what a run wrote, and say so in one line. One that is not there is no news.

    >>> with tell_damage(folder / "summary.json"):  # doctest: +SKIP
    ...     summary = json.loads((folder / "summary.json").read_text("utf-8"))
    """
    try:
        yield
    except FileNotFoundError:
        return
    except READING as error:
        reason = show_text(" ".join(str(error).split()) or type(error).__name__)[:160]
        log.warning("%s: expected what a run wrote, got another file (%s); left out", show_text(str(path)), reason)
