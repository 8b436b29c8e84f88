"""What both datamodules say of their splits, and refuse; on files of precomputed activations."""

import re

import pytest
import torch

from datamodules.split import GroupSplit
from tests.datamodules.test_precomputed import N, card_of, tensors, write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "own.safetensors"


def test_groups_of_each_split_are_told_and_few_in_test_are_warned_of(path, caplog):
    groups = torch.arange(N) // 3
    with caplog.at_level("INFO"):
        card = card_of(write(path, {"groups": groups}))
    counts = card.targets[0].counts
    parts = ", ".join(f"{split} {count.n} in {count.n_groups} groups" for split, count in counts.items())
    assert f"split: {parts}\n" in caplog.text
    assert "rough" not in caplog.text
    caplog.clear()
    card = card_of(write(path, {"groups": torch.arange(N) // 10}), split=GroupSplit(seed=[0, 1]))
    fewest = min(target.counts["test"].n_groups or 0 for target in card.targets)
    assert fewest < 20
    assert caplog.text.count(f"split: test has {fewest} groups; with fewer than 20 the standard errors are rough") == 1
    caplog.clear()
    with caplog.at_level("INFO"):
        card_of(write(path, {"groups": torch.arange(N)}))
    assert re.search(r"split: train \d+, val \d+, test \d+, each a group of its own", caplog.text)


def test_groups_that_leave_one_class_in_a_split_are_refused(path):
    """All that are labelled 0 are one group, and train; a part of the others tests."""
    groups = tensors()["labels"] * (1 + torch.arange(N) % 2)
    n = int((groups == 1).sum()), int((groups == 2).sum())
    line = rf"split: expected both classes in test, got ({n[0]}|{n[1]}) labelled 1 in 1 groups and no other; take split"
    with pytest.raises(ValueError, match=line):
        card_of(write(path, {"groups": groups}), split=GroupSplit(val=0))


def test_what_a_file_holds_out_is_its_groups(path):
    with pytest.raises(ValueError, match=r"split.by: expected question with precomputed .*, got 'gold'; write groups"):
        card_of(write(path), split=GroupSplit(by="gold"))


def test_control_labels_stand_beside_each_label_set(path):
    card = card_of(write(path), control_labels=True)
    true, control = card.targets
    assert control.name == "control"
    assert [count.n_positive for count in control.counts.values()] == pytest.approx(
        [count.n_positive for count in true.counts.values()], abs=3
    )
    with pytest.raises(ValueError, match=r"datamodule.control_labels: expected true or false, got 1"):
        card_of(write(path), control_labels=1)


@pytest.mark.parametrize("name", ["control", "control of truth"])
def test_names_of_controls_are_taken(path, name):
    """Else a target of one's own would be left out of what is analysed; a longer name is free."""
    with pytest.raises(ValueError, match=rf"targets: expected names other than control, .* got {name}; rename"):
        card_of(write(path, metadata={"target": name}))
    assert card_of(write(path, metadata={"target": "control questions"})).targets[0].label == "control questions"
