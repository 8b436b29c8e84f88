"""Stores a shard while the model makes the next one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class ShardWriter:
    """A thread that stores shards one at a time; use in a `with` block, which waits for the last one.

    At most one shard waits or is being stored, so at most two are in memory: this one, and the one being made.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "shard-writer")
        self._storing: Future[None] | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()  # after an error, too: the shard in hand is whole, and need not be made again
        if failure is None:
            self.flush()

    def submit(self, store: Callable[[], None]) -> None:
        """Store a shard once the one before is stored.

        Raises:
            Exception: what storing the one before raised.
        """
        self.flush()
        self._storing = self._pool.submit(store)

    def check(self) -> None:
        """Raise what storing the last shard raised, if that is known by now."""
        if self._storing is not None and self._storing.done():
            self.flush()

    def flush(self) -> None:
        """Wait until the last shard is stored, and raise what that raised."""
        storing, self._storing = self._storing, None
        if storing is not None:
            storing.result()
