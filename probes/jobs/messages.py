"""Which of Lightning's messages are shown: reports of a profiler, of early stopping, of a restored checkpoint."""

import logging

NOISE = (  # the same in every run, or an advertisement
    "GPU available",
    "TPU available",
    "💡",
    "`Trainer.fit` stopped: `max_epochs=",  # as configured
    *(f"`Trainer(limit_{split}_batches=1.0)`" for split in ("train", "val", "test")),  # all of them, as ever
    "----",  # the frame around what follows it
)


class WithoutNoise(logging.Filter):
    """Lets messages pass that tell something of this run; conf/config.yaml puts it into Hydra's logging.

    >>> record = logging.makeLogRecord({"msg": "GPU available: False, used: False"})
    >>> WithoutNoise().filter(record)
    False
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a message."""
        return not record.getMessage().startswith(NOISE)
