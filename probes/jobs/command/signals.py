"""Ctrl-C and SIGTERM: how the program ends from outside."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


@contextmanager
def end_at_signals() -> Iterator[None]:
    """End with the exit status that shells know, 130 or 143, when all around the work has put itself in order.

    Without this SIGTERM, which SLURM and `timeout` send, ends Python at once, and a sweep shows no results; in a fit
    Lightning ends the program with status 0.
    """

    def end(*_: Any) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    except SystemExit as error:
        if type(error).__name__ == "SIGTERMException":  # Lightning's, whose import takes seconds
            sys.exit(128 + signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
