"""The null of the best cell against exact tests, permutations in a loop, and worlds without a signal."""

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, rankdata

from probes.analysis.auroc import auroc
from probes.analysis.chance import null_of_best
from tests.support.worlds import draw_world


def test_one_cell_is_the_exact_rank_test():
    scores, labels, _ = draw_world(1, (1,) * 40, signal=0.8)
    found = null_of_best(scores[0], labels, draws=20_000)
    expected = mannwhitneyu(scores[0, labels == 1], scores[0, labels == 0], alternative="greater", method="exact")
    assert found.exact
    assert float(found.p_family) == pytest.approx(expected.pvalue, abs=0.005)
    m = int(labels.sum())
    assert found.mean == pytest.approx(0.5, abs=0.003)
    assert found.q95 - 0.5 == pytest.approx(1.645 * (41 / 12 / m / (40 - m)) ** 0.5, abs=0.01)


@pytest.mark.parametrize("levels", [None, 1])
def test_a_map_against_permutations_in_a_loop(levels):
    scores, labels, _ = draw_world(6, (1,) * 80, signal=0.5)
    scores = scores if levels is None else (levels * scores).round()
    found = null_of_best(scores.view(2, 3, -1), labels, draws=4_000)
    rng = np.random.default_rng(0)
    ranks, m = rankdata(scores.numpy(), axis=1), int(labels.sum())
    best = []
    for _ in range(4_000):
        of_positives = ranks[:, rng.permutation(80)[:m]].sum(1)
        best.append(((of_positives - m * (m + 1) / 2) / (m * (80 - m))).max())
    assert found.mean == pytest.approx(np.mean(best), abs=0.003)
    assert found.q95 == pytest.approx(np.quantile(best, 0.95), abs=0.006)
    assert found.q95 < found.q99
    expected = [np.mean(np.array(best) >= float(area) - 1e-12) for area in auroc(scores, labels)]
    np.testing.assert_allclose(found.p_family.flatten(), expected, atol=0.03)


def test_equal_areas_count_as_at_least_as_good():
    labels = torch.arange(60) % 2
    found = null_of_best(torch.stack([torch.zeros(60), torch.arange(60.0) // 2]), labels, draws=50)
    assert found.p_family.tolist() == [1, 1]
    assert (found.mean, found.q99) != (0.5, 0.5)
    alone = null_of_best(torch.zeros(60), labels, draws=50)
    assert (alone.mean, alone.q95, alone.q99, float(alone.p_family)) == (0.5, 0.5, 0.5, 1)


def test_the_smallest_p_value():
    labels = torch.arange(60) // 30
    found = null_of_best(torch.stack([labels.float(), -labels.float()]), labels, draws=99)
    assert found.p_family.tolist() == [0.01, 1]
    assert found.draws == 99


def test_each_cell_permutes_the_labels_of_its_own_rows():
    """Two cells whose rows differ in number and in base rate; each by itself is the rank test of its rows."""
    scores, labels, _ = draw_world(2, (1,) * 90, signal=0.5)
    valid = torch.ones(2, 90, dtype=torch.bool)
    valid[1] = (torch.arange(90) % 3 > 0) | (labels == 1)
    scores[1, ~valid[1]] = torch.nan
    for cell in range(2):
        own = null_of_best(scores[cell], labels, valid[cell], draws=20_000)
        s, y = scores[cell, valid[cell]], labels[valid[cell]]
        expected = mannwhitneyu(s[y == 1], s[y == 0], alternative="greater")
        assert float(own.p_family) == pytest.approx(expected.pvalue, abs=0.006)
    both = null_of_best(scores, labels, valid, draws=20_000)
    assert both.q95 > max(null_of_best(scores[c], labels, valid[c]).q95 for c in range(2))


def test_cells_that_cannot_be_judged_are_left_out():
    scores, labels, _ = draw_world(3, (1,) * 60, signal=0.5)
    expected = null_of_best(scores[:1], labels, draws=200)
    valid = torch.ones(3, 60, dtype=torch.bool)
    valid[1] = (labels == 1) | (labels.cumsum(0) < 5)
    scores[2, 7] = torch.nan
    found = null_of_best(scores, labels, valid, draws=200)
    assert found.p_family.isnan().tolist() == [False, True, True]
    assert (found.mean, found.q95, found.p_family[0]) == (expected.mean, expected.q95, expected.p_family[0])
    with pytest.raises(ValueError, match="chance: expected a cell with 10 valid examples of each class, got none"):
        null_of_best(scores[1:], labels, valid[1:])
    with pytest.raises(ValueError, match=r"labels must be \[60\], one for each example, got \[3, 60\]"):
        null_of_best(scores, labels.expand(3, 60))


def test_examples_that_are_written_three_times_leave_chance_as_it_is():
    scores, labels, groups = draw_world(8, (1,) * 150, signal=0.3, spread=0)
    expected = null_of_best(scores, labels)
    again = [part.repeat_interleave(3, -1) for part in (scores, labels, groups)]
    found = null_of_best(again[0], again[1], groups=again[2])
    assert expected.exact
    assert not found.exact
    assert found.mean == pytest.approx(expected.mean, abs=0.004)
    assert found.q95 == pytest.approx(expected.q95, abs=0.008)
    assert null_of_best(again[0], again[1]).q95 < expected.q95 - 0.02


def test_a_strong_signal_leaves_chance_as_it_is():
    """Of groups as well: what a cell knows is not taken for noise of its groups."""
    sizes = (6,) * 60
    weak, strong = (
        null_of_best(*draw_world(4, sizes, signal, 0.0)[:2], None, draw_world(4, sizes)[2]) for signal in (0.2, 2.5)
    )
    assert strong.q95 == pytest.approx(weak.q95, abs=0.012)


@pytest.mark.parametrize("sizes", [(1,) * 100, tuple(range(1, 14)) * 2])
def test_worlds_without_a_signal_are_rarely_above_chance(sizes):
    smallest = []
    for seed in range(300):
        scores, labels, groups = draw_world(6, sizes, signal=0.0, seed=seed)
        smallest.append(float(null_of_best(scores, labels, groups=groups, draws=199).p_family.min()))
    assert 0.02 < np.mean(np.array(smallest) <= 0.05) < 0.08
    assert 0.4 < np.mean(np.array(smallest) <= 0.5) < 0.6


def test_the_seed_decides():
    scores, labels, _ = draw_world(3)
    first, again, other = (null_of_best(scores, labels, draws=300, seed=seed) for seed in (4, 4, 5))
    assert (first.mean, first.q99) == (again.mean, again.q99)
    assert first.mean != other.mean
