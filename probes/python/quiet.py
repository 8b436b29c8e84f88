"""Fits without a word: what would be logged or printed is collected."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from probes.grids.grid import ProbeGrid

OURS = ("datamodules", "probes")
LIGHTNING = ("pytorch_lightning", "lightning_fabric")


class _Collector(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.into = into

    def emit(self, record: logging.LogRecord) -> None:
        self.into.append(record.getMessage())


@contextmanager
def collect_words(module: ProbeGrid) -> Iterator[list[str]]:
    """Collect the warnings of this project and what a module prints, and keep Lightning and Python silent.

    >>> with collect_words(module) as words:  # doctest: +SKIP
    ...     trainer.fit(module, datamodule)
    """
    words: list[str] = []
    collector = _Collector(words)
    ours, lightning = ([logging.getLogger(name) for name in names] for names in (OURS, LIGHTNING))
    before = [(log, log.level, log.propagate) for log in [*ours, *lightning]]
    for log in ours:
        log.addHandler(collector)
        log.propagate = False
    for log in lightning:
        log.setLevel(logging.ERROR)
    module.print = lambda *texts, **_: words.append(" ".join(map(str, texts)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield words
    finally:
        del module.print
        for log, level, propagate in before:
            log.removeHandler(collector)
            log.setLevel(level)
            log.propagate = propagate


@contextmanager
def pass_interrupts_on() -> Iterator[None]:
    """Raise KeyboardInterrupt where Lightning ends the process, which may be a notebook, and ignores the next ones.

    >>> with pass_interrupts_on():  # doctest: +SKIP
    ...     trainer.fit(module, datamodule)
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            with suppress(TypeError):  # a handler that Python did not set
                signal.signal(signal.SIGINT, handler)
