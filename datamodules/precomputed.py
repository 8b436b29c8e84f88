"""The datamodule of one's own activations: a safetensors file, streamed in place."""

import json
from textwrap import shorten
from typing import Any, NoReturn

import torch
from torch import Tensor

from datamodules.base import GridDataModule
from datamodules.split import GroupSplit
from datamodules.stream.byte_ranges import Header, read_header
from datamodules.stream.local_paths import expand_user
from datamodules.stream.store import TensorFile

AXES = "[N, L, T, D]"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class PrecomputedDataModule(GridDataModule):
    """Activations that another program computed.

    The file holds `acts [N, L, T, D]` in any of float16, bfloat16, float32 and float64, and `labels [N]`, 0 or 1 in any
    dtype; where it likes also `groups [N]`, equal numbers for examples that no split may part, and `valid [N, T]` bool,
    false where an example lacks a position. Its metadata may name the rows and columns of the grid, `layers` and
    `positions`, as JSON lists of L whole numbers and T strings, and say for people what `model`, `dataset`, `site` and
    `target` (what label 1 means) were.

    Args:
        path: the file; it may exceed memory.
        split: deals groups to train, val and test.
        block_bytes, batch_size, seed: see `GridDataModule`.
    """

    classes = ("labelled 0", "labelled 1")
    examples = "examples"

    def __init__(
        self,
        path: str,
        split: GroupSplit,
        block_bytes: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(split, block_bytes, batch_size, seed)
        self.path = expand_user(path, "datamodule.path")

    def setup(self, stage: str | None = None) -> None:
        """Check all of the file but the activations.

        Raises:
            ValueError: the file, a tensor or the metadata is not as the class describes it.
        """
        if self.card:
            return
        file = read_header(self.path)
        acts, metadata = file.get_tensor("acts", AXES), file.metadata
        if len(acts.shape) != 4 or 0 in acts.shape:
            self._refuse(f"acts {AXES}, none of them 0", list(acts.shape), "reshape it")
        if acts.dtype not in FLOATS:
            self._refuse("acts in float16, bfloat16, float32 or float64", acts.dtype, "convert it")
        N, L, T, _ = acts.shape
        labels = self._labels_in(self._load(file, "labels", {"N": N}))
        groups = self._load(file, "groups", {"N": N}) if "groups" in file.tensors else torch.arange(N)
        if groups.isnan().any():
            self._refuse("groups as numbers", "NaN", "give each example one")
        valid = self._load(file, "valid", {"N": N, "T": T}) if "valid" in file.tensors else torch.ones(N, T).bool()
        if valid.dtype != torch.bool:
            self._refuse("valid in bool", valid.dtype, "convert it")
        card = {
            "model": metadata.get("model", "precomputed"),
            "dataset": metadata.get("dataset", self.path.stem),
            "site": metadata.get("site", "activations"),
            "target": metadata.get("target", "label 1"),
            "layers": self._names(metadata, "layers", int, "L whole numbers", L) or list(range(L)),
            "positions": self._names(metadata, "positions", str, "T strings", T) or [f"position {t}" for t in range(T)],
            "coincidence": None,  # which tokens the positions fell on is not in the file
        }
        groups = groups.double() if groups.is_floating_point() else groups
        self.serve(TensorFile(acts), labels, valid, groups.tolist(), card)

    def _load(self, file: Header, name: str, axes: dict[str, int]) -> Tensor:
        """One of the small tensors, whose axes have to fit those of acts."""
        found = file.get_tensor(name, f"[{', '.join(axes)}]")
        if list(found.shape) != list(axes.values()):
            acts = list(file.tensors["acts"].shape)
            self._refuse(
                f"{name} [{', '.join(axes)}] = {list(axes.values())} beside acts {AXES} = {acts}",
                list(found.shape),
                "give one for each",
            )
        return found.load()

    def _labels_in(self, labels: Tensor) -> Tensor:
        """Labels of any dtype as int64."""
        wrong = ((labels != 0) & (labels != 1)).nonzero()[:, 0].tolist()
        if wrong:
            self._refuse("labels 0 and 1", f"{labels[wrong[0]].item()} in row {wrong[0]}", "map them to these")
        if len(labels.unique()) == 1:
            self._refuse("labels 0 and 1", f"{int(labels[0])} in all {len(labels)} rows", "add examples of the other")
        return labels.long()

    def _names(self, metadata: dict[str, str], key: str, kind: type, what: str, n: int) -> list[Any] | None:
        """Names of the grid's rows or columns from the metadata, None where it has none."""
        if key not in metadata:
            return None
        try:
            names = json.loads(metadata[key])
        except ValueError:
            names = None
        if not (isinstance(names, list) and [type(name) for name in names] == [kind] * n and len(set(names)) == n):
            count = f"{len(names)} entries, " if isinstance(names, list) else ""
            self._refuse(
                f"metadata {key} as a JSON list of {what}, {n} different ones",
                count + shorten(metadata[key], 80),
                "write it with json.dumps, or leave it out",
            )
        return names

    def _refuse(self, expected: str, got: object, do: str) -> NoReturn:
        raise ValueError(f"{self.path}: expected {expected}, got {got}; {do}")
