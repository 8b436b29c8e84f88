"""What the program prints is a convenience: a terminal that is gone, full or knows no accents does not end a run."""

import io
import os
import sys
from contextlib import suppress


class Display(io.TextIOWrapper):
    """A text stream that drops what cannot be shown: `train.py | head -1`, a full disk under `> log`.

    A letter that the encoding lacks is shown as a question mark.
    """

    def write(self, text: str) -> int:
        """Write, or from the first failure on, write nothing."""
        try:
            return super().write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what is left."""
        try:
            super().flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # also what is buffered, which Python would write at its end
        os.close(nowhere)
        with suppress(OSError):
            super().flush()


def print_leniently() -> None:
    """Let standard output and standard error of this process be displays."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # a test or a notebook has another
            stream.flush()
            shown = Display(
                stream.buffer, stream.encoding, "replace", line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )  # fmt: skip
            setattr(sys, name, shown)
