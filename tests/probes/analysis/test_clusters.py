"""Clustered errors against brute force, duplicated examples and a bootstrap of groups."""

import numpy as np
import pytest
import torch

from probes.analysis.auroc import auroc, auroc_variance, auroc_with_variance
from probes.analysis.clusters import clustered_variance, influences, measure_areas
from probes.grids.grid_auroc import GridAUROC
from tests.support.worlds import draw_world, place_by_pairs, resample_groups

SIZES = tuple(range(1, 21)) * 2


def by_brute_force(scores, labels, groups):
    """The variance as its docstring has it, group by group."""
    wins = place_by_pairs(scores, labels)
    total = 0
    for group in groups.unique():
        of_group = 0
        for own, placed in ((1, wins.mean(1)), (0, wins.mean(0))):
            inside = groups[labels == own] == group
            deviation = (placed - placed.mean())[inside].sum() / len(placed)
            of_group += deviation / (1 - inside.double().mean()).sqrt()
        total += of_group**2
    return float(total)


@pytest.mark.parametrize("levels", [None, 2])
def test_groups_against_brute_force(levels):
    scores, labels, groups = draw_world(3, SIZES)
    scores = scores if levels is None else (levels * scores).round()
    valid = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    found = auroc_variance(scores, labels, valid, groups)
    for cell in range(3):
        here = valid[cell]
        expected = by_brute_force(scores[cell, here], labels[here], groups[here])
        assert float(found[cell]) == pytest.approx(expected, rel=1e-12)
    influence = influences(scores, labels, valid, groups)
    assert (influence[~valid] == 0).all()
    torch.testing.assert_close(clustered_variance(influence, groups), found, rtol=1e-12, atol=0)


@pytest.mark.parametrize("levels", [None, 2])
def test_each_its_own_group_is_delong(levels):
    scores, labels, _ = draw_world(3)
    scores = scores if levels is None else (levels * scores).round()
    alone = -7 * torch.arange(len(labels)).flip(0)
    for cell in scores:
        wins = place_by_pairs(cell, labels)
        expected = float(wins.mean(1).var() / len(wins) + wins.mean(0).var() / wins.shape[1])
        for groups in (None, alone):
            assert float(auroc_variance(cell, labels, groups=groups)) == pytest.approx(expected, rel=1e-12)


def test_an_example_that_is_written_three_times_counts_once():
    scores, labels, groups = draw_world(3)
    area, variance = auroc_with_variance(scores, labels)
    again = [part.repeat_interleave(3, -1) for part in (scores, labels, groups)]
    copied, clustered = auroc_with_variance(again[0], again[1], groups=again[2])
    torch.testing.assert_close(copied, area, rtol=1e-12, atol=0)
    torch.testing.assert_close(clustered, variance, rtol=1e-12, atol=0)
    assert (auroc_variance(again[0], again[1]) < 0.4 * variance).all()


@pytest.mark.parametrize("sizes", [SIZES, (1,) * 150, (5,) * 40])
def test_errors_agree_with_a_bootstrap_of_groups(sizes):
    scores, labels, groups = draw_world(3, sizes)
    errors = auroc_variance(scores, labels, groups=groups).sqrt()
    ratios = [float(errors[cell] / resample_groups(scores[cell], labels, groups).std()) for cell in range(3)]
    assert all(0.9 < ratio < 1.1 for ratio in ratios), ratios
    if sizes == SIZES:
        assert (errors > 1.3 * auroc_variance(scores, labels).sqrt()).all()


def test_rows_that_are_not_valid_bring_no_groups():
    """Neither to the errors nor to the degrees of freedom, wherever their groups' other examples are."""
    scores, labels, groups = draw_world(2, (3,) * 60)
    here = torch.arange(180) % 4 > 0
    groups[~here] += 1_000
    scores[:, ~here] = torch.nan
    found = measure_areas(scores, labels, here, groups)
    expected = measure_areas(scores[:, here], labels[here], groups=groups[here])
    torch.testing.assert_close(found.error(), expected.error(), rtol=1e-14, atol=0)
    assert found.freedom == expected.freedom


def test_degrees_of_freedom():
    scores, labels, _ = draw_world(1, (1,) * 60)
    assert measure_areas(scores, labels).freedom == 59
    assert measure_areas(scores, labels, groups=torch.arange(60) // 3).freedom == pytest.approx(19)
    sizes = torch.tensor([30, 10, 10, 10])
    unequal = measure_areas(scores, labels, groups=torch.arange(4).repeat_interleave(sizes)).freedom
    assert unequal == pytest.approx(60**2 / 1200 - 1)


def test_a_class_in_one_group_has_no_error():
    scores, labels, groups = draw_world(2, (4,) * 20)
    groups[labels == 1] = 3
    assert auroc(scores, labels).isfinite().all()
    assert auroc_variance(scores, labels, groups=groups).isnan().all()
    assert influences(scores, labels, groups=groups).isnan().all()
    assert auroc_variance(scores, labels, groups=torch.zeros_like(groups)).isnan().all()


def test_means_and_differences_of_areas():
    """The error of a sum of AUROCs follows from their covariance matrix."""
    scores, labels, groups = draw_world(4, SIZES)
    areas = measure_areas(scores.view(2, 2, -1), labels, groups=groups)
    flat = areas.influence.flatten(0, 1)
    covariance = (flat @ flat.T).numpy()
    np.testing.assert_allclose(areas.error().flatten().numpy() ** 2, covariance.diagonal(), rtol=1e-12)
    mean, weight = areas.average(0), np.array([0.5, 0, 0.5, 0])
    assert float(mean.auc[0]) == pytest.approx(float((areas.auc[0, 0] + areas.auc[1, 0]) / 2))
    assert float(mean.error()[0]) ** 2 == pytest.approx(weight @ covariance @ weight)
    weight = np.array([1, 0, 0, -1])
    apart = areas.at((0, 0)).minus(areas.at((1, 1)))
    assert float(apart.auc) == float(areas.auc[0, 0] - areas.auc[1, 1])
    assert float(apart.error()) ** 2 == pytest.approx(weight @ covariance @ weight)
    with pytest.raises(ValueError, match="expected AUROCs of the same groups, got 40 and 420 groups"):
        areas.minus(measure_areas(scores, labels))


@pytest.mark.parametrize("groups", [torch.zeros(5, dtype=torch.int64), torch.zeros(120), torch.zeros(1, 120).long()])
def test_groups_that_do_not_fit_are_refused(groups):
    scores, labels, _ = draw_world(1)
    with pytest.raises(ValueError, match=r"groups must be \[120\] integers, one for each example, got \["):
        auroc_variance(scores, labels, groups=groups)


def test_the_metric_takes_groups():
    scores, labels, groups = draw_world(3, SIZES)
    valid = torch.ones_like(scores, dtype=torch.bool)
    metric = GridAUROC(3)
    metric.update(scores, labels, valid, torch.tensor([2, 0, 1]), groups)
    expected = auroc_variance(scores, labels, groups=groups).sqrt()
    assert torch.equal(metric.compute()["auc_se"], expected[[1, 2, 0]])
