"""Digest of sequences of token ids, for the key of the cache."""

import hashlib
from array import array
from collections.abc import Sequence


def digest_sequences(sequences: Sequence[Sequence[int]]) -> str:
    """SHA-256 of N sequences of token ids, their number and order included.

    Example:
        >>> digest_sequences([[1, 2], [3]])[:12]
        'da72f95aa502'
    """
    digest = hashlib.sha256()
    for ids in sequences:
        digest.update(array("i", [len(ids), *ids]).tobytes())
    return digest.hexdigest()
