"""The band and the cells near the best against normal quantiles, formulas by hand and planted worlds."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from probes.analysis.band import band, can_vary, critical_value
from probes.analysis.clusters import Areas, measure_areas
from tests.support.worlds import draw_world

MANY = (1,) * 600


def measure(*given, **more):
    scores, labels, groups = draw_world(*given, **more)
    return measure_areas(scores, labels, groups=groups)


def near(limits):
    assert limits.near_best is not None
    return limits.near_best.tolist()


@pytest.mark.parametrize("n_cells", [1, 20])
def test_independent_cells_have_the_critical_value_of_sidak(n_cells):
    generator = torch.Generator().manual_seed(0)
    areas = Areas(torch.full((n_cells,), 0.7), torch.randn(n_cells, 600, generator=generator).double() / 600, 599)
    for two_sided in (True, False):
        each = 0.95 ** (1 / n_cells)
        expected = norm.ppf((1 + each) / 2 if two_sided else each)
        assert critical_value(areas, 0.95, 4_000, 0, two_sided) == pytest.approx(expected, abs=0.1)


def test_copies_of_a_cell_count_once():
    one = measure(1, MANY)
    copies = Areas(one.auc.expand(4), one.influence.expand(4, -1), one.freedom)
    assert critical_value(copies, 0.95, 500, 0) == pytest.approx(critical_value(one, 0.95, 500, 0), rel=1e-12)


def test_few_groups_make_the_critical_value_larger():
    values = [critical_value(measure(6, (10,) * n), 0.95, 2_000, 0) for n in (15, 40, 200)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[2] + 0.5


def test_the_limits_by_hand():
    areas = measure(6, MANY, 1.5)
    found = band(areas)
    area, error = areas.auc.numpy(), areas.error().numpy()
    odds = np.log(area / (1 - area))
    for limit, side in ((found.lower, -1), (found.upper, 1)):
        expected = 1 / (1 + np.exp(-odds - side * found.critical * error / (area * (1 - area))))
        np.testing.assert_allclose(limit.numpy(), expected, rtol=1e-12)
    assert found.near_best is None
    wider = band(areas, level=0.99)
    assert (wider.lower < found.lower).all()
    assert (wider.upper > found.upper).all()


def test_limits_stay_between_0_and_1():
    """A cell without an error has no limits, and does not widen those of the others."""
    scores, labels, _ = draw_world(3, (1,) * 60)
    scores[1] = labels + 0.001 * scores[1]
    scores[2, 5] = torch.nan
    found = band(measure_areas(scores, labels), best=(1,))
    assert (found.lower[1], found.upper[1]) == (1, 1)
    assert found.lower[2].isnan()
    assert found.upper[2].isnan()
    assert 0 < found.lower[0] < found.upper[0] < 1
    assert near(found) == [False, True, False]
    assert found.critical == pytest.approx(band(measure_areas(scores[0], labels)).critical)
    assert band(measure_areas(scores[1], labels)).critical == 0
    with pytest.raises(ValueError, match=r"best: expected a cell with an AUROC and an error, got \(2,\) without"):
        band(measure_areas(scores, labels), best=(2,))


@pytest.mark.parametrize("shift", np.linspace(-0.4, 0.1, 6))
def test_two_cells_are_told_apart_by_the_paired_test(shift):
    """DeLong's, one-sided: with many groups its critical value is that of a normal distribution."""
    scores, labels, _ = draw_world(2, MANY, 1.0)
    scores[0] += shift * labels
    areas = measure_areas(scores, labels)
    covariance = (areas.influence @ areas.influence.T).numpy()
    t = float(areas.auc[0] - areas.auc[1]) / np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert abs(t - 1.645) > 0.1, "choose another shift"
    assert near(band(areas, best=(0,))) == [True, t <= 1.645]


def test_cells_near_the_best_of_a_map():
    """A cell that is better than the one chosen, by luck, is among them; so is a copy of it."""
    scores, labels, _ = draw_world(6, MANY, 0.6)
    scores[1] = scores[0]
    scores[4] += 0.4 * labels
    scores[5] -= 0.5 * labels
    areas = measure_areas(scores.view(3, 2, -1), labels)
    assert areas.auc[2, 0] > areas.auc[0, 0]
    first, _, last = near(band(areas, best=(0, 0)))
    assert (first, last) == ([True, True], [True, False])


@pytest.mark.parametrize("sizes", [(1,) * 150, tuple(range(1, 11)) * 4])
def test_the_band_holds_all_cells(sizes):
    """Cells of true AUROC .5, which no bias of small samples touches."""
    held = []
    for seed in range(150):
        areas = measure(8, sizes, 0.0, seed=seed)
        found = band(areas, draws=400, seed=seed)
        held.append(bool(((found.lower <= 0.5) & (found.upper >= 0.5)).all()))
    assert 0.91 < np.mean(held) < 0.99


def test_the_seed_decides():
    areas = measure(4)
    values = [band(areas, draws=200, seed=seed).critical for seed in (3, 3, 4)]
    assert values[0] == values[1] != values[2]


def test_a_difference_of_few_groups_does_not_widen_the_limits_of_the_others():
    areas = measure(6, MANY)
    value = critical_value(areas, 0.95, 2_000, 0)
    rare = areas.influence[:1] * (torch.arange(areas.influence.shape[-1]) < 3)  # two rankings that hardly differ
    more = Areas(torch.cat([areas.auc, areas.auc[:1]]), torch.cat([areas.influence, rare]), areas.freedom)
    assert can_vary(more).tolist() == [True] * 6 + [False]
    assert critical_value(more, 0.95, 2_000, 0) == value
