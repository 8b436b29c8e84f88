"""Stops a chat template that runs away: one that loops without end, or writes without end."""

import ctypes
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 10.0  # for one prompt; more of them have a tenth of a second more each
CHARACTERS = 10**7  # of one prompt


class RunawayTemplateError(ValueError):
    """A chat template took too long, or wrote too much."""


class _TimeUp(BaseException):
    """Raised within the template: not an Exception, which code around it may catch."""


@contextmanager
def limit_rendering(n: int) -> Iterator[None]:
    """Stop the chat template that renders within the block when it takes too long or writes too much.

    An exception is set in the thread that renders; it is raised there between two steps of the template's code.

    Args:
        n: prompts that are rendered.

    Raises:
        RunawayTemplateError: the template was stopped.

    Example:
        >>> with limit_rendering(1):  # doctest: +SKIP
        ...     tokenizer.apply_chat_template(turns, tokenize=False)
    """
    thread, lock, state = ctypes.c_ulong(threading.get_ident()), threading.Lock(), {"over": False}
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def stop() -> None:
        with lock:
            if not state["over"]:
                set_exception(thread, ctypes.py_object(_TimeUp))

    seconds = SECONDS + 0.1 * (n - 1)
    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    environment: Any = ImmutableSandboxedEnvironment
    before = environment.concat
    environment.concat = staticmethod(_join)  # joins what a template writes
    try:
        timer.start()
        try:
            yield
        finally:
            with lock:
                state["over"] = True
                set_exception(thread, None)  # one that was set but not raised yet
            timer.cancel()
            environment.concat = before
    except _TimeUp:
        raise _refuse(f"one that runs for more than {seconds:g} s") from None


def _join(pieces: Iterable[str]) -> str:
    held, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > CHARACTERS:
            raise _refuse(f"one that writes more than {CHARACTERS:,} characters")
        held.append(piece)
    return "".join(held)


def _refuse(got: str) -> RunawayTemplateError:
    return RunawayTemplateError(
        f"model.template: expected a chat template that writes a prompt, got {got}; set model.chat=false, or correct "
        "the template"
    )
