"""Activations in memory: arrays of numpy, tensors of torch on any device, or what numpy makes an array of."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.precomputed.contents import Contents, Loaded, Source
from datamodules.precomputed.text_arrays import list_texts, number_labels
from datamodules.stream.store import TensorInMemory

NAME = "arrays"  # begins the messages


@dataclass(frozen=True, eq=False)
class Arrays:
    """Activations in memory, and what belongs to them.

    A tensor, or an array of numpy in the byte order of this machine, is not copied. Bits of an array are those that are
    probed: keep it as it is while the datamodule is used.

    Attributes:
        acts: [N, L, T, D] in float16, bfloat16, float32 or float64.
        labels: [N], 0 or 1 in any dtype; or [M, N], M label sets that are fitted together; or [N] texts, the classes,
            each of which against the rest is a target.
        groups: [N] numbers or texts, equal for examples that must stay in one split; each its own where None.
        valid: [N, T] bool, false where an example lacks a position; all have all where None.
        layers: [L] different whole numbers; 0 .. L - 1 where None.
        positions: [T] different names; `position 0` and so on where None.
        targets: [M] different names of what label 1 of each label set means; for one set a text will do.
        model, dataset, site: what people are shown.
        classes: [K] names, where labels [N] number them from 0.

    Example:
        >>> Arrays(np.zeros((4, 1, 1, 2)), [0, 1, 0, 1], layers=[7]).site
        'activations'
    """

    acts: Any
    labels: Any
    groups: Any = None
    valid: Any = None
    layers: Sequence[int] | None = None
    positions: Sequence[str] | None = None
    targets: Sequence[str] | str | None = None
    model: str = "precomputed"
    dataset: str = "in memory"
    site: str = "activations"
    classes: Sequence[str] | None = None


def read_arrays(arrays: Arrays) -> Contents:
    """Check all but the activations.

    Raises:
        ValueError: an array or a name does not match the description of `Arrays`.

    Example:
        >>> read_arrays(Arrays(np.zeros((4, 1, 1, 2)), [0, 1, 0, 1], layers=[7])).layers
        (7,)
    """
    if not isinstance(arrays.labels, Tensor) and _are_texts(labels := _as_array(arrays.labels, "labels")):
        try:
            numbers, names = number_labels(list_texts(labels, "labels"), {"classes": arrays.classes})
        except ValueError as error:
            raise ValueError(f"{NAME}: {error}") from None
        arrays = replace(arrays, labels=numbers, classes=names["classes"])
    parts = {
        name: Loaded(as_tensor(value, name))
        for name in ("labels", "valid")
        if (value := getattr(arrays, name)) is not None
    }
    texts = {key: getattr(arrays, key) for key in ("model", "dataset", "site")}
    source = Source(NAME, parts, texts | _list_names(arrays))
    acts = as_tensor(arrays.acts, "acts")
    source.check_acts(acts.shape, acts.dtype)
    groups = None if arrays.groups is None else _list_groups(arrays.groups, len(acts), source)
    return source.read(TensorInMemory(acts), arrays.dataset, groups=groups)


def as_tensor(values: Any, name: str) -> Tensor:
    """A tensor of the same memory where that is possible.

    Raises:
        ValueError: values that are no array of numbers; `name` is what they are called.

    Example:
        >>> as_tensor([True, False], "labels")
        tensor([ True, False])
    """
    if isinstance(values, Tensor):
        return values.detach()
    array = _as_array(values, name)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"{NAME}: expected {name} as numbers, got {array.dtype}; convert them")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor is it written to
        return torch.from_numpy(array)


def _are_texts(array: np.ndarray) -> bool:
    """Whether an array [N] holds texts."""
    texts = array.dtype.kind == "U" or (array.dtype.kind == "O" and all(isinstance(one, str) for one in array.flat))
    return array.ndim == 1 and texts


def _as_array(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of different lengths
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{NAME}: expected {name} as an array, got another value ({reason}); convert it") from None


def _list_groups(values: Any, N: int, source: Source) -> list[Any]:
    """Groups [N] as whole numbers, floats or texts."""
    array = _as_array(values.detach().cpu().double() if _is_16_bit(values) else _to_host(values), "groups")
    if array.shape != (N,):
        source.refuse(f"groups [N] = [{N}] beside acts of {N} examples", list(array.shape), "give one for each")
    groups = array.tolist()
    if _are_texts(array):
        try:
            return list_texts(array, "groups")
        except ValueError as error:
            raise ValueError(f"{NAME}: {error}") from None
    if array.dtype.kind == "O" and len({type(group) for group in groups}) > 1:
        source.refuse("groups as numbers or as texts", "both, or none for some examples", "give each example one")
    if not isinstance(groups[0], str | int | float):
        source.refuse("groups as numbers or as texts", type(groups[0]).__name__, "convert them")
    if any(group != group for group in groups):
        source.refuse("groups as numbers", "NaN", "give each example one")
    return groups


def _is_16_bit(values: Any) -> bool:
    return isinstance(values, Tensor) and values.is_floating_point()  # numpy has no bfloat16


def _to_host(values: Any) -> Any:
    return values.detach().cpu() if isinstance(values, Tensor) else values


def _list_names(arrays: Arrays) -> dict[str, Any]:
    """Names as plain lists, so that numpy's numbers, tuples and ranges will do."""
    names: dict[str, Any] = {}
    for key in ("layers", "positions", "targets", "classes"):
        given = getattr(arrays, key)
        if given is None:
            continue
        if key == "targets" and isinstance(given, str):
            names["target"] = given
            continue
        try:
            listed = [given] if isinstance(given, str) else list(given)
        except TypeError:
            listed = [given]
        names[key] = [_as_number(one) if key == "layers" else one for one in listed]
    for key in ("positions", "targets", "classes"):
        if key in names:
            names[key] = [str(one) if isinstance(one, np.str_) else one for one in names[key]]
    return names


def _as_number(value: Any) -> Any:
    try:
        return value if isinstance(value, bool) else index(value)
    except TypeError:
        return value
