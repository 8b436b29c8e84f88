"""A probe and a baseline together, against scikit-learn cell by cell."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from probes.analysis.beyond_baseline import RIDGE, fit_pairs, go_beyond_baseline
from probes.analysis.scores import Scores
from tests.support.cards import make_card

N, L, T = 400, 2, 3


def make_world(seed=0, n_val=150):
    """The probes of layer 4 know what the baseline does not; those of layer 0 know the baseline, with noise."""
    random = torch.Generator().manual_seed(seed)
    known, unknown, *noise = torch.randn(2 + L * T, N, generator=random, dtype=torch.float64)
    labels = (known + unknown > 0).to(torch.uint8)
    scores = torch.stack([known + noise[0], known + noise[1], known + noise[2], *(unknown + x for x in noise[3:])])
    scores = 1000 * scores.view(1, L, T, N).float() + 7
    scores[0, :, 1, ::7] = torch.nan
    part = torch.full((1, N), 2, dtype=torch.uint8)
    part[0, :n_val] = 1
    record = Scores(scores, torch.arange(N) + 5, part, labels[None], torch.arange(N), make_card())
    return record, torch.cat((torch.full((5,), torch.nan, dtype=torch.float64), known))


def solve(pairs, labels):
    """scikit-learn's optimum for numbers of one cell, on its standardised columns."""
    mean, scale = pairs.mean(0), pairs.std(0)
    fit = LogisticRegression(C=1 / RIDGE, tol=1e-10, max_iter=5000).fit((pairs - mean) / scale, labels)
    return fit, mean, scale


def test_every_cell_against_scikit_learn():
    record, baseline = make_world()
    beyond = go_beyond_baseline(record, baseline, "the baseline")
    assert beyond.name == "the baseline"
    for layer in range(L):
        for t in range(T):
            cell = layer, t
            pairs = np.stack((record.scores[0][cell].double().numpy(), baseline[5:].numpy()), 1)
            there = ~np.isnan(pairs).any(1)
            val, test = (there & (record.part[0] == number).numpy() for number in (1, 2))
            labels = record.labels[0].numpy()
            fit, mean, scale = solve(pairs[val], labels[val])
            np.testing.assert_allclose(beyond.weight[cell], fit.coef_[0], rtol=1e-4)
            auc = roc_auc_score(labels[test], fit.decision_function((pairs[test] - mean) / scale))
            alone = roc_auc_score(labels[test], pairs[test, 1])
            assert float(beyond.together.auc[cell]) == pytest.approx(auc, abs=1e-12)
            assert float(beyond.alone[cell]) == pytest.approx(alone, abs=1e-12)
            assert float(beyond.gain.difference[cell]) == pytest.approx(auc - alone, abs=1e-12)
            assert (int(beyond.n_fitted[cell]), int(beyond.together.n[cell])) == (val.sum(), test.sum())
            assert int(beyond.together.n_positive[cell]) == labels[test].sum()


def test_only_probes_that_know_more_gain():
    record, baseline = make_world()
    beyond = go_beyond_baseline(record, baseline)
    assert (beyond.gain.lower > 0).tolist() == [[False] * T, [True] * T]
    assert beyond.gain.difference[0].abs().max() < 0.02
    assert beyond.gain.difference[1].min() > 0.07
    assert (beyond.gain.error > 0).all()


def test_errors_respect_groups():
    """Each example four times, as a group: the error is that of the examples once."""
    record, baseline = make_world()
    four = torch.arange(N).repeat_interleave(4)
    copied = Scores(
        record.scores[..., four], torch.arange(4 * N), record.part[:, four], record.labels[:, four], four, record.card
    )
    once, fourfold = go_beyond_baseline(record, baseline), go_beyond_baseline(copied, baseline[5:][four])
    torch.testing.assert_close(fourfold.together.auc, once.together.auc, rtol=0, atol=2e-3)  # the ridge counts less
    torch.testing.assert_close(fourfold.gain.error, once.gain.error, rtol=0.05, atol=0)


def test_rows_that_do_not_count_change_nothing():
    random = torch.Generator().manual_seed(1)
    pairs, labels = torch.randn(3, 80, 2, generator=random).double(), torch.arange(80) % 2
    pairs[..., 0] += labels
    holed = torch.cat((pairs, torch.tensor([torch.nan, 1.0]).double().expand(3, 40, 2)), 1)
    holed[:, 90] = torch.inf
    padded = torch.cat((labels, torch.ones(40, dtype=torch.long)))
    for plain, masked in zip(fit_pairs(pairs, labels), fit_pairs(holed, padded), strict=True):
        torch.testing.assert_close(masked, plain, rtol=1e-9, atol=1e-9)


def test_hard_cells():
    """Separable rows end, with a small gradient; a constant baseline counts for nothing; one class has no fit."""
    labels = torch.arange(60) % 2
    noise = torch.randn(60, generator=torch.Generator().manual_seed(2)).double()
    separable = torch.stack((labels * 5 + noise.clamp(-1, 1), noise), 1)
    constant = torch.stack((labels + noise, torch.full((60,), 3.7).double()), 1)
    weight, mean, scale = fit_pairs(torch.stack((separable, constant)), labels)
    fit, _, _ = solve(separable.numpy(), labels.numpy())
    np.testing.assert_allclose(weight[0, 1:], fit.coef_[0], rtol=1e-3)
    assert weight[1, 2] == 0
    assert torch.isfinite(weight).all()
    assert (float(scale[1, 0, 1]), float(mean[1, 0, 1])) == (1, pytest.approx(3.7))
    assert fit_pairs(separable[None], torch.ones(60))[0].isnan().all()


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_heavy_tails_and_nearly_equal_numbers(rate):
    """The gradient of the stated objective is zero at the end, in 40 cells of each kind."""
    random = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 40, 100, generator=random, dtype=torch.float64)
    labels = (torch.rand(100, generator=random) < rate).double()
    pairs = torch.cat((torch.stack((a**7 + 3 * labels, b**5), -1), torch.stack((a, a + 1e-3 * (b + labels)), -1)))
    weight, mean, scale = fit_pairs(pairs, labels)
    X = torch.cat((torch.ones(80, 100, 1), (pairs - mean) / scale), -1)
    residual = torch.sigmoid((X @ weight[..., None])[..., 0]) - labels
    gradient = (X.mT @ residual[..., None])[..., 0] + RIDGE * weight * torch.tensor([0, 1, 1])
    assert float(gradient.abs().max()) < 1e-8


def test_a_cell_without_scores_stays_empty():
    record, baseline = make_world()
    record.scores[0, 1, 2] = torch.nan
    beyond = go_beyond_baseline(record, baseline)
    assert beyond.together.auc.isnan().tolist() == [[False] * 3, [False, False, True]]
    assert beyond.gain.difference.isnan().tolist() == [[False] * 3, [False, False, True]]
    assert int(beyond.together.n[1, 2]) == 0


def test_no_validation_rows_are_refused():
    with pytest.raises(ValueError, match="expected validation rows to fit two weights on, got none"):
        go_beyond_baseline(*make_world(n_val=0))
