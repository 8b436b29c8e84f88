"""Activations in numpy's files, without pickle: `.npy`, which may exceed memory, and `.npz`, which may not."""

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

from datamodules.precomputed.arrays import as_tensor
from datamodules.precomputed.contents import AXES, Contents, Loaded, Part, Source
from datamodules.precomputed.text_arrays import check_ids, list_texts, number_labels
from datamodules.stream.byte_ranges import ByteRange, cut_middle, open_file
from datamodules.stream.memory import measure_free_memory
from datamodules.stream.store import TensorFile, TensorInMemory

KINDS = {
    "<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32", "<i2": "I16", "|i1": "I8", "|u1": "U8",
    "|b1": "BOOL",
}  # fmt: skip
BESIDE = ("labels", "groups", "valid", "ids")
TEXTS = ("labels", "groups", "ids")  # which may be texts
NAMES = ("layers", "positions", "targets", "classes", "model", "dataset", "site", "target")
MOST_NAMES = 10**6  # bytes of the names of a file


def read_npy(path: Path) -> Contents:
    """Read acts `[N, L, T, D]` from NAME.npy, streamed from where they are, and the rest from files beside it.

    NAME.labels.npy holds the labels; NAME.groups.npy and NAME.valid.npy may hold what a safetensors file holds under
    these names, and NAME.ids.npy names of the examples [N]. Labels of texts are classes; groups and ids may be texts
    too. NAME.names.json may give layers, positions, targets, classes, model, dataset, site and target, as an
    object.

    Raises:
        ValueError: a file is missing, is damaged, needs pickle, or does not match the description of
            `PrecomputedDataModule`.
    """
    acts = _find_array(path, "acts")
    beside = {name: path.with_name(f"{path.stem}.{name}.npy") for name in BESIDE}
    if not beside["labels"].exists():
        raise ValueError(
            f"{path}: expected its labels in {beside['labels'].name}, got no such file; write them there with np.save"
        )
    parts: dict[str, Part | list[Any]] = {
        name: _find_part(file, name) for name, file in beside.items() if file.exists()
    }
    return _read(path, acts, parts, read_names(path.with_name(f"{path.stem}.names.json")))


def read_npz(path: Path) -> Contents:
    """Read the arrays of an .npz file, named as the tensors of a safetensors file, into memory.

    Names are arrays too: layers of whole numbers, positions and targets of texts, model and the like of one text.
    Labels of texts are classes; groups and ids, names of the examples [N], may be texts too.

    Raises:
        ValueError: the file is damaged, needs pickle, exceeds the memory, or does not match the description of
            `PrecomputedDataModule`.
    """
    with open_file(path):  # the words for a file that is not there
        pass
    try:
        with zipfile.ZipFile(path) as file:
            members = {one.filename.removesuffix(".npy"): one for one in file.infolist()}
            if "acts" not in members:
                found = cut_middle(", ".join(sorted(members))) or "none"
                raise ValueError(f"expected an array acts {AXES}, got {found}; write it under that name")
            needed, free = members["acts"].file_size, measure_free_memory()
            if needed > free:
                raise ValueError(
                    f"expected acts of at most {free:,} bytes, the free memory, got {needed:,}; write them with "
                    "np.save or as safetensors, which are read piece by piece"
                )
            if sum(members[name].file_size for name in NAMES if name in members) > MOST_NAMES:
                raise ValueError(f"expected names of at most {MOST_NAMES:,} bytes, got more; shorten them")
            names = {name: _load_member(file, name).tolist() for name in NAMES if name in members}
            acts = as_tensor(_load_member(file, "acts"), "acts")
            parts = {name: _find_member(file, name) for name in BESIDE if name in members}
            return _read(path, acts, parts, names)
    except zipfile.BadZipFile as error:
        raise ValueError(f"expected an .npz file, got {cut_middle(path)} ({error}); write it with np.savez") from None
    except ValueError as error:
        said = str(error)
        raise ValueError(said if said.startswith(f"{path}: ") else f"{path}: {said.removeprefix('arrays: ')}") from None


def read_names(path: Path) -> Mapping[str, Any]:
    """Names from a JSON object in a file of their own; none where there is no such file.

    Raises:
        ValueError: the file holds something else.
    """
    if not path.exists():
        return {}
    with open_file(path):
        pass
    try:
        names = json.loads(path.read_text("utf-8")) if path.stat().st_size <= MOST_NAMES else None
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, dict):
        raise ValueError(
            f"{path}: expected a JSON object with some of {', '.join(NAMES)}, got another text; write it with json.dump"
        )
    if unknown := sorted(set(names) - set(NAMES)):
        raise ValueError(
            f"{path}: expected some of {', '.join(NAMES)}, got {cut_middle(', '.join(unknown))}; remove the others"
        )
    return names


@dataclass(frozen=True)
class _Member:
    """A small array of an open .npz file."""

    name: str
    file: zipfile.ZipFile

    @property
    def shape(self) -> tuple[int, ...]:
        with self.file.open(f"{self.name}.npy") as member:
            return _read_header(member, self.name)[0]

    def load(self) -> Tensor:
        return as_tensor(_load_member(self.file, self.name), self.name)


def _read(
    path: Path, acts: ByteRange | Tensor, parts: Mapping[str, Part | list[Any]], names: Mapping[str, Any]
) -> Contents:
    """Check all but the activations; parts that hold texts are lists."""
    tensors = {name: part for name, part in parts.items() if not isinstance(part, list)}
    texts = {name: part for name, part in parts.items() if isinstance(part, list)}
    source = Source(str(path), tensors, names)
    source.check_acts(acts.shape, acts.dtype)
    shapes = {name: [len(part)] for name, part in texts.items()}
    numbered = tensors.pop("ids", None)
    shapes |= {} if numbered is None else {"ids": list(numbered.shape)}
    for name, shape in shapes.items():
        if shape != [N := acts.shape[0]]:
            source.refuse(f"{name} [N] = [{N}] beside acts {AXES} = {list(acts.shape)}", shape, "give one for each")
    ids = texts.get("ids") if numbered is None else numbered.load().tolist()
    try:
        if "labels" in texts:
            numbers, names = number_labels(texts["labels"], names)
            tensors["labels"] = Loaded(numbers)
        ids = None if ids is None else check_ids(ids)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    store = TensorFile(acts) if isinstance(acts, ByteRange) else TensorInMemory(acts)
    return Source(str(path), tensors, names).read(store, path.stem, groups=texts.get("groups"), ids=ids)


def _find_member(file: zipfile.ZipFile, name: str) -> Part | list[Any]:
    """A small array of an open .npz file; texts as a list."""
    with file.open(f"{name}.npy") as member:
        shape, _, dtype = _read_header(member, name)
    if not _are_texts(name, shape, dtype):
        return _Member(name, file)
    return list_texts(_load_member(file, name), name)


def _find_part(path: Path, name: str) -> Part | list[Any]:
    """A small array of an .npy file; texts as a list."""
    with open_file(path), path.open("rb") as file:
        try:
            shape, _, dtype = _read_header(file, name)
            if _are_texts(name, shape, dtype):
                if (whole := file.tell() + math.prod(shape) * dtype.itemsize) > path.stat().st_size:
                    raise ValueError(f"expected {whole} bytes by its header, got fewer; write it again")
                file.seek(0)
                return list_texts(npy.read_array(file, allow_pickle=False), name)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return _find_array(path, name)


def _are_texts(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return name in TEXTS and dtype.kind == "U" and len(shape) == 1


def _load_member(file: zipfile.ZipFile, name: str) -> np.ndarray:
    """Load an array; its header is read first, so that a false one does not ask for memory that it does not need."""
    info = file.getinfo(f"{name}.npy")
    try:
        with file.open(info) as member:
            shape, _, dtype = _read_header(member, name)
        if math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError(f"expected {name} {list(shape)} in {dtype}, got {info.file_size:,} bytes; write it again")
        with file.open(info) as member:
            return npy.read_array(member, allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"expected {name} in whole, got a broken array ({reason}); write it again") from None
    except Exception as error:  # of zlib and lzma, which have classes of their own
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"expected {name} in whole, got a broken array ({error}); write it again") from None


def _find_array(path: Path, name: str) -> ByteRange:
    """Find the one array of an .npy file, as a range of its bytes."""
    with open_file(path), path.open("rb") as file:
        try:
            shape, fortran, dtype = _read_header(file, name)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        start, size = file.tell(), path.stat().st_size
    if fortran and len(shape) > 1:
        raise ValueError(f"{path}: expected an array in C order, got Fortran order; write np.ascontiguousarray of it")
    if (kind := KINDS.get(dtype.str)) is None:
        raise ValueError(
            f"{path}: expected {name} in little-endian numbers of at most 8 bytes, or bool, got {dtype}; convert it"
        )
    whole = start + math.prod(shape) * dtype.itemsize
    if size < whole:
        raise ValueError(f"{path}: expected {whole} bytes by its header, got {size}; it was cut short, write it again")
    return ByteRange(path, name, kind, shape, start)


def _read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype of an array; leaves the file at its first byte."""
    readers: dict[tuple[int, int], Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        version = npy.read_magic(file)
        shape, fortran, dtype = readers[version](file)
    except Exception as error:  # zlib and lzma have classes of their own
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"expected {name} as numpy writes arrays, got a header that cannot be read ({reason}); write it with "
            "np.save or np.savez"
        ) from None
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"expected {name} in a shape of whole numbers, got {shape}; write it again")
    if dtype.hasobject:
        raise ValueError(f"expected {name} as numbers or texts, got Python objects, which need pickle; convert them")
    return shape, fortran, dtype
