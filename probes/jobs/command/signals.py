"""Ctrl-C and SIGTERM: how the program ends from outside."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from probes.jobs.run_name import find_starter, is_further_rank

AGAIN = 0.02  # seconds after which a signal is sent again: by then the finaliser that has lost it is left


_came: list[int] = []  # signals since `end_at_signals` was entered


class Terminated(SystemExit):
    """SIGTERM has come."""


def start() -> None:
    """The command `probegrid`: `train.main`, whose import takes long enough for a Ctrl-C."""
    end_at_once()
    from train import main

    run_to_end(main)


def run_to_end(work: Callable[[], None]) -> NoReturn:
    """Do the work and end the process, with its exit status.

    Python's own end takes two seconds once torch is loaded, and in these a signal ends it without a word.
    """
    status: Any = 0
    try:
        work()
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            raise
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(status)


def end_at_once() -> None:
    """End at Ctrl-C or SIGTERM wherever the program is: while it imports, when its work is done, at a second Ctrl-C.

    A signal that whoever started the program has it ignore, as `nohup` does, stays ignored.
    """
    _answer(_end)


@contextmanager
def end_at_signals() -> Iterator[None]:
    """End with the exit status that shells know, 130 or 143, when all around the work has put itself in order.

    Without this SIGTERM, which SLURM and `timeout` send, ends Python at once, and a sweep shows no results; in a fit
    Lightning ends the program with status 0, and with status 1 after Ctrl-C.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    _came.clear()
    _answer(_raise)
    try:
        with send_lost_signals_again():
            yield
    except KeyboardInterrupt:
        _tell_and_exit(signal.SIGINT)
    except Exception:
        if _came:
            _tell_and_exit(_came[0])
        raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's answer to Ctrl-C
            _tell_and_exit(signal.SIGINT)
        if isinstance(error, Terminated) or type(error).__name__ == "SIGTERMException":  # Lightning's, slow to import
            _tell_and_exit(signal.SIGTERM)
        raise
    finally:
        for number, handler in before.items():  # Lightning leaves SIGINT ignored
            signal.signal(number, handler)


def tell_end(number: int) -> str:
    """The line for a signal: what is kept, and how to go on.

    >>> tell_end(signal.SIGTERM)
    'error: ended by SIGTERM; the cache keeps what is finished, and the same command goes on from there'
    """
    by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    if not {"-m", "--multirun"}.isdisjoint(sys.argv):
        return f"error: ended by {by}; finished jobs are kept, and the same command goes on with resume=true"
    if "experiment=score" in sys.argv:  # whose files appear together at its end
        return f"error: ended by {by}; scores are written together at the end, and the same command starts over"
    return f"error: ended by {by}; the cache keeps what is finished, and the same command goes on from there"


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
        _answer(_raise)
        # Not at once, because what this function raises is dropped as well.
        timer = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = before


def raise_signal_again() -> None:
    """Raise anew what a signal has raised; whoever catches any error calls this first.

    Compiled code may put an error of its own in place of the exception of a signal, as comparisons in numpy do.
    """
    if _came:
        raise KeyboardInterrupt if _came[0] == signal.SIGINT else Terminated(128 + _came[0])


def _answer(handler: Callable[[int, Any], NoReturn]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    if _is_importing(frame):  # some modules take an interrupt for one of theirs that is missing
        _end(number, frame)
    _came.append(number)
    end_at_once()  # at the next signal: the user does not want to wait
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(128 + number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end(number: int, _: Any) -> NoReturn:
    if _is_news(number):
        os.write(2, f"{tell_end(number)}\n".encode())  # not by sys.stderr, in the midst of whose work it may be
    os._exit(128 + number)


def _tell_and_exit(number: int) -> NoReturn:
    if _is_news(number):
        with suppress(OSError):  # a terminal that is gone
            print(tell_end(number), file=sys.stderr, flush=True)
    sys.exit(128 + number)


def _is_news(number: int) -> bool:
    """Whether to tell of a signal: torchrun sends SIGTERM where another rank has told an error, and one rank tells."""
    return not (is_further_rank() or (number == signal.SIGTERM and find_starter() == "torchrun"))
