"""Train, validation and test rows: whole groups, stratified by label, from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "val", "test")


@dataclass
class GroupSplit:
    """Deals groups to the three splits so that each gets its share of both classes.

    Attributes:
        val: share of examples for validation.
        test: share of examples for test; the rest trains. Where the questions come with a test part of their own, that
            is the test split, and the others keep their proportion.
        seed: of the order in which groups are dealt.
    """

    val: float = 0.15
    test: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"split.seed: expected a whole number of at least 0, got {self.seed!r}")
        if not (self.val > 0 and self.test > 0 and self.val + self.test < 1):
            raise ValueError(
                f"split: expected val and test above 0 and together below 1, got val={self.val}, test={self.test}"
            )

    def __call__(
        self, groups: Sequence[str], labels: Sequence[int], given: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Split N examples.

        Args:
            groups: [N] group of each example; no group stands in two splits.
            labels: [N] in {0, 1}.
            given: [N], `test` for examples of the test split if any are; groups must not cross it.

        Returns:
            ascending int64 row numbers of each of `SPLITS`.

        Raises:
            ValueError: a split stays empty.
        """
        if given is not None and "train" in given and "test" not in given:
            raise ValueError(
                "split: expected questions of the set's own test part, got none that could be asked and judged; take "
                "another test part, or leave it away"
            )
        is_test = np.array([split == "test" for split in given or ()], dtype=bool)
        if is_test.any():
            rest = [i for i, test in enumerate(is_test) if not test]
            train, val = 1 - self.val - self.test, self.val
            shares = {"train": train / (train + val), "val": val / (train + val)}
            dealt = self._deal([groups[i] for i in rest], [labels[i] for i in rest], shares)
            return {name: np.asarray(rest)[rows] for name, rows in dealt.items()} | {"test": np.flatnonzero(is_test)}
        return self._deal(groups, labels, {"train": 1 - self.val - self.test, "val": self.val, "test": self.test})

    def _deal(self, groups: Sequence[str], labels: Sequence[int], share_of: dict[str, float]) -> dict[str, np.ndarray]:
        names, member = np.unique(np.asarray(groups), return_inverse=True)
        counts = np.zeros((len(names), 2))  # examples of each class in each group
        np.add.at(counts, (member, np.asarray(labels)), 1)
        shares = np.array(list(share_of.values()))
        wanted = shares[:, None] * counts.sum(0)  # [split, class]
        order = np.random.default_rng(self.seed).permutation(len(names))
        order = order[np.argsort(-counts[order].sum(1), kind="stable")]  # large groups while there is room to balance
        dealt, home = np.zeros_like(wanted), np.zeros(len(names), dtype=int)
        scale = np.maximum(counts.sum(0), 1) * shares[:, None]
        for group in order:
            # The split left furthest below its share of what this group holds, each class relative to its size.
            home[group] = np.argmax(((wanted - dealt) / scale) @ counts[group])
            dealt[home[group]] += counts[group]
        rows = {name: np.flatnonzero(home[member] == k) for k, name in enumerate(share_of)}
        empty = [name for name in share_of if not len(rows[name])]
        if empty:
            raise ValueError(
                f"split: expected groups enough for every split, got {len(names)}, which leave none for "
                f"{', '.join(empty)}; take more questions, or smaller groups"
            )
        return rows
