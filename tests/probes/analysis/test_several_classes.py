"""The mean AUC over classes: one cell for all, chosen on validation rows."""

import math

import pytest
import torch

from probes.analysis.auc_map import AUCMap
from probes.analysis.several_classes import average_classes


def make_map(target, split, auc, n_positive=30):
    n = torch.full((2, 2), 100)
    positive = torch.full((2, 2), n_positive)
    return AUCMap(target, split, (0, 4), ("first", "last"), torch.tensor(auc).double(), n / 999, n, positive)


TEST = [make_map("red", "test", [[0.6, 0.9], [0.7, 0.8]]), make_map("blue", "test", [[0.5, 0.6], [0.9, 0.7]])]
VAL = [make_map("red", "val", [[0.6, 0.7], [0.8, 0.9]]), make_map("blue", "val", [[0.5, 0.6], [0.6, 0.9]])]


def test_one_cell_is_chosen_by_the_mean_validation_auc():
    found = average_classes(TEST, VAL)
    assert found is not None
    assert found[:2] + found[3:] == (4, "last", 2, "val")
    assert found.auc == pytest.approx((0.8 + 0.7) / 2)  # not (0.7 + 0.9) / 2, the best by the test rows
    assert found.describe() == (
        "Mean of 2 classes, each against the rest: in the best cell for all (chosen on validation rows), layer 4, "
        "last, the mean test AUC is 0.750."
    )


def test_without_validation_the_test_rows_choose_and_it_is_said():
    found = average_classes(TEST, [None, None])
    assert found is not None
    assert (found.layer, found.position, found.chosen_on) == (4, "first", "test")
    assert "chosen on these rows, so too high" in found.describe()


def test_classes_that_cannot_be_read_and_controls_are_left_out():
    rare, control = make_map("teal", "test", [[1.0] * 2] * 2, 5), make_map("control of red", "test", [[0.5] * 2] * 2)
    assert average_classes([*TEST, rare, control], [*VAL, None, None]) == average_classes(TEST, VAL)
    assert average_classes([TEST[0], rare], [VAL[0], None]) is None


def test_a_cell_must_be_readable_for_every_class():
    blind = make_map("blue", "test", [[0.5, 0.6], [0.9, math.nan]])
    found = average_classes([TEST[0], blind], VAL)
    assert found is not None
    assert (found.layer, found.position) == (4, "first")
