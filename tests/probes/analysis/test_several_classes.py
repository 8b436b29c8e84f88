"""The mean AUC over classes: one cell for all, chosen on validation rows."""

import math
from dataclasses import replace

import pytest
import torch

from datamodules.card import Card, TargetCard
from probes.analysis.auc_map import AUCMap
from probes.analysis.auroc import auroc
from probes.analysis.scores import Scores
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
    assert found[:2] + found[3:] == (4, "last", None, 2, "val")
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


def make_record(n=600, per_group=3, seed=0):
    """Scores of three classes against the rest in one cell, on the same groups of examples."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(n) // per_group
    numbers = torch.randint(3, (n // per_group,), generator=generator)[groups]
    labels = torch.stack([(numbers == k).long() for k in range(3)])
    shared = torch.randn(n // per_group, generator=generator)[groups]  # what makes a group alike
    scores = labels + shared * torch.tensor([[1.0], [-0.8], [0.5]]) + torch.randn(3, n, generator=generator)
    part = torch.full((3, n), 2, dtype=torch.uint8)
    targets = tuple(TargetCard(name, name, 0, {}) for name in ("red", "green", "blue"))
    card = Card("m", "d", "resid_post", (0,), ("last",), 4, targets=targets, n_valid=(n,))
    return Scores(scores[:, None, None].float(), torch.arange(n), part, labels.to(torch.uint8), groups, card)


def test_the_error_of_the_mean_is_that_of_leaving_out_groups():
    """Jackknife over groups (Efron & Stein 1981); errors of the classes alone would be added as if independent."""
    record = make_record()
    maps = record.maps("test")
    found = average_classes(maps, [None] * 3, record)
    assert found is not None
    assert found.auc_se is not None
    scores, labels = record.scores[:, 0, 0], record.labels.long()
    assert found.auc == pytest.approx(float(auroc(scores, labels).mean()))
    groups = record.groups.unique()
    without = torch.stack(
        [auroc(scores[:, record.groups != one], labels[:, record.groups != one]).mean() for one in groups]
    )
    jackknife = (without - without.mean()).square().sum() * (len(groups) - 1) / len(groups)
    assert found.auc_se == pytest.approx(float(jackknife.sqrt()), rel=0.02)
    alone = torch.stack([one.auc_se for one in maps]).square().sum().sqrt() / 3
    assert abs(found.auc_se / float(alone) - 1) > 0.1  # the covariance counts
    assert found.describe().endswith(f"the mean test AUC is {found.auc:.3f} ± {found.auc_se:.3f}.")


def test_other_test_rows_have_no_error():
    record = make_record()
    part = record.part.clone()
    part[1, :300] = 0
    other = replace(record, part=part)
    found = average_classes(other.maps("test"), [None] * 3, other)
    assert found is not None
    assert found.auc_se is None
