"""Whether a file is a GGUF file, and the names of its tensors, from its header alone.

The package gguf makes an object of every word first.
"""

import mmap
from pathlib import Path
from struct import error, unpack_from

from transformers.utils.import_utils import is_gguf_available

MAGIC = b"GGUF"
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each kind of value
TEXT, LIST = 8, 9


def require_gguf(path: Path, named: str) -> None:
    """Check that a file is a GGUF file, by its first bytes, and that the package that reads it is there.

    Args:
        path: of the file.
        named: its name in messages: the option of the configuration with its value.

    Raises:
        ValueError: there is no such file or package.

    >>> require_gguf(Path("nosuch.gguf"), "model.gguf=nosuch.gguf")
    Traceback (most recent call last):
    ValueError: model.gguf=nosuch.gguf: expected a GGUF file, got nosuch.gguf: no such file
    """
    if not path.is_file():
        what = "a folder; name the file in it" if path.is_dir() else "no such file"
        raise ValueError(f"{named}: expected a GGUF file, got {path}: {what}")
    with path.open("rb") as file:
        begins = file.read(len(MAGIC))
    if begins != MAGIC:
        what = f"one that begins with {begins!r}" if begins else "an empty file; fetch it again"
        raise ValueError(f"{named}: expected a GGUF file, got {what}")
    if not is_gguf_available():
        raise ValueError(
            f"{named}: expected the package gguf, which reads such files, got none of the version that transformers "
            'needs; pip install -c constraints.txt -e ".[gguf]"'
        )


def list_gguf_tensors(path: Path) -> list[str]:
    """Names of the tensors in a GGUF file, in their order. The layout is that of GGUF 2 and 3, little-endian.

    >>> list_gguf_tensors("model.gguf")[:2]  # doctest: +SKIP
    ['token_embd.weight', 'blk.0.attn_norm.weight']

    Raises:
        ValueError: the file ends within its header, or has values of an unknown kind.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return _list(content)
        except (LookupError, ValueError, OverflowError, RecursionError, error) as reason:
            raise ValueError(f"a header that cannot be read ({reason})") from None


def _list(content: mmap.mmap) -> list[str]:
    _, n_tensors, n_values = unpack_from("<IQQ", content, 4)
    place = 24
    for _ in range(n_values):
        place = _skip_text(content, place)
        place = _skip(content, place + 4, unpack_from("<I", content, place)[0])
    names = []
    for _ in range(n_tensors):
        end = _skip_text(content, place)
        names.append(content[place + 8 : end].decode())
        place = end + 4 + 8 * unpack_from("<I", content, end)[0] + 12  # its shape, kind and offset
    return names


def _skip(content: mmap.mmap, place: int, kind: int) -> int:
    """The place behind a value."""
    if kind == TEXT:
        return _skip_text(content, place)
    if kind != LIST:
        return place + SIZES[kind]
    of, n = unpack_from("<IQ", content, place)
    place += 12
    if of in SIZES:
        return place + n * SIZES[of]
    for _ in range(n):
        place = _skip(content, place, of)
    return place


def _skip_text(content: mmap.mmap, place: int) -> int:
    return place + 8 + unpack_from("<Q", content, place)[0]
