"""Random draws, as many at once as memory allows."""

CHUNK_BYTES = 32_000_000


def split_draws(draws: int, width: int) -> list[int]:
    """How many draws of float64 [width] to make at once, so that they take at most `CHUNK_BYTES`.

    >>> split_draws(2_500, width=4_000)
    [1000, 1000, 500]
    """
    size = max(1, CHUNK_BYTES // (8 * width))
    return [min(size, draws - start) for start in range(0, draws, size)]
