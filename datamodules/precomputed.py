"""The datamodule for activations of your own: a safetensors file, streamed from where it is."""

import json
from collections.abc import Iterable
from textwrap import shorten
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from datamodules.base import GridDataModule
from datamodules.card import Card
from datamodules.examples import write_table
from datamodules.split import GroupSplit
from datamodules.stream.byte_ranges import Header, read_header
from datamodules.stream.local_paths import expand_user
from datamodules.stream.ranges import Count, File, Folder, Seed
from datamodules.stream.store import TensorFile
from datamodules.targets import read_classes

AXES = "[N, L, T, D]"
LONGEST = 200  # characters of a name: longer ones leave no room for anything else on a page
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class PrecomputedDataModule(GridDataModule):
    """Activations that another program computed.

    The file holds `acts [N, L, T, D]` in any of float16, bfloat16, float32 and float64, and `labels [N]`, 0 or 1 in any
    dtype; or `labels [M, N]`, M label sets that are fitted together. It may hold `groups [N]`, equal numbers for
    examples that must stay in one split, and `valid [N, T]` bool, false where an example lacks a position. Its metadata
    may name the rows and columns of the grid, `layers` and `positions`, as JSON lists of L whole numbers and T strings,
    and the label sets, `targets`, as M strings. With `classes`, a JSON list of K names, `labels [N]` number the classes
    from 0, and each class against the rest is a target. It may also give `model`, `dataset`, `site` and, with one label
    set, `target` (what label 1 means), which are shown to people.

    Args:
        path: the file; it may exceed memory.
        split: assigns groups to train, val and test.
        folder, block_bytes, batch_size, seed, control_labels: see `GridDataModule`.

    Example:
        >>> tensors = {"acts": torch.randn(400, 4, 2, 8), "labels": torch.arange(400) % 2}
        >>> save_file(tensors, "acts.safetensors")  # doctest: +SKIP
        >>> data = PrecomputedDataModule("acts.safetensors", GroupSplit())  # doctest: +SKIP
        >>> data.setup()  # doctest: +SKIP
        >>> data.card.shape  # doctest: +SKIP
        (1, 4, 2, 8)
    """

    classes = ("labelled 0", "labelled 1")
    examples = "examples"

    def __init__(
        self,
        path: File,
        split: GroupSplit,
        folder: Folder | None = None,
        block_bytes: Count | None = None,
        batch_size: Count | None = None,
        seed: Seed = 0,
        control_labels: bool = False,
    ) -> None:
        super().__init__(split, folder, block_bytes, batch_size, seed, control_labels)
        if split.by != "question":
            raise ValueError(
                f"split.by: expected question with precomputed activations, whose file holds the groups, got "
                f"{split.by!r}; write groups [N] into the file"
            )
        self.path = expand_user(path, "datamodule.path")

    def setup(self, stage: str | None = None) -> None:
        """Check everything in the file except the activations.

        Raises:
            ValueError: the file, a tensor or the metadata does not match the description of the class.
        """
        if self.card:
            return
        file = read_header(self.path)
        acts, metadata = file.get_tensor("acts", AXES), file.metadata
        for key in ("model", "dataset", "site", "target"):
            self._require_short(key, [metadata.get(key, "")])
        if len(acts.shape) != 4 or 0 in acts.shape:
            self._refuse(f"acts {AXES}, none of them 0", list(acts.shape), "reshape it")
        if acts.dtype not in FLOATS:
            self._refuse("acts in float16, bfloat16, float32 or float64", acts.dtype, "convert it")
        N, L, T, _ = acts.shape
        groups = self._load(file, "groups", {"N": N}) if "groups" in file.tensors else torch.arange(N)
        if groups.isnan().any():
            self._refuse("groups as numbers", "NaN", "give each example one")
        valid = self._load(file, "valid", {"N": N, "T": T}) if "valid" in file.tensors else torch.ones(N, T).bool()
        if valid.dtype != torch.bool:
            self._refuse("valid in bool", valid.dtype, "convert it")
        groups = (groups.double() if groups.is_floating_point() else groups).tolist()
        if "classes" in metadata:
            targets = self.split_classes(*self._classes(file, N), groups)
        else:
            targets = self.split_labels(*self._label_sets(file, N), groups)
        card = Card(
            model=metadata.get("model", "precomputed"),
            dataset=metadata.get("dataset", self.path.stem),
            site=metadata.get("site", "activations"),
            layers=tuple(self._names(metadata, "layers", int, "L whole numbers", L) or range(L)),
            positions=tuple(
                self._names(metadata, "positions", str, "T strings", T) or (f"position {t}" for t in range(T))
            ),
            width=acts.shape[3],
            targets=targets.cards(),
            classes=self.classes,
            n_valid=tuple(valid.sum(0).tolist()),
        )
        schema = pa.schema({"row": pa.int64(), "group": pa.from_numpy_dtype(np.asarray(groups).dtype)})

        def columns(part: slice) -> dict[str, list[Any]]:
            return {"row": list(range(N)[part]), "group": groups[part]}

        self.keep("examples.parquet", lambda: write_table(columns, schema, valid, targets))
        self.serve(TensorFile(acts), targets, valid, card)

    def _classes(self, file: Header, N: int) -> tuple[Tensor, list[str]]:
        """Return the class of each example, [N] int64, and what each class is called."""
        if "targets" in file.metadata:
            self._refuse("metadata targets or classes", "both", "leave one out")
        labels = self._load(file, "labels", {"N": N})
        try:
            numbers, names = read_classes(labels, file.metadata["classes"])
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        of = f"{file.metadata['target']}: " if "target" in file.metadata else ""
        return numbers, [of + name for name in names]

    def _label_sets(self, file: Header, N: int) -> tuple[Tensor, list[str]]:
        """Return the label sets [M, N] int64, and what label 1 of each means."""
        shape = list(file.get_tensor("labels", "[N]").shape)
        if len(shape) == 2 and (shape[0] == 0 or shape[1] != N):
            beside = f"acts {AXES} = {list(file.tensors['acts'].shape)}"
            self._refuse(f"labels [N] = [{N}] or [M, N] for M label sets beside {beside}", shape, "give one of these")
        axes = {"M": shape[0], "N": N} if len(shape) == 2 else {"N": N}
        sets = self._load(file, "labels", axes).reshape(-1, N)
        M, label = len(sets), file.metadata.get("target", "label 1")
        names = self._names(file.metadata, "targets", str, "M strings", M)
        names = names or ([label] if M == 1 else [f"{label} of set {m}" for m in range(M)])
        of = [f" of {name}" if M > 1 else "" for name in names]
        return torch.stack([self._labels_in(*one) for one in zip(sets, of, strict=True)]), names

    def _load(self, file: Header, name: str, axes: dict[str, int]) -> Tensor:
        """Load one of the small tensors; its axes must fit those of acts."""
        found = file.get_tensor(name, f"[{', '.join(axes)}]")
        if list(found.shape) != list(axes.values()):
            acts = list(file.tensors["acts"].shape)
            self._refuse(
                f"{name} [{', '.join(axes)}] = {list(axes.values())} beside acts {AXES} = {acts}",
                list(found.shape),
                "give one for each",
            )
        return found.load()

    def _labels_in(self, labels: Tensor, of: str) -> Tensor:
        """Return one label set of any dtype as int64; `of` names it in messages."""
        wrong = ((labels != 0) & (labels != 1)).nonzero()[:, 0].tolist()
        if wrong:
            self._refuse("labels 0 and 1", f"{labels[wrong[0]].item()} in row {wrong[0]}{of}", "map them to these")
        if len(labels.unique()) == 1:
            self._refuse(
                "labels 0 and 1", f"{int(labels[0])} in all {len(labels)} rows{of}", "add examples of the other"
            )
        return labels.long()

    def _names(self, metadata: dict[str, str], key: str, kind: type, what: str, n: int) -> list[Any] | None:
        """Read the names of the rows or columns of the grid from the metadata; None where it has none."""
        if key not in metadata:
            return None
        try:
            names = json.loads(metadata[key])
        except (ValueError, RecursionError):
            names = None
        if not (isinstance(names, list) and [type(name) for name in names] == [kind] * n and len(set(names)) == n):
            count = f"{len(names)} entries, " if isinstance(names, list) else ""
            self._refuse(
                f"metadata {key} as a JSON list of {what}, {n} different ones",
                count + shorten(metadata[key], 80),
                "write it with json.dumps, or leave it out",
            )
        self._require_short(key, map(str, names))
        return names

    def _require_short(self, key: str, names: Iterable[str]) -> None:
        for name in names:
            if len(name) > LONGEST:
                got = f"one of {len(name):,}, {name[:40]}[...]"
                self._refuse(f"names of at most {LONGEST} characters in metadata {key}", got, "shorten them")

    def _refuse(self, expected: str, got: object, do: str) -> NoReturn:
        raise ValueError(f"{self.path}: expected {expected}, got {got}; {do}")
