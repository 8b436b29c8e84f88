"""Tensors in safetensors files by their byte ranges, read without mapping: mapped pages count as a process's memory.

The format: 8 bytes with the length of the header, little-endian; the header, JSON; the tensors' bytes.
https://huggingface.co/docs/safetensors
"""

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
HEADER = 10**8  # bytes of a header at most, by the format


@dataclass(frozen=True)
class ByteRange:
    """One tensor of a safetensors file, described by its place in the file.

    Attributes:
        path: the file.
        name: of the tensor.
        kind: its dtype as the header has it.
        shape: its shape.
        start: where in the file its first byte is.
    """

    path: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    start: int

    @property
    def dtype(self) -> torch.dtype:
        """Its torch dtype; raises ValueError for one that is not in `DTYPES`."""
        if self.kind not in DTYPES:
            raise ValueError(
                f"{self.path}: expected {self.name} in one of {', '.join(DTYPES)}, got {self.kind}; convert it"
            )
        return DTYPES[self.kind]

    def load(self) -> Tensor:
        """Load the whole tensor; use it for small ones."""
        content = bytearray(math.prod(self.shape) * self.dtype.itemsize)
        with open_file(self.path) as file:
            self.read(file, memoryview(content), 0)
        return torch.frombuffer(content, dtype=self.dtype).view(self.shape)

    def read(self, file: int, into: memoryview, offset: int) -> None:
        """Fill `into` with the bytes from `offset` within the tensor."""
        at = self.start + offset
        while len(into):
            got = os.preadv(file, [into], at)
            if not got:
                raise ValueError(
                    f"{self.path}: expected {len(into)} more bytes of {self.name} at byte {at}, got the end of the "
                    "file; it was cut short since it was opened, write it again"
                )
            into, at = into[got:], at + got


@contextmanager
def open_file(path: Path) -> Iterator[int]:
    """Open a file and yield its descriptor; raises ValueError with the file name on any error.

    Pipes and devices are refused: they have no byte ranges, and reading them may never end.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
        try:
            mode = os.fstat(file).st_mode
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "is a directory" if stat.S_ISDIR(mode) else "is no regular file")
            yield file
        finally:
            os.close(file)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        kind = f"{suffix} file" if (suffix := path.suffix.lower()) in (".npy", ".npz") else "safetensors file"
        raise ValueError(
            f"expected a {kind}, got {cut_middle(path)}: {reason}; check the path, or write it again"
        ) from error


def cut_middle(text: str | Path) -> str:
    """Cut a path or a list of names in its middle, so that it fits into a line of a message."""
    text = str(text)
    return text if len(text) <= 300 else f"{text[:140]}[...]{text[-140:]}"


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds.

    Attributes:
        path: the file.
        tensors: by name.
        metadata: strings by key.
    """

    path: Path
    tensors: dict[str, ByteRange]
    metadata: dict[str, str]

    def get_tensor(self, name: str, axes: str) -> ByteRange:
        """Return a tensor by name; raises ValueError, which lists the existing names, if it is missing."""
        if name not in self.tensors:
            found = cut_middle(", ".join(sorted(self.tensors))) or "none"
            raise ValueError(f"{self.path}: expected a tensor {name} {axes}, got {found}; write it under that name")
        return self.tensors[name]


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file.

    Raises:
        ValueError: no such file, not a safetensors file, or one that was cut short.

    Example:
        >>> sorted(read_header(Path("acts.safetensors")).tensors)  # doctest: +SKIP
        ['acts', 'labels']
    """
    with open_file(path) as file:
        size = os.fstat(file).st_size
        length = int.from_bytes(os.pread(file, 8, 0), "little")
        header = os.pread(file, length, 8) if length <= min(size - 8, HEADER) else b""
        fault = _find_fault(path)
    start = 8 + length
    try:
        described = json.loads(header)
        metadata = described.pop("__metadata__", {})
        ends = [entry["data_offsets"][1] for entry in described.values()]
        stored = {
            name: ByteRange(path, name, entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
            for name, entry in described.items()
        }
        # The library has checked this too, except where the file could not be mapped.
        numbers = [number for tensor in stored.values() for number in (*tensor.shape, tensor.start - start)]
        strings = [*metadata, *metadata.values()]
        fits = all(type(number) is int and number >= 0 for number in numbers) and all(
            isinstance(text, str) for text in strings
        )
        fits = fits and all(
            math.prod(tensor.shape) * DTYPES[tensor.kind].itemsize == end - tensor.start + start
            for tensor, end in zip(stored.values(), ends, strict=True)
            if tensor.kind in DTYPES
        )
        whole = start + max(ends, default=0)
        if not fits or (fault and size >= whole):
            raise ValueError
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise ValueError(
            f"expected a safetensors file, got {cut_middle(path)}, whose header cannot be read"
            f"{f' ({fault})' if fault else ''}; write it with safetensors.torch.save_file"
        ) from None
    if size < whole:
        raise ValueError(f"{path}: expected {whole} bytes by its header, got {size}; it was cut short, write it again")
    return Header(path, stored, metadata)


def _find_fault(path: Path) -> str | None:
    """What the reader of the safetensors library finds wrong with a header; None where it finds nothing.

    It holds every rule of the format: lengths, types, shapes as whole numbers, tensors that follow each other without
    overlap. It maps the file without reading beyond the header.
    """
    try:
        with safe_open(path, "np"):
            return None
    except SafetensorError as error:
        return shorten(str(error).removeprefix("Error while deserializing header: "), 120)
    except (OSError, MemoryError):  # no address space to map the file
        return None
