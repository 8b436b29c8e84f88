"""Train, validation and test rows: groups are kept whole, labels are stratified, and the split follows from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.stream.ranges import Seed, Seeds, Share, TestShare, Text

SPLITS = ("train", "val", "test")


@dataclass
class GroupSplit:
    """Assigns groups to the three splits so that each split gets its share of both classes.

    Attributes:
        val: share of examples for validation; 0: there is no validation split.
        test: share of examples for test; the rest is for training. If the questions have their own test part, it is
            the test split, and train and val keep their proportion.
        seed: seed of the order in which groups are assigned; a list gives one split, and one target, for each seed.
        own_test: use the test part that questions come with. Where false, its questions are left out, and all three
            splits are made from the others.
        by: what is held out, as no two splits share it: `question`, the groups of the question set; `gold`, the first
            gold answer; `exact_answer`, what the model said; or a column of the questions, named as in
            `dataset.group`. Groups of the question set stay whole in any case.

    Example:
        >>> rows = GroupSplit(val=0, test=0.5)(["a", "a", "b", "b"], [0, 1, 0, 1])
        >>> sorted(len(part) for part in rows.values())
        [0, 2, 2]
    """

    val: Share = 0.15
    test: TestShare = 0.25
    seed: Seed | Seeds = 0
    own_test: bool = True
    by: Text = "question"

    def __post_init__(self) -> None:
        seeds = self.seeds
        if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
            raise ValueError(
                f"split.seed: expected a whole number of at least 0, or a list of different ones, got {self.seed!r}"
            )
        if type(self.own_test) is not bool:
            raise ValueError(f"split.own_test: expected true or false, got {self.own_test!r}")
        if not isinstance(self.by, str) or not self.by:
            raise ValueError(f"split.by: expected question, gold, exact_answer or a column, got {self.by!r}")
        for key in ("val", "test"):
            if type(getattr(self, key)) not in (int, float):
                raise ValueError(f"split.{key}: expected a share such as 0.2, got {getattr(self, key)!r}")
        if not (self.val >= 0 and self.test > 0 and self.val + self.test < 1):
            raise ValueError(
                f"split: expected val of at least 0, test above 0, and both together below 1, got val={self.val}, "
                f"test={self.test}"
            )

    @property
    def seeds(self) -> list[int]:
        """The seeds, one or more."""
        return self.seed if isinstance(self.seed, list) else [self.seed]

    def __call__(
        self,
        groups: Sequence[str],
        labels: Sequence[int],
        given: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Split N examples.

        Args:
            groups: [N] group of each example; no group is in two splits.
            labels: [N] class of each example, numbered from 0; each split gets its share of every class.
            given: [N], `test` for examples that come from a test part; no group may have examples on both sides.
            seed: one of `seeds`; the first where None.

        Returns:
            ascending int64 row numbers of each of `SPLITS`; none of `val` where its share is 0.

        Raises:
            ValueError: a split whose share is above 0 stays empty.
        """
        if self.own_test and given is not None and "train" in given and "test" not in given:
            raise ValueError(
                "split: expected questions of the set's own test part, got none that could be asked and judged; use "
                "another test part, or leave it out"
            )
        in_test = np.array([split == "test" for split in given or [""] * len(groups)], dtype=bool)
        has_test = self.own_test and bool(in_test.any())
        train, val = 1 - self.val - self.test, self.val
        shares = {"train": train, "val": val, "test": self.test}
        if has_test:
            shares = {"train": train / (train + val), "val": val / (train + val)}
        rest = [i for i, test in enumerate(in_test) if not test]
        seed = self.seeds[0] if seed is None else seed
        dealt = self._deal([groups[i] for i in rest], [labels[i] for i in rest], shares, seed)
        rows = {name: np.asarray(rest, dtype=np.int64)[part] for name, part in dealt.items()}
        return rows | {"test": np.flatnonzero(in_test)} if has_test else rows

    def _deal(
        self, groups: Sequence[str], labels: Sequence[int], share_of: dict[str, float], seed: int
    ) -> dict[str, np.ndarray]:
        above_0 = {name: share for name, share in share_of.items() if share > 0}
        names, member = np.unique(np.asarray(groups), return_inverse=True)
        counts = np.zeros((len(names), max(2, 1 + max(labels, default=0))))  # examples of each class in each group
        np.add.at(counts, (member, np.asarray(labels)), 1)
        shares = np.array(list(above_0.values()))
        wanted = shares[:, None] * counts.sum(0)  # [split, class]
        order = np.random.default_rng(seed).permutation(len(names))
        order = order[np.argsort(-counts[order].sum(1), kind="stable")]  # large groups first, small ones balance
        dealt, home = np.zeros_like(wanted), np.zeros(len(names), dtype=int)
        scale = np.maximum(counts.sum(0), 1) * shares[:, None]
        for group in order:
            # The split left furthest below its share of what this group holds, each class relative to its size.
            home[group] = np.argmax(((wanted - dealt) / scale) @ counts[group])
            dealt[home[group]] += counts[group]
        rows = {name: np.flatnonzero(home[member] == k) for k, name in enumerate(above_0)}
        empty = [name for name in above_0 if not len(rows[name])]
        if empty:
            raise ValueError(
                f"split: expected groups enough for every split, got {len(names)}, which leave none for "
                f"{', '.join(empty)}; take more questions, or smaller groups"
            )
        return {name: rows.get(name, np.empty(0, dtype=np.int64)) for name in share_of}
