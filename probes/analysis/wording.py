"""How numbers, layers and positions are written in a sentence."""

from collections.abc import Sequence

MOST = 4  # names of a list that are written where it is much longer


def digits(value: float | None, places: int = 3) -> str:
    """A number without a leading zero; a dash for NaN and None.

    >>> digits(0.8251), digits(1.0), digits(-0.02), digits(-0.0001)
    ('.825', '1.000', '-.020', '.000')
    """
    if value is None or value != value:
        return "-"
    text = f"{value if round(value, places) else 0.0:.{places}f}"  # no -.000
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def name_layers(top: int, bottom: int) -> str:
    """Name a range of layers.

    >>> name_layers(2, 2), name_layers(2, 5)
    ('layer 2', 'layers 2 to 5')
    """
    return f"layer {top}" if top == bottom else f"layers {top} to {bottom}"


def name_positions(left: str, right: str) -> str:
    """Name a range of positions.

    >>> name_positions("-2", "-2"), name_positions("-2", "-1")
    ('-2', '-2 to -1')
    """
    return left if left == right else f"{left} to {right}"


def join_names(parts: Sequence[str]) -> str:
    """Parts as a list in a sentence."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def shorten_names(names: Sequence[str]) -> str:
    """A list of names, the first few of many."""
    if len(names) <= MOST + 1:
        return join_names(names)
    return f"{', '.join(names[:MOST])} and {len(names) - MOST} more"
