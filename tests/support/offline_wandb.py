"""Records of an offline run of W&B, read from its file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

START, BLOCK, HEADER = 7, 32768, 7  # bytes: of the file's own header, of a block, of a fragment's header
FIRST, LAST = (1, 2), (1, 4)  # kinds of fragments that begin a record, and that end one; 1 is a whole record


def read_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format, blocks of fragments, behind a header of its own."""
    from wandb.proto import wandb_internal_pb2

    content, at, record = path.read_bytes(), START, b""
    assert content.startswith(b":W&B")
    while at + HEADER <= len(content):
        left = BLOCK - at % BLOCK
        if left < HEADER:  # padding
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        fragment = content[at + HEADER : at + HEADER + length]
        record = fragment if kind in FIRST else record + fragment
        if kind in LAST:
            yield wandb_internal_pb2.Record.FromString(record)  # type: ignore[attr-defined]
        at += HEADER + length
