"""Activations in one safetensors file, which may exceed memory."""

from pathlib import Path

from datamodules.precomputed.contents import AXES, Contents, Source
from datamodules.stream.byte_ranges import read_header
from datamodules.stream.store import TensorFile


def read_safetensors(path: Path) -> Contents:
    """Read a file with `acts`, `labels` and perhaps `groups` and `valid`, and names in its metadata.

    Raises:
        ValueError: the file, a tensor or the metadata does not match the description of `PrecomputedDataModule`.
    """
    file = read_header(path)
    acts = file.get_tensor("acts", AXES)
    source = Source(str(path), file.tensors, file.metadata)
    source.check_acts(acts.shape, acts.dtype)
    file.get_tensor("labels", "[N]")
    return source.read(TensorFile(acts), path.stem)
