"""auroc, its variance and the grid metric against scikit-learn, brute force and hand counts."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from probes.analysis.auroc import auroc, auroc_variance
from probes.grids.grid_auroc import GridAUROC


def drawn(*shape, levels=None, seed=0):
    """Scores (rounded to few levels for ties), labels and valid of one shape."""
    generator = torch.Generator().manual_seed(seed)
    scores = 5 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    if levels is not None:
        scores = (scores / 5 * levels).round()
    labels = (torch.rand(*shape, generator=generator) < 0.4).long()
    valid = torch.rand(*shape, generator=generator) < 0.8
    return scores, labels, valid


def placements(scores, labels):
    """Brute force: every positive against every negative, one row per positive."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    return (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)


def delong(scores, labels):
    wins = placements(scores, labels)
    return wins.mean(1).var(ddof=1) / wins.shape[0] + wins.mean(0).var(ddof=1) / wins.shape[1]


@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize("N", [12, 301])
def test_against_scikit_learn_and_brute_force(levels, N):
    scores, labels, valid = drawn(3, 4, N, levels=levels)
    area, variance = auroc(scores, labels, valid), auroc_variance(scores, labels, valid)
    assert area.shape == variance.shape == (3, 4)
    assert area.dtype == variance.dtype == torch.float64
    for index in np.ndindex(3, 4):
        s, y = scores[index][valid[index]].numpy(), labels[index][valid[index]].numpy()
        assert abs(area[index].item() - roc_auc_score(y, s)) < 1e-14
        assert abs(area[index].item() - placements(s, y).mean()) < 1e-14
        assert abs(variance[index].item() - delong(s, y)) < 1e-14


def test_ties_are_exact():
    """Two positives, three negatives: 1 win + 2 ties out of 6 pairs, then nothing but ties."""
    scores = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.5], [2.0, 2.0, 2.0, 2.0, 2.0]])
    labels = torch.tensor([1, 1, 0, 0, 0])
    assert auroc(scores, labels).tolist() == [2 / 6, 0.5]
    assert auroc_variance(scores, labels)[1] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_any_dtype_is_compared_as_stored(dtype):
    scores, labels, _ = drawn(2, 200)
    scores = scores.to(dtype)
    expected = [roc_auc_score(y, s) for s, y in zip(scores.double().numpy(), labels.numpy(), strict=True)]
    assert np.abs(auroc(scores, labels).numpy() - expected).max() < 1e-14


def test_scale_does_not_matter():
    scores, labels, _ = drawn(200)
    area = auroc(scores, labels)
    assert auroc(1e300 * scores, labels) == area
    assert auroc(scores * 1e-300 - 0.0, labels) == area
    assert auroc(-scores, labels) == pytest.approx(1 - area.item(), abs=1e-15)
    assert auroc(scores, 1 - labels) == pytest.approx(1 - area.item(), abs=1e-15)


def test_infinite_scores_rank_first_and_last():
    inf = torch.inf
    assert auroc(torch.tensor([inf, 1.0, -inf, inf]), torch.tensor([1, 0, 0, 0])) == 2.5 / 3
    assert auroc(torch.tensor([-inf, 1.0, inf]), torch.tensor([1, 0, 0])) == 0
    scores, labels = torch.tensor([inf, inf, 1.0, 2.0]), torch.tensor([1, 1, 0, 0])
    assert auroc(scores, labels) == 1
    assert auroc_variance(scores, labels) == 0


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_an_absent_class_has_no_area(labels):
    scores = torch.tensor([0.1, 0.2, 0.3])
    assert auroc(scores, torch.tensor(labels)).isnan()
    assert auroc_variance(scores, torch.tensor(labels)).isnan()


def test_too_few_examples():
    assert auroc(torch.tensor([0.3]), torch.tensor([1])).isnan()
    assert auroc(torch.zeros(4, 0), torch.zeros(0)).isnan().all()
    scores, labels = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 0, 1])
    assert auroc(scores, labels) == 1
    assert auroc_variance(scores, labels).isnan()
    assert auroc_variance(scores, 1 - labels).isnan()
    assert auroc_variance(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0, 0, 1, 1])) == 0


def test_nan_scores_blank_their_cell_only_where_valid():
    scores, labels, valid = drawn(3, 60)
    expected, spread = auroc(scores, labels, valid), auroc_variance(scores, labels, valid)
    scores[~valid] = torch.nan
    labels[~valid] = 7
    assert torch.equal(auroc(scores, labels, valid), expected)
    assert torch.equal(auroc_variance(scores, labels, valid), spread)
    scores[1, valid[1].nonzero()[0]] = torch.nan
    assert auroc(scores, labels, valid).isnan().tolist() == [False, True, False]
    assert auroc_variance(scores, labels, valid).isnan().tolist() == [False, True, False]


def test_labels_and_scores_broadcast():
    scores, labels, valid = drawn(3, 50)
    assert torch.equal(auroc(scores, labels[0]), auroc(scores, labels[0].expand(3, 50)))
    sets = auroc(scores, labels[:, None], valid[0])
    assert sets.shape == (3, 3)
    assert sets[2, 1] == auroc(scores[1], labels[2], valid[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 1, 2])}, "labels must be 0 or 1 where valid, got 2"),
        ({"labels": torch.tensor([0, 1])}, r"labels must end in the N of scores \[.., N\], got \[2\] for \[4, 3\]"),
        ({"valid": torch.ones(5, 3, dtype=torch.bool)}, r"broadcast to one shape .* valid \[5, 3\]"),
        ({"valid": torch.ones(3)}, "valid must be bool, got torch.float32"),
    ],
)
@pytest.mark.parametrize("function", [auroc, auroc_variance])
def test_mistakes_are_named(function, change, message):
    with pytest.raises(ValueError, match=message):
        function(**{"scores": torch.zeros(4, 3), "labels": torch.tensor([0, 1, 1]), **change})


def assert_grids_equal(one, other):
    assert one.keys() == other.keys() == {"auc", "auc_se", "n", "n_positive"}
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, equal_nan=True)


def test_metric_fills_the_grid_block_by_block():
    scores, labels, valid = drawn(5, 80, levels=4)
    labels = labels[0]
    metric = GridAUROC(n_cells=6)
    metric.update(scores[:2], labels, valid[:2], torch.tensor([4, 0]))
    metric.update(scores[2:], labels.expand(3, 80), valid[2:], torch.tensor([1, 5, 2]))
    grid = metric.compute()
    cells = [4, 0, 1, 5, 2]
    assert torch.equal(grid["auc"][cells], auroc(scores, labels, valid))
    assert torch.equal(grid["auc_se"][cells], auroc_variance(scores, labels, valid).sqrt())
    assert torch.equal(grid["n"][cells], valid.sum(-1))
    assert torch.equal(grid["n_positive"][cells], (valid & (labels == 1)).sum(-1))
    assert grid["auc"].dtype == grid["auc_se"].dtype == torch.float64
    assert grid["n"].dtype == grid["n_positive"].dtype == torch.int64
    assert grid["auc"][3].isnan()
    assert grid["auc_se"][3].isnan()
    assert grid["n"][3] == grid["n_positive"][3] == 0


def test_metric_starts_over_at_reset():
    scores, labels, valid = drawn(2, 40)
    metric, cells = GridAUROC(2), torch.tensor([0, 1])
    metric.update(scores, labels, valid, cells)
    first = metric.compute()
    metric.reset()
    metric.update(-scores, labels, valid, cells)
    torch.testing.assert_close(metric.compute()["auc"], 1 - first["auc"])
    metric.reset()
    metric.update(scores, labels, valid, cells)
    assert_grids_equal(metric.compute(), first)


def as_two_ranks(one, other):
    """Make `one` believe that `other` runs on a second rank: a sync then gathers and reduces the states of both."""
    states = {id(getattr(one, name)): getattr(other, name) for name in one._reductions}
    one.dist_sync_fn = lambda state, group=None: [state, states[id(state)]]
    one.distributed_available_fn = lambda: True
    return one


def test_two_ranks_sum_to_one_grid():
    """A NaN area stays NaN through the sum, and a cell that neither rank scored stays NaN."""
    scores, labels, valid = drawn(4, 40)
    labels[2] = 1
    whole, one, other = GridAUROC(5), GridAUROC(5), GridAUROC(5)
    whole.update(scores, labels, valid, torch.arange(4))
    one.update(scores[[0, 2]], labels[[0, 2]], valid[[0, 2]], torch.tensor([0, 2]))
    other.update(scores[[1, 3]], labels[[1, 3]], valid[[1, 3]], torch.tensor([1, 3]))
    grid = as_two_ranks(one, other).compute()
    assert grid["auc"].isnan().tolist() == [False, False, True, False, True]
    assert grid["n"][2] == valid[2].sum()
    assert_grids_equal(grid, whole.compute())


def test_a_cell_scored_on_two_ranks_is_refused():
    scores, labels, valid = drawn(2, 20)
    one, other = GridAUROC(4), GridAUROC(4)
    one.update(scores, labels, valid, torch.tensor([0, 3]))
    other.update(scores, labels, valid, torch.tensor([3, 1]))
    with pytest.raises(ValueError, match="got cell 3 scored 2 times"):
        as_two_ranks(one, other).compute()


@pytest.mark.parametrize("cells", [[[1, 0], [2, 1]], [[1, 1], [0, 2]]])
def test_a_cell_scored_twice_is_refused(cells):
    scores, labels, valid = drawn(2, 20)
    metric = GridAUROC(3)
    for block in cells:
        metric.update(scores, labels, valid, torch.tensor(block))
    with pytest.raises(ValueError, match="each cell must be scored once between resets, got cell 1 scored 2 times"):
        metric.compute()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": torch.tensor([0, 3])}, "cells must be from 0 to 2, got 3"),
        ({"cells": torch.tensor([-1, 0])}, "cells must be from 0 to 2, got -1"),
        ({"cells": torch.tensor([0])}, r"scores and valid must be \[C, N\] and cells \[C\], got .* cells \[1\]"),
        ({"valid": torch.ones(20, dtype=torch.bool)}, r"scores and valid must be \[C, N\] .* valid \[20\]"),
    ],
)
def test_metric_refuses_blocks_that_do_not_fit(change, message):
    scores, labels, valid = drawn(2, 20)
    block = {"scores": scores, "labels": labels, "valid": valid, "cells": torch.tensor([0, 1]), **change}
    with pytest.raises(ValueError, match=message):
        GridAUROC(3).update(**block)
    with pytest.raises(ValueError, match="n_cells must be at least 1, got 0"):
        GridAUROC(0)
