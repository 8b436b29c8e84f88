"""Stops a chat template that runs away: it is rendered in a forked process with limits of time, memory and length."""

import gc
import json
import math
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import tokenization_utils_base

SECONDS = 10.0  # of processor time for one prompt; more of them have a tenth of a second more each
BYTES = 2**29  # that rendering one prompt may add to the memory
CHARACTERS = 10**7  # of one prompt
PATIENCE = 10  # seconds of the clock for a second of processor time: the machine may be busy


class RunawayTemplateError(ValueError):
    """A chat template took too long, needed too much memory, or wrote too much."""


@contextmanager
def limit_rendering() -> Iterator[None]:
    """Render chat templates of transformers in a child process within the block, and refuse one that runs away.

    The child is a fork, so it starts at once and has all that a template may read. It does nothing but render, and the
    system ends it at its limits. So loops, `7 ** (7 ** 9)` and `'x' * 10 ** 10` are all stopped, also where they run
    while the template is compiled: this process compiles none.

    Not stopped: a template on another system than Linux, where it is rendered in this process without a limit; and one
    that stays just below the limits, which is slow for each batch of prompts.

    Raises:
        RunawayTemplateError: the template reached a limit, or crashed.
        jinja2.TemplateError: it failed.

    Example:
        >>> with limit_rendering():  # doctest: +SKIP
        ...     tokenizer.apply_chat_template(turns, tokenize=False)
    """
    module: Any = tokenization_utils_base
    render = module.render_jinja_template
    if sys.platform == "linux":
        module.render_jinja_template = lambda **given: _render_apart(render, given)
    try:
        yield
    finally:
        module.render_jinja_template = render


def _render_apart(render: Callable[..., Any], given: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """Render in a child process, which writes each prompt as a line of JSON, or the error that ended it."""
    conversations: Sequence[Any] = given["conversations"]
    seconds = math.ceil(SECONDS + 0.1 * (len(conversations) - 1))
    reader, writer = os.pipe()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the child must not run our handlers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads: the child needs none of them
            child = os.fork()
        if child == 0:
            _run_child(writer, seconds, lambda one: render(**{**given, "conversations": [one]}), conversations)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        os.close(writer)
        content = _read_all(reader, time.monotonic() + PATIENCE * seconds)
    finally:
        os.close(reader)
        with suppress(ProcessLookupError, ChildProcessError):  # where the system itself clears up ended children
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    lines = [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
    error = lines.pop() if lines and isinstance(lines[-1], dict) else {}
    if error.get("kind") == MemoryError.__name__:
        raise _refuse(f"one that needs more than {BYTES >> 20} MiB")
    if error.get("kind") == RunawayTemplateError.__name__:
        raise _refuse(error["text"])
    if error:
        raise TemplateError(error["text"] or error["kind"])
    if len(lines) < len(conversations):
        raise _refuse(f"one that runs for more than {seconds} s, or crashes")
    return [text for text, _ in lines], [indices for _, indices in lines]


def _run_child(writer: int, seconds: int, render: Callable[[Any], Any], conversations: Sequence[Any]) -> None:
    """Render within limits, and end this process; nothing of the parent's is cleaned up or written out."""
    try:
        gc.disable()  # what the parent left may not be freed here
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _set_limit(resource.RLIMIT_CORE, 0)
        _set_limit(resource.RLIMIT_CPU, seconds)
        _set_limit(resource.RLIMIT_AS, pages * resource.getpagesize() + BYTES)
        with os.fdopen(writer, "w") as file:
            try:
                for one in conversations:
                    texts, indices = render(one)
                    if len(texts[0]) > CHARACTERS:
                        raise RunawayTemplateError(f"one that writes more than {CHARACTERS:,} characters")
                    file.write(json.dumps([texts[0], indices[0] if indices else None]) + "\n")
            except BaseException as error:
                file.write(json.dumps({"kind": type(error).__name__, "text": str(error)[:1_000]}) + "\n")
    finally:
        os._exit(0)


def _set_limit(kind: int, most: int) -> None:
    held = resource.getrlimit(kind)[1]
    most = most if held == resource.RLIM_INFINITY else min(most, held)
    resource.setrlimit(kind, (most, most))


def _read_all(reader: int, until: float) -> bytes:
    """Read what comes until the other end is closed, or the time is up."""
    parts: list[bytes] = []
    while select.select([reader], [], [], max(until - time.monotonic(), 0))[0]:
        parts.append(os.read(reader, 1 << 20))
        if not parts[-1]:
            break
    return b"".join(parts)


def _refuse(got: str) -> RunawayTemplateError:
    return RunawayTemplateError(
        f"model.template: expected a chat template that writes a prompt, got {got}; set model.chat=false, or correct "
        "the template"
    )
