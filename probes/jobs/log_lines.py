"""Lines of the log: what they hold of names and texts acts on no terminal and begins no line of its own."""

import logging

from datamodules.card import show_text

OWN = ("probegrid", "datamodules", "probes", "train")


class LogLines(logging.Formatter):
    """Formats messages with control characters written out; conf/config.yaml puts it into Hydra's logging.

    >>> LogLines("%(message)s").format(logging.makeLogRecord({"name": "probes", "msg": "a\\nerror: b"}))
    'a\\\\nerror: b'
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format the message of a record, without a traceback."""
        if record.name.partition(".")[0] in OWN:
            record.message = show_text(record.message)
        else:  # libraries write several lines at once
            record.message = "\n".join(map(show_text, record.message.split("\n")))
        return super().formatMessage(record)
