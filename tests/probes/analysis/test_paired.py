"""Paired comparisons against DeLong by brute force, scipy, Holm by hand and a bootstrap of groups."""

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from probes.analysis.band import band
from probes.analysis.chance import null_of_best
from probes.analysis.clusters import measure_areas
from probes.analysis.paired import compare, correct_by_holm, two_sided_p
from tests.support.simulated_cuda import SimulatedCuda, simulate
from tests.support.worlds import draw_world, place_by_pairs, resample_groups

SIZES = tuple(range(1, 16)) * 3


def test_delong_by_brute_force():
    (one, other), labels, _ = draw_world(2, signal=0.5)
    wins = [place_by_pairs(scores, labels) for scores in (one, other)]
    apart = wins[0] - wins[1]
    error = float((apart.mean(1).var() / len(apart) + apart.mean(0).var() / apart.shape[1]).sqrt())
    found = compare(measure_areas(one, labels), measure_areas(other, labels))
    assert float(found.difference) == pytest.approx(float(apart.mean()), rel=1e-12)
    assert float(found.error) == pytest.approx(error, rel=1e-12)
    expected = 2 * student.sf(abs(float(apart.mean())) / error, 119)
    assert float(found.p) == pytest.approx(expected, rel=1e-5)
    assert float(found.p_holm) == float(found.p)
    assert float(found.upper - found.difference) == pytest.approx(found.critical * error)


@pytest.mark.parametrize("freedom", [4.0, 12.3, 60.0, 2_000.0])
def test_tails_of_student(freedom):
    t = torch.tensor([0.0, 0.3, 1.0, 2.0, 3.5, 6.0], dtype=torch.float64)
    found = two_sided_p(t, torch.ones_like(t), freedom)
    np.testing.assert_allclose(found, 2 * student.sf(t, freedom), rtol=2e-3 if freedom < 10 else 1e-4)
    torch.testing.assert_close(two_sided_p(-t, torch.ones_like(t), freedom), found)


def test_holm_by_hand():
    p = torch.tensor([[0.01, 0.04, torch.nan], [0.03, 0.005, 0.9]])
    expected = torch.tensor([[0.04, 0.09, torch.nan], [0.09, 0.025, 0.9]])
    torch.testing.assert_close(correct_by_holm(p), expected, equal_nan=True)
    assert correct_by_holm(torch.tensor([0.6, 0.7])).tolist() == [1, 1]


def test_a_difference_of_groups_agrees_with_a_bootstrap():
    scores, labels, groups = draw_world(2, SIZES, signal=0.8)
    scores[1] -= 0.7 * draw_world(1, SIZES, seed=5)[0][0]
    first, second = (measure_areas(one, labels, groups=groups) for one in scores)
    found = compare(first, second)
    drawn = resample_groups(scores[0], labels, groups) - resample_groups(scores[1], labels, groups)
    assert 0.9 < float(found.error / drawn.std()) < 1.1


def test_maps_columns_and_cells():
    scores, labels, groups = draw_world(6, SIZES, signal=0.6)
    scores[[0, 2, 4]] += 1.5 * labels
    areas = measure_areas(scores.view(3, 2, -1), labels, groups=groups)
    maps = compare(areas, areas.at((slice(None), [1, 0])))
    assert maps.difference.shape == maps.p_holm.shape == (3, 2)
    torch.testing.assert_close(maps.difference[:, 0], -maps.difference[:, 1])
    torch.testing.assert_close(maps.p[:, 0], maps.p[:, 1])
    columns = compare(areas.average(0).at(0), areas.average(0).at(1))
    assert float(columns.difference) == pytest.approx(float(maps.difference[:, 0].mean()))
    assert columns.error < maps.error[:, 0].mean()
    cells = compare(areas.at(([0, 1], [0, 0])), areas.at(([0, 1], [1, 0])))
    assert float(cells.p[1]) == 1  # with itself
    assert float(cells.error[1]) == 0
    assert float(cells.p_holm[0]) == pytest.approx(2 * float(cells.p[0]))
    assert cells.p[0] == maps.p[0, 0]


def test_two_runs_on_the_same_questions_may_have_other_labels_and_rows():
    """The error is that of independent differences where no example is shared."""
    (one, other), labels, groups = draw_world(2, (1,) * 200, spread=0)
    early = torch.arange(200) < 100
    first = measure_areas(one, labels, early, groups)
    second = measure_areas(other, 1 - labels, ~early, groups)
    found = compare(first, second)
    assert float(found.error) ** 2 == pytest.approx(float(first.error()) ** 2 + float(second.error()) ** 2, rel=1e-12)
    assert float(found.difference) == float(first.auc - second.auc)


def test_a_cell_that_cannot_be_measured_has_no_difference():
    scores, labels, _ = draw_world(3, signal=0.5)
    broken = scores.clone()
    broken[1, 0] = torch.nan
    found = compare(measure_areas(scores + labels, labels), measure_areas(broken, labels))
    for part in (found.difference, found.error, found.p, found.p_holm, found.lower, found.upper):
        assert part.isnan().tolist() == [False, True, False]
    assert found.p_holm[[0, 2]].amin() == 2 * found.p[[0, 2]].amin()


@pytest.mark.parametrize("sizes", [(1,) * 120, SIZES])
def test_equal_probes_rarely_differ(sizes):
    p, holm = [], []
    for seed in range(250):
        scores, labels, groups = draw_world(8, sizes, signal=0.5, seed=seed)
        areas = measure_areas(scores, labels, groups=groups)
        found = compare(areas.at(slice(4)), areas.at(slice(4, 8)), draws=10)
        p.append(float(found.p[0]))
        holm.append(float(found.p_holm.min()))
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09
    assert np.mean(np.array(holm) < 0.05) < 0.09


def test_statistics_on_the_device_are_those_on_the_cpu():
    """Errors, bands, chance and comparisons, with the same draws."""
    scores, labels, groups = draw_world(4, (1, 2, 3, 4) * 15)
    valid = torch.ones_like(scores, dtype=torch.bool)
    valid[1, :9] = False

    def compute(scores, labels, valid, groups):
        areas = measure_areas(scores, labels, valid, groups)
        limits = band(areas, best=(0,), draws=50)
        found = compare(areas, areas.at([1, 0, 3, 2]), draws=50)
        chances = [null_of_best(scores, labels, valid, given, draws=50).p_family for given in (groups, None)]
        tensors = [areas.error(), limits.lower, limits.near_best, found.p_holm, found.upper, *chances]
        return [tensor.cpu() for tensor in tensors]

    expected = compute(scores, labels, valid, groups)
    with SimulatedCuda():
        there = compute(*(simulate(part) for part in (scores, labels, valid, groups)))
    for one, other in zip(there, expected, strict=True):
        torch.testing.assert_close(one, other)
