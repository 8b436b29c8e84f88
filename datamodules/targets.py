"""Targets: K named label sets on the same activations, each with its own train, val and test rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.card import CONTROL, Count, TargetCard
from datamodules.split import SPLITS, GroupSplit

NO_SPLIT = len(SPLITS)  # split number of an example that a target leaves out
MOST_CLASSES = 50  # each is a target, with a probe in every cell and a map of its own
LONGEST_CLASS = 200  # characters of a name: longer ones leave no room for anything else on a page


@dataclass(frozen=True, eq=False)
class Targets:
    """K label sets of N examples.

    Attributes:
        names: [K], all different.
        label: [K], what label 1 says; equal for one label set under several splits.
        seeds: [K], of the splits; None where the rows were given.
        labels: [K, N] int64 in {0, 1}.
        splits: [K, N] uint8, which of `SPLITS` an example is in by number, or `NO_SPLIT`.
        groups: [N] int64, equal for examples that stay in one split.

    Example:
        >>> targets = split_targets(torch.tensor([[0, 1] * 4]), ["correctness"], GroupSplit(0.25, 0.25), range(8))
        >>> [len(targets.rows_of(0, split)) for split in SPLITS]
        [4, 2, 2]
    """

    names: tuple[str, ...]
    label: tuple[str, ...]
    seeds: tuple[int | None, ...]
    labels: Tensor
    splits: Tensor
    groups: Tensor

    def rows(self, split: str) -> np.ndarray:
        """Examples that a split of any target holds, ascending int64."""
        return (self.splits == SPLITS.index(split)).any(0).nonzero()[:, 0].numpy()

    def rows_of(self, k: int, split: str) -> np.ndarray:
        """Examples that a split of one target holds, ascending int64."""
        return (self.splits[k] == SPLITS.index(split)).nonzero()[:, 0].numpy()

    def holds(self, split: str, rows: np.ndarray) -> Tensor:
        """Which of n examples are in a split of each target, [K, n] bool."""
        return self.splits[:, torch.from_numpy(rows)] == SPLITS.index(split)

    def cards(self) -> tuple[TargetCard, ...]:
        """What the card says of each."""
        return tuple(
            TargetCard(
                name,
                label,
                seed,
                {split: self._count(k, number) for number, split in enumerate(SPLITS)},
            )
            for k, (name, label, seed) in enumerate(zip(self.names, self.label, self.seeds, strict=True))
        )

    def _count(self, k: int, split: int) -> Count:
        here = self.splits[k] == split
        return Count(int(here.sum()), int(self.labels[k, here].sum()), len(self.groups[here].unique()))


def split_targets(
    labels: Tensor,
    names: Sequence[str],
    split: GroupSplit,
    groups: Sequence[Any],
    given: Sequence[str] | None = None,
    kept: Tensor | None = None,
) -> Targets:
    """Split every label set with every seed of a split.

    Args:
        labels: [M, N] int64 in {0, 1}, the label sets; or numbers of classes, see `set_against_rest`.
        names: [M], what their label 1 says.
        split: assigns groups to train, val and test, once for each of its seeds.
        groups: [N].
        given: [N] split that an example belongs to by its source; see `GroupSplit`.
        kept: [N] bool, examples to split; the others are in no split. All by default.

    Returns:
        K targets, M times the number of seeds, the seeds varying fastest. With one seed the names stay as they are.

    Raises:
        ValueError: what `GroupSplit` raises.

    Example:
        >>> labels = torch.tensor([[0, 1] * 4])
        >>> split_targets(labels, ["correctness"], GroupSplit(0.25, 0.25, seed=[0, 5]), range(8)).names
        ('correctness, seed 0', 'correctness, seed 5')
    """
    seeds = split.seeds
    numbers = torch.from_numpy(np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64))
    some = np.arange(len(numbers)) if kept is None else kept.numpy().nonzero()[0]
    among = [groups[i] for i in some.tolist()], None if given is None else [given[i] for i in some.tolist()]
    parts = torch.full((len(names) * len(seeds), labels.shape[1]), NO_SPLIT, dtype=torch.uint8)
    targets = []
    for label, row in zip(names, labels, strict=True):
        for seed in seeds:
            dealt = split(among[0], row[some].tolist(), among[1], seed)
            for number, rows in enumerate(dealt.values()):
                parts[len(targets), torch.from_numpy(some[rows])] = number
            targets.append((label if len(seeds) == 1 else f"{label}, seed {seed}", label, seed))
    full, label, given_seeds = zip(*targets, strict=True)
    return Targets(full, label, given_seeds, labels.repeat_interleave(len(seeds), 0), parts, numbers)


def number_classes(values: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Number the values of N examples: [N] int64, and the names of the K classes, sorted.

    Example:
        >>> number_classes(["red", "blue", "red"])
        (tensor([1, 0, 1]), ['blue', 'red'])
    """
    names, numbers = np.unique(np.asarray(values, dtype=object), return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64)), list(names)


def require_classes(values: Sequence[str], column: str) -> None:
    """Check that the values of a column can be classes.

    Raises:
        ValueError: there are fewer than 2 or more than 50 different values, or a long one.
    """
    try:
        _require_names(sorted({value.removeprefix(f"{column}: ") for value in values}))
    except ValueError as error:
        raise ValueError(f"dataset.target={column}: {error}, or name another column") from None


def read_classes(labels: Tensor, names: str) -> tuple[Tensor, list[str]]:
    """Check labels [N], of any dtype, that number the classes of a JSON list of K names: [N] int64, and the names.

    Raises:
        ValueError: the list is none of 2 to 50 different names, or the labels are not whole numbers from 0 to K - 1, or
            are all the same.

    Example:
        >>> read_classes(torch.tensor([2.0, 0.0, 1.0]), '["red", "green", "blue"]')
        (tensor([2, 0, 1]), ['red', 'green', 'blue'])
    """
    try:
        read = json.loads(names)
    except (ValueError, RecursionError):
        read = None
    if not (isinstance(read, list) and all(isinstance(name, str) and name for name in read)):
        raise ValueError(
            f"expected classes as a JSON list of K names, got {names[:80]}; write it with json.dumps, or leave it out"
        )
    if len(set(read)) < len(read):
        raise ValueError(f"expected different names in classes, got {', '.join(read)[:200]}; rename them")
    _require_names(read)
    exact = labels.double()
    wrong = ~((exact >= 0) & (exact < len(read)) & (exact == exact.floor()))
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"expected labels from 0 to {len(read) - 1}, one for each of the {len(read)} names of classes, got "
            f"{labels[row].item()} in row {row}; number the classes from 0, or name them all"
        )
    if len(present := exact.unique()) == 1:
        raise ValueError(
            f"expected examples of at least 2 classes, got {read[int(present[0])]} in all {len(labels)} rows; add "
            "examples of others"
        )
    return labels.long(), read


def _require_names(names: list[str]) -> None:
    if not 2 <= len(names) <= MOST_CLASSES:
        shown = ", ".join(name[:40] for name in names[:5]) + (", ..." if len(names) > 5 else "")
        raise ValueError(
            f"expected 2 to {MOST_CLASSES} different classes, got {len(names)}: {shown}; take a coarser division, or "
            "examples of more classes"
        )
    for name in names:
        if len(name) > LONGEST_CLASS:
            got = f"one of {len(name):,}, {name[:40]}[...]"
            raise ValueError(f"expected names of classes of at most {LONGEST_CLASS} characters, got {got}; shorten it")


def set_against_rest(numbered: Targets, names: Mapping[int, str]) -> Targets:
    """Make of one set of class numbers a target for each class against the rest, on the same splits.

    Args:
        numbered: whose labels number the classes; one target for each seed of the split.
        names: by number, of the classes that become targets.

    Example:
        >>> numbered = split_targets(torch.tensor([[0, 1, 2] * 4]), ["colour"], GroupSplit(0.25, 0.25), range(12))
        >>> targets = set_against_rest(numbered, {0: "red", 2: "blue"})
        >>> targets.names, targets.labels[:, :3].tolist()
        (('red', 'blue'), [[1, 0, 0], [0, 0, 1]])
    """
    each = [(number, name, k) for number, name in names.items() for k in range(len(numbered.names))]
    return replace(
        numbered,
        names=tuple(name + numbered.names[k].removeprefix(numbered.label[k]) for _, name, k in each),
        label=tuple(name for _, name, _ in each),
        seeds=tuple(numbered.seeds[k] for *_, k in each),
        labels=torch.stack([(numbered.labels[k] == number).long() for number, _, k in each]),
        splits=numbered.splits[[k for *_, k in each]],
    )


def add_controls(targets: Targets, seed: int = 0) -> Targets:
    """Add to each target a control: random labels on the same splits, the same for all examples of a group.

    What a probe reads of them is not in the activations but learned from the train rows, so the AUC of a target counts
    by how far it exceeds that of its control (Hewitt and Liang, 2019, "Designing and interpreting probes with control
    tasks"). Within each split groups are drawn until as many examples are labelled 1 as in the target, or nearly as
    many where groups are large.

    Args:
        targets: K.
        seed: of the draw.

    Returns:
        2K targets, the given ones first. The controls are named `control`, with the target and the seed of its split
        behind where there are several.

    Example:
        >>> targets = split_targets(torch.tensor([[0, 1] * 4]), ["correctness"], GroupSplit(0.25, 0.25), range(8))
        >>> controlled = add_controls(targets)
        >>> controlled.names, [count.n_positive for count in controlled.cards()[1].counts.values()]
        (('correctness', 'control'), [2, 1, 1])
    """
    several = len(set(targets.label)) > 1
    of = {label: CONTROL + f" of {label}" * several for label in targets.label}
    drawn = [
        _draw_labels(targets.labels[k], targets.splits[k], targets.groups, np.random.default_rng([seed, k]))
        for k in range(len(targets.names))
    ]
    return replace(
        targets,
        names=targets.names
        + tuple(of[label] + name.removeprefix(label) for name, label in zip(targets.names, targets.label, strict=True)),
        label=targets.label + tuple(of[label] for label in targets.label),
        seeds=targets.seeds * 2,
        labels=torch.cat([targets.labels, torch.stack(drawn)]),
        splits=targets.splits.repeat(2, 1),
    )


def _draw_labels(labels: Tensor, splits: Tensor, groups: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw labels [N], equal within a group, with about as many ones in each split as `labels` has."""
    names, member = groups.unique(return_inverse=True)
    ones = torch.zeros(len(names), dtype=labels.dtype)
    for split in range(len(SPLITS)):
        here = splits == split
        sizes, wanted = member[here].bincount(minlength=len(names)).tolist(), int(labels[here].sum())
        order = rng.permutation(len(names)).tolist()
        for most in (1, 2):  # groups that fit, then one that comes no further from the number wanted
            for group in order:
                if not ones[group] and 0 < sizes[group] <= most * wanted:
                    ones[group] = 1
                    wanted -= sizes[group]
    return ones[member]
