"""Ctrl-C and SIGTERM: how the program ends from outside."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

AGAIN = 0.02  # seconds after which a signal is sent again: by then the finaliser that has lost it is left


class Terminated(SystemExit):
    """SIGTERM has come."""


@contextmanager
def end_at_signals() -> Iterator[None]:
    """End with the exit status that shells know, 130 or 143, when all around the work has put itself in order.

    Without this SIGTERM, which SLURM and `timeout` send, ends Python at once, and a sweep shows no results; in a fit
    Lightning ends the program with status 0, and with status 1 after Ctrl-C.
    """

    def end(*_: Any) -> NoReturn:
        raise Terminated(128 + signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, end)
    try:
        with send_lost_signals_again():
            yield
    except KeyboardInterrupt:
        _end_interrupted()
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's answer to Ctrl-C
            _end_interrupted()
        if type(error).__name__ == "SIGTERMException":  # Lightning's, whose import takes seconds
            sys.exit(128 + signal.SIGTERM)
        raise
    finally:
        for number, handler in before.items():  # Lightning leaves SIGINT ignored
            signal.signal(number, handler)


@contextmanager
def send_lost_signals_again() -> Iterator[None]:
    """Send a signal again whose exception Python has dropped.

    Python drops what a finaliser raises, that of a generator, `__del__` or a weak reference, and a signal may come
    while one runs, in a library too. Without this the program goes on as if nobody had pressed Ctrl-C.
    """
    before = sys.unraisablehook

    def send_again(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt | Terminated):
            before(dropped)
            return
        number = signal.SIGINT if isinstance(dropped.exc_value, KeyboardInterrupt) else signal.SIGTERM
        # Not at once, because what this function raises is dropped as well.
        timer = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _end_interrupted() -> NoReturn:
    print("error: interrupted", file=sys.stderr, flush=True)
    sys.exit(128 + signal.SIGINT)
