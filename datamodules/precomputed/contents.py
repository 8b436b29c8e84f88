"""What a source of activations holds, checked: the store, labels, groups, validity and names."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from datamodules.stream.store import Store

AXES = "[N, L, T, D]"
LONGEST = 200  # characters of a name: longer ones leave no room for anything else on a page
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TEXTS = ("model", "dataset", "site", "target")


class Part(Protocol):
    """One of the small tensors of a source, which is loaded when its shape is known to fit."""

    @property
    def shape(self) -> Sequence[int]:
        """Of the tensor."""
        ...

    def load(self) -> Tensor:
        """The tensor."""
        ...


@dataclass(frozen=True)
class Loaded:
    """A part that is in memory."""

    tensor: Tensor

    @property
    def shape(self) -> Sequence[int]:
        """Of the tensor."""
        return self.tensor.shape

    def load(self) -> Tensor:
        """The tensor itself."""
        return self.tensor


@dataclass(frozen=True, eq=False)
class Contents:
    """What a source holds.

    Attributes:
        store: the activations, N examples.
        targets: [M], what label 1 of each label set means.
        labels: [M, N] int64 in {0, 1}.
        groups: [N] whole numbers, floats or texts, equal for examples that must stay in one split.
        valid: [N, T] bool, false where an example lacks a position.
        layers: [L] numbers of the rows.
        positions: [T] names of the columns.
        model, dataset, site: what people are shown.
        ids: [N] names of the examples; None where they have none.
    """

    store: Store
    targets: tuple[str, ...]
    labels: Tensor
    groups: list[Any]
    valid: Tensor
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    model: str
    dataset: str
    site: str
    ids: list[str] | None = None


@dataclass(frozen=True)
class Source:
    """Checks the parts of one source; `name` begins its messages.

    Attributes:
        name: the file, the folder, or what else people know it by.
        parts: small tensors by name: labels, groups, valid.
        names: model, dataset, site and target as texts; layers, positions and targets as lists, or as JSON lists in
            texts.
    """

    name: str
    parts: Mapping[str, Part]
    names: Mapping[str, Any]

    def check_acts(self, shape: Sequence[int], dtype: object) -> None:
        """Refuse activations that are no grid of numbers."""
        for key in TEXTS:
            if not isinstance(text := self.names.get(key, ""), str):
                self.refuse(f"{key} as a text", repr(text), "quote it, or leave it out")
            self._require_short(key, [text])
        if len(shape) != 4 or 0 in shape:
            self.refuse(f"acts {AXES}, none of them 0", list(shape), "reshape it")
        if dtype not in FLOATS:
            self.refuse("acts in float16, bfloat16, float32 or float64", dtype, "convert it")

    def read(
        self,
        store: Store,
        dataset: str,
        site: str = "activations",
        groups: list[Any] | None = None,
        valid: Tensor | None = None,
        ids: list[str] | None = None,
    ) -> Contents:
        """Read and check all but the activations.

        Args:
            store: the activations.
            dataset, site: what they are called where the source does not name them.
            groups: [N], where they are no part.
            valid: [N, T] bool, where it is no part.
            ids: [N], of the examples.

        Raises:
            ValueError: a part or a name does not fit.
        """
        N, L, T, _ = store.shape
        acts = f"acts {AXES} = {list(store.shape)}"
        targets, labels = self._read_labels(N, acts)
        if groups is None:
            groups = self._read_groups(N, acts)
        if valid is None:
            valid = self._load("valid", {"N": N, "T": T}, acts) if "valid" in self.parts else torch.ones(N, T).bool()
        if valid.dtype != torch.bool:
            self.refuse("valid in bool", valid.dtype, "convert it")
        return Contents(
            store,
            tuple(targets),
            labels,
            groups,
            valid,
            tuple(self._read_names("layers", int, "L whole numbers", L) or range(L)),
            tuple(self._read_names("positions", str, "T strings", T) or (f"position {t}" for t in range(T))),
            self.names.get("model", "precomputed"),
            self.names.get("dataset", dataset),
            self.names.get("site", site),
            ids,
        )

    def refuse(self, expected: str, got: object, do: str) -> NoReturn:
        """Raise a ValueError in the words of this source."""
        raise ValueError(f"{self.name}: expected {expected}, got {got}; {do}")

    def _read_labels(self, N: int, acts: str) -> tuple[list[str], Tensor]:
        """Return what label 1 of each label set means, and the sets [M, N] int64."""
        if "labels" not in self.parts:
            self.refuse("labels [N]", "none", "give 0 or 1 for each example")
        shape = list(self.parts["labels"].shape)
        if len(shape) == 2 and (shape[0] == 0 or shape[1] != N):
            self.refuse(f"labels [N] = [{N}] or [M, N] for M label sets beside {acts}", shape, "give one of these")
        axes = {"M": shape[0], "N": N} if len(shape) == 2 else {"N": N}
        sets = self._load("labels", axes, acts).reshape(-1, N)
        M, label = len(sets), self.names.get("target", "label 1")
        names = self._read_names("targets", str, "M strings", M)
        names = names or ([label] if M == 1 else [f"{label} of set {m}" for m in range(M)])
        of = [f" of {name}" if M > 1 else "" for name in names]
        return names, torch.stack([self._check_labels(*one) for one in zip(sets, of, strict=True)])

    def _check_labels(self, labels: Tensor, of: str) -> Tensor:
        """Return one label set of any dtype as int64; `of` names it in messages."""
        wrong = ((labels != 0) & (labels != 1)).nonzero()[:, 0].tolist()
        if wrong:
            self.refuse("labels 0 and 1", f"{labels[wrong[0]].item()} in row {wrong[0]}{of}", "map them to these")
        if len(labels.unique()) == 1:
            self.refuse(
                "labels 0 and 1", f"{int(labels[0])} in all {len(labels)} rows{of}", "add examples of the other"
            )
        return labels.long()

    def _read_groups(self, N: int, acts: str) -> list[Any]:
        groups = self._load("groups", {"N": N}, acts) if "groups" in self.parts else torch.arange(N)
        if groups.isnan().any():
            self.refuse("groups as numbers", "NaN", "give each example one")
        return (groups.double() if groups.is_floating_point() else groups).tolist()

    def _load(self, name: str, axes: Mapping[str, int], acts: str) -> Tensor:
        """Load a part; its axes must fit those of acts."""
        part = self.parts[name]
        if list(part.shape) != list(axes.values()):
            self.refuse(
                f"{name} [{', '.join(axes)}] = {list(axes.values())} beside {acts}",
                list(part.shape),
                "give one for each",
            )
        return part.load().cpu()

    def _read_names(self, key: str, kind: type, what: str, n: int) -> list[Any] | None:
        """Names of the rows, the columns or the label sets; None where the source has none."""
        if (given := self.names.get(key)) is None:
            return None
        names: Any = given
        if isinstance(given, str):
            try:
                names = json.loads(given)
            except (ValueError, RecursionError):
                names = None
        if not (isinstance(names, list) and [type(name) for name in names] == [kind] * n and len(set(names)) == n):
            count = f"{len(names)} entries, " if isinstance(names, list) else ""
            how, do = f"{key} as a list of", "give these, or none"
            if isinstance(given, str):
                how, do = f"metadata {key} as a JSON list of", "write it with json.dumps, or leave it out"
            self.refuse(f"{how} {what}, {n} different ones", count + shorten(str(given), 80), do)
        self._require_short(key, map(str, names))
        return names

    def _require_short(self, key: str, names: Iterable[str]) -> None:
        for name in names:
            if len(name) > LONGEST:
                got = f"one of {len(name):,}, {name[:40]}[...]"
                self.refuse(f"names of at most {LONGEST} characters in metadata {key}", got, "shorten them")
