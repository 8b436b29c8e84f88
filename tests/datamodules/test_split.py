import numpy as np
import pytest

from datamodules.split import GroupSplit


def example_set(n=1200, seed=0):
    rng = np.random.default_rng(seed)
    groups = [f"g{g}" for g in rng.integers(0, n // 2, n)]
    labels = (rng.random(n) < 0.3).astype(int)
    return groups, labels


def test_shares_groups_and_strata():
    groups, labels = example_set()
    rows = GroupSplit(val=0.15, test=0.25, seed=3)(groups, labels.tolist())
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(len(labels)))
    sides = [{groups[i] for i in r} for r in rows.values()]
    assert sum(map(len, sides)) == len(set.union(*sides))
    for name, share in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
        assert len(rows[name]) == pytest.approx(share * len(labels), abs=3)
        assert labels[rows[name]].mean() == pytest.approx(labels.mean(), abs=0.01)


def test_one_seed_one_split():
    groups, labels = example_set()
    first, again, other = (GroupSplit(seed=s)(groups, labels.tolist())["test"].tolist() for s in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.2, 0.0), (0.0, 0.0), (0.6, 0.4)])
def test_impossible_shares_are_refused(val, test):
    with pytest.raises(ValueError, match=f"got val={val}, test={test}"):
        GroupSplit(val=val, test=test)


@pytest.mark.parametrize("share", ["abc", None, True])
def test_shares_are_numbers(share):
    with pytest.raises(ValueError, match=f"split.val: expected a share such as 0.2, got {share!r}"):
        GroupSplit(val=share)


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match="expected groups enough for every split, got 2, which leave none for"):
        GroupSplit()(["a", "b"] * 50, [0, 1, 1, 0] * 25)


def test_a_test_part_of_its_own_stays_and_the_others_keep_their_proportion():
    groups, labels = [f"g{i}" for i in range(400)], [i % 2 for i in range(400)]
    given = ["test" if i % 4 == 0 else "train" for i in range(400)]
    rows = GroupSplit(val=0.2, test=0.4)(groups, labels, given)
    assert rows["test"].tolist() == list(range(0, 400, 4))
    assert (len(rows["train"]), len(rows["val"])) == (200, 100)  # 0.4 to 0.2
    assert sorted([*rows["train"], *rows["val"], *rows["test"]]) == list(range(400))
    dealt = GroupSplit(val=0.2, test=0.4)(groups, labels, [""] * 400)
    assert dealt["test"].tolist() == GroupSplit(val=0.2, test=0.4)(groups, labels)["test"].tolist()


def test_a_test_part_of_which_nothing_is_left_is_not_replaced():
    with pytest.raises(ValueError, match="expected questions of the set's own test part, got none that could be asked"):
        GroupSplit()([str(i) for i in range(40)], [0, 1] * 20, ["train"] * 40)


def test_without_validation_the_others_share_everything():
    groups, labels = example_set()
    rows = GroupSplit(val=0, test=0.2)(groups, labels.tolist())
    assert list(rows) == ["train", "val", "test"]
    assert rows["val"].tolist() == []
    assert rows["val"].dtype == np.int64
    assert sorted([*rows["train"], *rows["test"]]) == list(range(len(labels)))
    assert len(rows["test"]) == pytest.approx(0.2 * len(labels), abs=3)
    assert not {groups[i] for i in rows["train"]} & {groups[i] for i in rows["test"]}
    given = ["test" if i % 4 == 0 else "train" for i in range(400)]
    own = GroupSplit(val=0, test=0.2)([f"g{i}" for i in range(400)], [i % 2 for i in range(400)], given)
    assert (len(own["train"]), len(own["val"]), own["test"].tolist()) == (300, 0, list(range(0, 400, 4)))


def test_a_test_part_of_its_own_can_be_left_out():
    groups, labels = [f"g{i}" for i in range(400)], [i // 2 % 2 for i in range(400)]
    given = ["test" if i % 4 == 0 else "train" for i in range(400)]
    rows = GroupSplit(val=0.1, test=0.2, own_test=False)(groups, labels, given)
    assert sorted([*rows["train"], *rows["val"], *rows["test"]]) == [i for i in range(400) if i % 4]
    assert [len(rows[name]) for name in ("train", "val", "test")] == [210, 30, 60]
    only_train = GroupSplit(own_test=False)(groups, labels, ["train"] * 400)
    assert sum(map(len, only_train.values())) == 400
    with pytest.raises(ValueError, match=r"split.own_test: expected true or false, got 'no'"):
        GroupSplit(own_test="no")  # type: ignore[arg-type]
