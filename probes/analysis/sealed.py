"""Files of tensors with a card, under one checksum: probes.safetensors and scores.safetensors."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from datamodules.card import Card, show_text

log = logging.getLogger("probegrid")
SEALED = re.compile(r'\{"sha256": "([0-9a-f]{64})", (.*)')
OLD = {*Card.__dataclass_fields__, "auc", "split", "target"}  # keys of the cards of files without a checksum
LONGEST = 200  # characters of a path or a reason that are shown


class Sealed(NamedTuple):
    """What stands in a file.

    Attributes:
        content: of the card, and what was written beside it.
        tensors: by name.
    """

    content: dict[str, Any]
    tensors: dict[str, Tensor]


def seal(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> bytes:
    """Write tensors and a card as safetensors, with a SHA-256 digest of both.

    The card is one entry of metadata, as safetensors writes several in any order. The digest stands first in it.

    Raises:
        ValueError: the card holds NaN or infinity.

    Example:
        >>> len(seal({"bias": torch.zeros(2)}, {"model": "gpt2"}))
        208
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(dict(content), allow_nan=False)
    return save(whole, {"card": f'{{"sha256": "{_digest(whole, text)}", {text[1:]}'})


def read_sealed(path: str | Path, what: str, advice: str) -> Sealed:
    """Read such a file. One of an earlier version has no checksum; a line of the log says so.

    Args:
        path: the file.
        what: it should hold, for messages, such as "the probes of a run".
        advice: what to do where `path` is none of these.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, cannot be read, or was altered.
    """
    require_file(path, what, advice)
    shown = _shorten(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("card")
            if text is None:
                raise ValueError(f"expected {what}, got {shown} without a card; {advice}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, AttributeError) as error:  # also a type that torch does not have
        raise ValueError(f"expected {what}, got {shown}, which can't be read ({_shorten(error)}); run again") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected {what}, got {shown} with another card ({_shorten(error)}); run again") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected {what}, got {shown} with a card that is {_shorten(text)}; run again")
    found = SEALED.fullmatch(text)
    if found is None and (others := sorted(content.keys() - OLD)):
        raise ValueError(f"expected {what}, got {shown} with {_shorten(', '.join(others))} in its card; run again")
    if found and found[1] != _digest(tensors, "{" + found[2]):
        raise ValueError(f"expected {what}, got {shown}, which was altered: its checksum is another; run again")
    if found is None:
        log.warning("%s: no checksum, as earlier versions wrote none; taken as it is", shown)
    content.pop("sha256", None)
    return Sealed(content, tensors)


def require_file(path: str | Path, what: str, advice: str) -> None:
    """Refuse what is no regular file; a pipe would wait for its writer.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no path, or that of something else.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise ValueError(f"expected {what}, got {_shorten(repr(path))}, which is no path; {advice}")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"expected {what}, got {_shorten(path)}: no such file; {advice}") from None
    except (OSError, ValueError) as error:  # a name too long, a NUL character, half a surrogate pair
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"expected {what}, got {_shorten(path)}: {_shorten(reason)}; {advice}") from None
    if not S_ISREG(mode):
        kind = "a folder" if S_ISDIR(mode) else "no regular file"
        raise ValueError(f"expected {what}, got {_shorten(path)}, {kind}; {advice}")


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def _shorten(text: object) -> str:
    return show_text(" ".join(str(text).split()))[:LONGEST]
