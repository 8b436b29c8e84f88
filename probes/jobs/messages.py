"""Messages: lines of a sweep, and those of Lightning that tell something, as of a profiler or of early stopping."""

import logging
import os
import re
import sys

NOISE = (  # the same in every run, or an advertisement
    "GPU available",
    "TPU available",
    "💡",
    "`Trainer.fit` stopped: `max_epochs=",  # as configured
    *(f"`Trainer(limit_{split}_batches=1.0)`" for split in ("train", "val", "test")),  # all of them, as ever
    "----",  # the frame around what follows it
    "Metric ",  # of early stopping: improved, as in most epochs
)


class WithoutNoise(logging.Filter):
    """Lets messages pass that tell something of this run; conf/config.yaml puts it into Hydra's logging.

    >>> record = logging.makeLogRecord({"msg": "GPU available: False, used: False"})
    >>> WithoutNoise().filter(record)
    False
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a message."""
        return not re.sub(r"^\[rank: \d+\] ", "", record.getMessage()).startswith(NOISE)


def say(*lines: object) -> None:
    """Print lines; where nobody reads them any more, as after `| head -1`, the work goes on."""
    from datamodules.card import show_text  # not at the start of each command

    try:
        print(*(show_text(str(line)) for line in lines), sep="\n", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
