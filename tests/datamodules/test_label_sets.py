"""Several label sets in one file of precomputed activations."""

import pytest
import torch

from datamodules.split import GroupSplit
from tests.datamodules.test_precomputed import N, card_of, make, tensors, write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "own.safetensors"


def test_label_sets_become_targets_on_the_same_activations(path):
    """Each is split by itself: as in a file that holds it alone."""
    saved = tensors()
    sets = torch.stack([saved["labels"], (saved["acts"][:, 0, 0, 0] > 1).long()])
    datamodule = make(write(path, {"labels": sets.to(torch.uint8)}, {"targets": '["truth", "large"]'}))
    blocks = {split: list(getattr(datamodule, f"{split}_dataloader")()) for split in ("train", "val", "test")}
    for k, labels in enumerate(sets):
        alone = make(write(path.with_name("alone"), {"labels": labels}))
        assert alone.targets.cards()[0].counts == datamodule.targets.cards()[k].counts
        for split, some in blocks.items():
            for block in some:
                rows = block["examples"]
                assert rows.tolist() == datamodule.targets.rows(split).tolist()
                assert torch.equal(block["labels"], sets[:, rows])
                assert rows[block["held"][k]].tolist() == alone.targets.rows(split).tolist()
                for c, cell in enumerate(block["cells"].tolist()):
                    layer, position = divmod(cell, 3)
                    here = saved["valid"][rows, position]
                    assert torch.equal(block["valid"][k, c], block["held"][k] & here)
                    assert torch.equal(block["acts"][c][here], saved["acts"][rows, layer, position][here])


def test_label_sets_times_seeds(path):
    labels = tensors()["labels"]
    card = card_of(
        write(path, {"labels": torch.stack([labels, 1 - labels])}, {"targets": '["truth", "lie"]'}),
        split=GroupSplit(seed=[0, 5]),
    )
    assert [(target.name, target.label, target.seed) for target in card.targets] == [
        ("truth, seed 0", "truth", 0), ("truth, seed 5", "truth", 5), ("lie, seed 0", "lie", 0),
        ("lie, seed 5", "lie", 5),
    ]  # fmt: skip


def test_label_sets_are_named_by_the_file_or_counted(path):
    labels = tensors()["labels"]
    both = {"labels": torch.stack([labels, 1 - labels])}

    def names(metadata, changes):
        targets = card_of(write(path, changes, metadata)).targets
        return [(target.name, target.label) for target in targets]

    assert names({"targets": '["truth", "lie"]'}, both) == [("truth", "truth"), ("lie", "lie")]
    assert names({"target": "truth"}, both) == [(f"truth of set {m}",) * 2 for m in (0, 1)]
    for one in ({}, {"labels": labels[None]}):
        assert names({"targets": '["truth"]'}, one) == names({"target": "truth"}, one) == [("truth", "truth")]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"labels": torch.zeros(3, 299)},
            r"expected labels \[N\] = \[300\] or \[M, N\] for M label sets .* = \[300, 2, 3, 8\], got \[3, 299\]; give",
        ),
        ({"labels": torch.zeros(0, N)}, r"expected labels \[N\] = \[300\] or .*, got \[0, 300\]"),
        ({"labels": torch.zeros(1, 2, N)}, r"expected labels \[N\] = \[300\] beside .*, got \[1, 2, 300\]"),
        (
            {"labels": torch.stack([torch.arange(N) % 2, torch.arange(N) % 2 * 3])},
            "expected labels 0 and 1, got 3 in row 1 of label 1 of set 1; map them to these",
        ),
        (
            {"labels": torch.stack([torch.ones(N), torch.arange(N) % 2])},
            "expected labels 0 and 1, got 1 in all 300 rows of label 1 of set 0; add examples of the other",
        ),
    ],
)
def test_label_sets_that_do_not_fit(path, changes, line):
    with pytest.raises(ValueError, match=f"own.safetensors: {line}"):
        make(write(path, changes))


@pytest.mark.parametrize(
    ("targets", "got"),
    [('["a"]', r"1 entries, \["), ('["a", "a"]', "2 entries"), ("[1, 2]", "2 entries"), ("a, b", "a, b")],
)
def test_names_of_label_sets_that_do_not_fit(path, targets, got):
    changes = {"labels": torch.stack([torch.arange(N) % 2, torch.arange(N) // 2 % 2])}
    line = f"own.safetensors: expected metadata targets as a JSON list of M strings, 2 different ones, got {got}"
    with pytest.raises(ValueError, match=line):
        make(write(path, changes, {"targets": targets}))
