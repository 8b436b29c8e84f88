"""Shards: which examples each one holds, and how its files are called."""

SHARD = 256  # examples in a shard: what a kill can cost, and the unit that processes share


def count_shards(n: int) -> int:
    """Shards of n examples."""
    return -(-n // SHARD)


def get_rows(shard: int, n: int) -> range:
    """Numbers of the examples in one shard of n examples."""
    return range(shard * SHARD, min(n, (shard + 1) * SHARD))


def name_shard(rows: range, suffix: str) -> str:
    """Name of the file for the examples of one shard."""
    return f"shard-{rows.start // SHARD:05d}.{suffix}"
