"""Probabilities, reliability, risk and thresholds of one score, held against scikit-learn and counts by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.analysis.calibration import (
    aurc,
    choose_threshold,
    expected_calibration_error,
    fit_platt,
    measure_calibration_error,
    risk_coverage,
    tabulate_reliability,
)
from probes.analysis.shares import find_limits


def draw_scores(n=300, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(n, generator=generator, dtype=torch.float64) + 7
    labels = (torch.rand(n, generator=generator) < (0.8 * (scores - 7.5)).sigmoid()).long()
    return scores, labels, torch.arange(n) // 3


def smooth(labels):
    ones = int(labels.sum())
    return torch.where(labels == 1, (ones + 1) / (ones + 2), 1 / (len(labels) - ones + 2)).double().numpy()


@pytest.mark.parametrize("separated", [False, True])
def test_platt_is_a_logistic_regression_on_smoothed_labels(separated):
    scores, labels, groups = draw_scores()
    labels = (scores > 7.5).long() if separated else labels
    found = fit_platt(scores, labels, groups)
    soft, x = smooth(labels), scores.numpy()[:, None]
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000, solver="newton-cholesky").fit(
        np.concatenate((x, x)), np.repeat([1, 0], len(x)), sample_weight=np.concatenate((soft, 1 - soft))
    )
    assert found.slope == pytest.approx(oracle.coef_.item(), rel=1e-6)
    assert found.offset == pytest.approx(oracle.intercept_.item(), rel=1e-6)
    np.testing.assert_allclose(found.probability(scores), oracle.predict_proba(x)[:, 1], atol=1e-9)


@pytest.mark.parametrize("clustered", [False, True])
def test_errors_of_platt_are_those_of_the_sandwich(clustered):
    scores, labels, groups = draw_scores()
    found = fit_platt(scores, labels, groups if clustered else None)
    x = np.stack((np.ones(len(scores)), scores.numpy()), 1)
    p = found.probability(scores).numpy()
    each, bread = x * (smooth(labels) - p)[:, None], np.linalg.inv(x.T @ (x * (p * (1 - p))[:, None]))
    n, names = len(x), groups.numpy() if clustered else np.arange(len(x))
    sums = np.stack([each[names == name].sum(0) for name in np.unique(names)])
    G = len(sums)
    errors = np.sqrt(np.diag(bread @ sums.T @ sums @ bread) * G / (G - 1) * (n - 1) / (n - 2))
    np.testing.assert_allclose((found.offset_se, found.slope_se), errors, rtol=1e-8)


def test_what_platt_refuses():
    scores, labels, _ = draw_scores()
    for bad, line in (
        ((scores, labels * 0), "calibration: expected rows of both labels, got 300 of label 0 and 0 of 1"),
        ((scores * 0, labels), "calibration: expected scores that differ, got 300 equal ones"),
        ((scores.log() * torch.nan, labels), "expected finite scores, got 300 that are not"),
        ((scores[:3], labels), r"expected scores \[n\] and labels \[n\], got \[3\] and \[300\]"),
        ((scores, labels + 1), r"expected labels 0 and 1, got \[1, 2\]"),
    ):
        with pytest.raises(ValueError, match=line):
            fit_platt(*bad)


def test_reliability_counts_by_hand():
    probability = torch.tensor([0.1, 0.9, 0.3, 0.7, 0.2])
    labels = torch.tensor([0, 1, 1, 1, 0])
    table = tabulate_reliability(probability, labels, bins=2)
    assert table["n"].tolist() == [3, 2]
    np.testing.assert_allclose(table["probability"], [0.2, 0.8], atol=1e-7)
    np.testing.assert_allclose(table["rate"], [1 / 3, 1.0])
    assert expected_calibration_error(probability, labels, bins=2) == pytest.approx((0.4 + 0.4) / 5)


def test_risk_is_a_mean_over_the_orders_of_equal_probabilities():
    probability, labels = torch.tensor([0.5, 0.9, 0.5, 0.5, 0.1]), torch.tensor([1, 0, 0, 1, 0])
    generator, ranked = torch.Generator().manual_seed(0), []
    for _ in range(4000):
        order = torch.randperm(5, generator=generator)
        order = order[probability[order].argsort(descending=True, stable=True)]
        ranked.append((labels[order] == 0).double().cumsum(0) / torch.arange(1, 6))
    table = risk_coverage(probability, labels)
    np.testing.assert_allclose(table["risk"], torch.stack(ranked).mean(0), atol=0.02)
    assert table["coverage"].tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert aurc(probability, labels) == pytest.approx(table["risk"].to_numpy().mean())


def test_a_threshold_is_the_lowest_that_lets_few_enough_wrong_answers_pass():
    scores, labels, _ = draw_scores(400)
    negative = scores[labels == 0]
    found = choose_threshold(scores, labels, fpr=0.1)
    allowed = int(0.1 * len(negative))
    assert int((negative >= found.value).sum()) == allowed
    assert found.value in negative
    assert (found.low, found.high) == pytest.approx(find_limits(allowed / len(negative), len(negative)))
    assert found.n_negative == len(negative)


def test_ties_raise_a_threshold_and_never_the_rate():
    scores = torch.tensor([0.0] * 30 + [1.0] * 10 + [2.0, 3.0])
    labels = torch.tensor([0] * 40 + [1, 1])
    found = choose_threshold(scores, labels, fpr=0.1)
    assert found.value == 2.0
    assert found.low == 0.0
    with pytest.raises(
        ValueError, match="expected scores above those of 40 validation rows of label 0, got none: 10 of"
    ):
        choose_threshold(scores.clamp(max=1), labels, fpr=0.1)


def test_a_threshold_that_no_row_reaches():
    scores, labels = torch.arange(21.0), torch.tensor([0] * 19 + [1, 1])
    with pytest.raises(
        ValueError, match=r"at least 20 validation rows of label 0 for a false-alarm rate of 0.05, got 19"
    ):
        choose_threshold(scores, labels, fpr=0.05)
    assert choose_threshold(torch.arange(22.0), torch.tensor([0] * 20 + [1, 1]), fpr=0.05).value == 19
    assert choose_threshold(scores, labels, fpr=1 / 19).value == 18  # what the message offers
    for fpr, words in (
        (0.05, "at least 20 validation rows of label 0 for a false-alarm rate of 0.05, got 19"),
        (1e-9, "at least 1000000000 validation rows of label 0 for a false-alarm rate of 1e-09, got 19"),
        (1e-320, "more validation rows of label 0 for a false-alarm rate of 1e-320, got 19"),  # 1 / fpr is infinite
    ):
        with pytest.raises(
            ValueError, match=rf"^threshold: expected {words}; take more .*, or a rate of at least 1 / 19$"
        ):
            choose_threshold(scores, labels, fpr=fpr)
    with pytest.raises(ValueError, match=r"expected at least 20 .* got 0; take more questions, or another split$"):
        choose_threshold(scores[-2:], labels[-2:], fpr=0.05)
    with pytest.raises(ValueError, match="fpr: expected a rate between 0 and 1, got 1"):
        choose_threshold(scores, labels, fpr=1)


@pytest.mark.parametrize("size", [1, 4])
def test_the_interval_of_a_threshold_holds_its_rate(size):
    """Over draws of rows, of 95% nominal; groups whose examples are alike would be too narrow if taken for rows."""
    generator = torch.Generator().manual_seed(0)
    G, held, alone, rates = 240 // size, 0, 0, []
    for _ in range(300):
        own = torch.randn(G * size, generator=generator, dtype=torch.float64)
        scores = (0.7**0.5 * torch.randn(G, generator=generator).double().repeat_interleave(size)) + 0.3**0.5 * own
        scores = own if size == 1 else scores
        groups = torch.arange(G).repeat_interleave(size)
        found = choose_threshold(scores, torch.zeros(G * size), groups, 0.05)
        rates.append(rate := 0.5 * math.erfc(found.value / 2**0.5))
        held += found.low <= rate <= found.high
        of_rows = choose_threshold(scores, torch.zeros(G * size), None, 0.05)
        alone += of_rows.low <= rate <= of_rows.high
    assert 0.93 <= held / 300 <= 0.99
    assert (alone / 300 < 0.9) == (size > 1)
    assert np.mean(rates) == pytest.approx(12 / 241, abs=0.003)  # k / (n + 1), where rows are exchangeable


def test_the_calibration_error_of_true_probabilities_is_no_more_than_chance():
    generator = torch.Generator().manual_seed(0)
    values, found, off = [], [], []
    for _ in range(40):
        logits = 1.5 * torch.randn(300, generator=generator, dtype=torch.float64)
        labels = (torch.rand(300, generator=generator) < logits.sigmoid()).long()
        found.append(measure_calibration_error(logits.sigmoid(), labels))
        off.append(measure_calibration_error((logits * 2).sigmoid(), labels))
        values.append(expected_calibration_error((logits * 2).sigmoid(), labels))
    assert np.mean([one.low == 0 for one in found]) >= 0.85
    assert np.mean([one.value for one in found]) == pytest.approx(np.mean([one.chance for one in found]), abs=0.008)
    assert [one.value for one in off] == values
    assert np.mean([one.low > 0 for one in off]) > 0.75
    assert np.mean([one.low <= 0.1018 <= one.high for one in off]) >= 0.8  # what a million rows have


def test_groups_widen_the_interval_of_a_calibration_error():
    scores, labels, _ = draw_scores(90)
    probability = (0.8 * (scores - 6)).sigmoid()  # off
    alone = measure_calibration_error(probability, labels)
    probability, labels, groups = (part.repeat_interleave(4) for part in (probability, labels, torch.arange(90)))
    copied = measure_calibration_error(probability, labels, groups)
    assert copied.value == pytest.approx(alone.value, abs=0.02)
    taken_for_rows = measure_calibration_error(probability, labels)
    assert copied.high - copied.low > 1.5 * (taken_for_rows.high - taken_for_rows.low)
