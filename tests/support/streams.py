"""What a dataloader hook may return besides a `DataLoader`."""

from collections.abc import Iterator, Sequence
from typing import Any


class Stream:
    """Blocks in their order, as a sized iterable; Lightning would take a list for several loaders."""

    def __init__(self, blocks: Sequence[Any]):
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.blocks)
