import numpy as np
import pytest
import torch

from datamodules.card import Count
from datamodules.precomputed import PrecomputedDataModule
from datamodules.split import SPLITS, GroupSplit
from datamodules.targets import NO_SPLIT, Targets, add_controls, split_targets
from tests.datamodules.test_precomputed import L, N, T, make, tensors, write

n = 600
GROUPS = [f"g{g}" for g in np.random.default_rng(0).integers(0, n // 2, n)]
LABELS = torch.stack(
    [torch.from_numpy(np.random.default_rng(k).random(n) < share).long() for k, share in ((1, 0.3), (2, 0.5))]
)
OWN_TEST = ["test" if int(group[1:]) % 4 == 0 else "train" for group in GROUPS]


@pytest.mark.parametrize("given", [None, OWN_TEST])
@pytest.mark.parametrize("own_test", [True, False])
@pytest.mark.parametrize("seeds", [[7], [0, 5, 26]])
@pytest.mark.parametrize("M", [1, 2])
def test_every_label_set_is_split_with_every_seed(M, seeds, own_test, given):
    """Oracle: a split of one seed by itself, for each seed and label set."""
    split = GroupSplit(val=0.2, test=0.3, seed=seeds, own_test=own_test)
    targets = split_targets(LABELS[:M], ["truth", "length"][:M], split, GROUPS, given)
    k = 0
    for m in range(M):
        for seed in seeds:
            alone = GroupSplit(val=0.2, test=0.3, seed=seed, own_test=own_test)(GROUPS, LABELS[m].tolist(), given)
            assert targets.seeds[k] == seed
            assert targets.label[k] == ["truth", "length"][m]
            assert targets.names[k] == targets.label[k] + (f", seed {seed}" if len(seeds) > 1 else "")
            assert torch.equal(targets.labels[k], LABELS[m])
            held = np.concatenate([alone[name] for name in SPLITS])
            for name in SPLITS:
                assert targets.rows_of(k, name).tolist() == alone[name].tolist()
            left_out = np.setdiff1d(np.arange(n), held)
            assert bool(len(left_out)) == (given is not None and not own_test)
            assert (targets.splits[k, torch.from_numpy(left_out)] == NO_SPLIT).all()
            k += 1
    assert len(targets.names) == len(targets.labels) == len(targets.splits) == k
    assert len(set(targets.names)) == k
    assert (targets.labels.dtype, targets.splits.dtype) == (torch.int64, torch.uint8)


def test_examples_that_are_left_out_do_not_count_in_the_deal():
    """Oracle: the split of the kept examples by themselves."""
    kept = torch.from_numpy(np.random.default_rng(3).random(n) < 0.7)
    rows = kept.nonzero()[:, 0].tolist()
    split = GroupSplit(val=0.2, test=0.3, seed=[0, 5])
    targets = split_targets(LABELS, ["truth", "length"], split, GROUPS, kept=kept)
    alone = split_targets(LABELS[:, rows], ["truth", "length"], split, [GROUPS[i] for i in rows])
    assert torch.equal(targets.splits[:, rows], alone.splits)
    assert (targets.splits[:, ~kept] == NO_SPLIT).all()
    assert targets.cards() == alone.cards()
    for k, card in enumerate(targets.cards()):
        for name in SPLITS:
            assert card.counts[name].n_groups == len({GROUPS[i] for i in targets.rows_of(k, name)})


def test_controls_are_random_within_groups_and_share_splits_and_base_rates():
    split = GroupSplit(val=0.2, test=0.3, seed=[0, 5])
    targets = split_targets(LABELS, ["truth", "length"], split, GROUPS)
    controlled = add_controls(targets)
    assert controlled.names[4:] == tuple(f"control of {one}, seed {s}" for one in ("truth", "length") for s in (0, 5))
    assert controlled.label[4:] == ("control of truth",) * 2 + ("control of length",) * 2
    assert add_controls(split_targets(LABELS[:1], ["truth"], split, GROUPS)).names[2:] == tuple(
        f"control, seed {s}" for s in (0, 5)
    )
    assert torch.equal(controlled.labels[:4], targets.labels)
    assert controlled.seeds == targets.seeds * 2
    assert torch.equal(controlled.splits, targets.splits.repeat(2, 1))
    for k in range(4):
        labels = controlled.labels[4 + k]
        of_group = dict(zip(GROUPS, labels.tolist(), strict=True))
        assert labels.tolist() == [of_group[group] for group in GROUPS]
        for true, drawn in zip(*(controlled.cards()[i].counts.values() for i in (k, 4 + k)), strict=True):
            assert (true.n, true.n_groups) == (drawn.n, drawn.n_groups)
            assert abs(true.n_positive - drawn.n_positive) <= 1  # groups of one or two fill what is left
        agree = (labels == targets.labels[k]).double().mean()
        rate, other = labels.double().mean(), targets.labels[k].double().mean()
        assert abs(agree - (rate * other + (1 - rate) * (1 - other))) < 0.08  # 4 SE of chance
    assert torch.equal(add_controls(targets).labels, controlled.labels)
    assert not torch.equal(add_controls(targets, seed=1).labels, controlled.labels)
    assert not torch.equal(controlled.labels[4], controlled.labels[5])


def by_hand():
    return Targets(
        names=("a", "b"),
        label=("a", "b"),
        seeds=(0, None),
        labels=torch.tensor([[0, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0]]),
        splits=torch.tensor([[0, 0, 1, 2, 3, 2], [2, 0, 3, 2, 0, 3]], dtype=torch.uint8),
        groups=torch.tensor([0, 0, 1, 2, 0, 2]),
    )


def test_rows_of_any_and_of_one_target():
    targets = by_hand()
    assert {split: targets.rows(split).tolist() for split in SPLITS} == {
        "train": [0, 1, 4], "val": [2], "test": [0, 3, 5],
    }  # fmt: skip
    assert {split: targets.rows_of(1, split).tolist() for split in SPLITS} == {
        "train": [1, 4], "val": [], "test": [0, 3],
    }  # fmt: skip
    assert targets.rows("val").dtype == targets.rows_of(1, "val").dtype == np.int64


def test_which_examples_are_held():
    targets = by_hand()
    assert targets.holds("train", np.array([4, 0, 1])).tolist() == [[False, True, True], [True, False, True]]
    assert targets.holds("test", np.array([0, 3, 5])).tolist() == [[False, True, True], [True, True, False]]
    assert targets.holds("val", np.array([], dtype=np.int64)).shape == (2, 0)


def test_cards_count_each_split_with_the_labels_of_its_target():
    first, second = by_hand().cards()
    assert (first.name, first.label, first.seed) == ("a", "a", 0)
    assert (second.name, second.label, second.seed) == ("b", "b", None)
    assert first.counts == {"train": Count(2, 1, 1), "val": Count(1, 1, 1), "test": Count(2, 0, 1)}
    assert second.counts == {"train": Count(2, 1, 1), "val": Count(0, 0, 0), "test": Count(2, 1, 2)}


@pytest.mark.parametrize(
    "seed", [[], [0, 5, 0], [0, -1], -1, [0.0], 1.5, "0", ["0"], [True], True, None, [[0]], [None]]
)
def test_seeds_that_are_none_are_refused_in_one_line(seed):
    line = f"split.seed: expected a whole number of at least 0, or a list of different ones, got {seed!r}"
    with pytest.raises(ValueError, match=r"^split\.seed") as refused:
        GroupSplit(seed=seed)
    assert str(refused.value) == line


def test_a_split_by_itself_takes_the_first_seed():
    several = GroupSplit(seed=[5, 0])
    assert several.seeds == [5, 0]
    assert GroupSplit(seed=4).seeds == [4]
    labels = LABELS[0].tolist()
    for seed, expected in ((None, 5), (0, 0), (5, 5)):
        got, alone = several(GROUPS, labels, seed=seed), GroupSplit(seed=expected)(GROUPS, labels)
        assert all(got[name].tolist() == alone[name].tolist() for name in SPLITS)


SEEDS = [0, 5, 26]


def blocks_of(datamodule: PrecomputedDataModule, split):
    return list(getattr(datamodule, f"{split}_dataloader")())


@pytest.mark.parametrize("batch_size", [None, 50])
def test_blocks_of_several_seeds_against_those_of_each_alone(tmp_path, batch_size):
    """A block of the union says, for each target, what the block of that seed by itself holds."""
    path = write(tmp_path / "own.safetensors")
    together = make(path, split=GroupSplit(seed=SEEDS), batch_size=batch_size)
    alone = [make(path, split=GroupSplit(seed=seed)) for seed in SEEDS]
    for split in SPLITS:
        union = sorted(set().union(*(one.targets.rows(split).tolist() for one in alone)))
        assert max(len(one.targets.rows(split)) for one in alone) < len(union)
        assert together.targets.rows(split).tolist() == union
        blocks = blocks_of(together, split)
        by_cell = {}  # what [K, n] is in place at each cell, and acts [n, D]
        for block in blocks:
            assert block["held"].any(0).all()  # nothing is read that no target needs
            for c, cell in enumerate(block["cells"].tolist()):
                by_cell.setdefault(cell, []).append((block, c))
        assert set(by_cell) == set(range(L * T))
        for k, one in enumerate(alone):
            for block in blocks_of(one, split):
                for c, cell in enumerate(block["cells"].tolist()):
                    parts = [
                        (part["examples"][part["held"][k]], part["labels"][k, part["held"][k]],
                         part["valid"][k, i][part["held"][k]], part["acts"][i][part["held"][k]],
                         part["groups"][part["held"][k]])
                        for part, i in by_cell[cell]
                    ]  # fmt: skip
                    examples, labels, valid, acts, groups = (torch.cat(some) for some in zip(*parts, strict=True))
                    order = examples.argsort()
                    assert torch.equal(examples[order], block["examples"])
                    assert torch.equal(labels[order], block["labels"][0])
                    assert torch.equal(valid[order], block["valid"][0, c])
                    assert torch.equal(acts[order], block["acts"][c])
                    assert torch.equal(groups[order], block["groups"])
                    assert not any(part["valid"][k, i][~part["held"][k]].any() for part, i in by_cell[cell])


@pytest.mark.parametrize("seed", [3, [3]])
def test_one_target_costs_what_it_did(tmp_path, seed):
    """The rows of the one split and no others are read; labels, validity and activations are those of the file."""
    saved = tensors()
    datamodule = make(write(tmp_path / "own.safetensors"), split=GroupSplit(seed=seed))
    rows = GroupSplit(seed=3)(saved["groups"].tolist(), saved["labels"].tolist())
    for split in SPLITS:
        some = torch.from_numpy(rows[split])
        read = 0
        for block in blocks_of(datamodule, split):
            read += block["acts"].nbytes
            assert torch.equal(block["examples"], some)
            assert torch.equal(block["labels"], saved["labels"][None, some])
            assert block["held"].all()
            positions = block["cells"] % T
            assert torch.equal(block["valid"], saved["valid"][some][:, positions].T[None])
            acts = saved["acts"][some].flatten(1, 2)[:, block["cells"]].transpose(0, 1)
            assert torch.equal(block["acts"], acts.masked_fill(~block["valid"][0][..., None], 0))
        assert read == len(some) * saved["acts"][0].nbytes
    (target,) = datamodule.targets.cards()
    assert (target.name, target.seed) == ("label 1", 3)
    assert sum(len(datamodule.targets.rows(split)) for split in SPLITS) == N


def test_what_a_target_lacks_is_told_by_its_name(tmp_path, caplog):
    labels = torch.zeros(N, dtype=torch.int64)
    labels[:40] = 1
    with caplog.at_level("INFO"):
        make(write(tmp_path / "own", {"labels": labels}), split=GroupSplit(val=0, test=0.2, seed=[0, 1]))
    for seed in (0, 1):
        assert f"split: no val rows of label 1, seed {seed}, as split.val is 0" in caplog.text
        assert f"split: test of label 1, seed {seed} has 8 labelled 1 and 52 labelled 0; take more" in caplog.text
