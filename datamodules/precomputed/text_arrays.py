"""Arrays of texts in place of numbers: labels that name classes, groups, and names of examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.targets import number_classes


def list_texts(array: np.ndarray, name: str) -> list[str]:
    """The texts of an array [N].

    Args:
        array: of numpy's unicode texts, or of Python's.
        name: what it is called.

    Raises:
        ValueError: a text that UTF-8, and so no file, can hold.

    Example:
        >>> list_texts(np.array(["a", "b"]), "groups")
        ['a', 'b']
    """
    try:
        texts = array.tolist()
        for text in texts:
            text.encode()
    except ValueError:  # half of a surrogate pair, or a number that is no character
        raise ValueError(f"expected {name} as texts that UTF-8 can hold, got others; correct them") from None
    return texts


def number_labels(texts: list[str], names: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Labels [N] that name the class of each example, as numbers [N], and the names with `classes` among them.

    Raises:
        ValueError: the names have classes already, which numbers stand for.

    Example:
        >>> number_labels(["no", "yes", "no"], {"model": "mine"})
        (tensor([0, 1, 0]), {'model': 'mine', 'classes': ['no', 'yes']})
    """
    if names.get("classes") is not None:
        raise ValueError("expected labels as numbers beside classes, got texts; leave classes out")
    numbers, classes = number_classes(texts)
    return numbers, {**names, "classes": classes}


def check_ids(ids: list[Any]) -> list[str]:
    """Names of examples as texts, all different.

    Raises:
        ValueError: two are equal, or one is neither a text nor a whole number.

    Example:
        >>> check_ids([7, 8])
        ['7', '8']
    """
    if odd := [one for one in ids if not isinstance(one, str | int) or isinstance(one, bool)]:
        raise ValueError(f"expected ids as texts or whole numbers, got {odd[0]!r}; convert them")
    rows: dict[str, int] = {}
    for row, one in enumerate(map(str, ids)):
        if one in rows:
            raise ValueError(
                f"expected different ids, got {one[:80]!r} in rows {rows[one]} and {row}; give each example its own"
            )
        rows[one] = row
    return list(rows)
