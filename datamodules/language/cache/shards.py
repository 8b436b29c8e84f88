"""Shards: the examples of each one, and the names of its files."""

SHARD = 256  # examples in a shard: the most work lost by a kill, and the unit that processes share


def count_shards(n: int) -> int:
    """Count the shards of n examples.

    >>> count_shards(300)
    2
    """
    return -(-n // SHARD)


def get_rows(shard: int, n: int) -> range:
    """List the numbers of the examples in one shard of n examples.

    >>> get_rows(1, 300)
    range(256, 300)
    """
    return range(shard * SHARD, min(n, (shard + 1) * SHARD))


def name_shard(rows: range, suffix: str) -> str:
    """Name the file for the examples of one shard.

    >>> name_shard(range(256, 300), "parquet")
    'shard-00001.parquet'
    """
    return f"shard-{rows.start // SHARD:05d}.{suffix}"
