"""Intervals of shares, held against scipy's exact ones and against copies of examples."""

import math

import pytest
import torch
from scipy.stats import binomtest

from probes.analysis.shares import measure_share


@pytest.mark.parametrize(("found", "n"), [(0, 12), (1, 20), (7, 30), (30, 30)])
def test_the_interval_of_single_examples_is_exact(found, n):
    share = measure_share(torch.arange(n) < found)
    exact = binomtest(found, n).proportion_ci(method="exact")
    assert share.value == found / n
    assert (share.low, share.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert measure_share(torch.arange(n) < found, torch.arange(n).flip(0)) == share  # groups of one


@pytest.mark.parametrize("found", [0, 3, 25])
def test_copies_of_examples_are_no_more_evidence(found):
    hits = (torch.arange(25) < found).repeat_interleave(4)
    share, single = measure_share(hits, torch.arange(25).repeat_interleave(4)), measure_share(hits[::4])
    assert share.n == 100
    assert share.value == single.value
    # The degrees of freedom of 25 groups make it a little wider.
    assert share.low == pytest.approx(single.low, abs=0.012)
    assert share.high == pytest.approx(single.high, abs=0.012)
    assert share.low <= single.low
    assert share.high >= single.high


def test_no_examples_say_nothing():
    share = measure_share(torch.zeros(0, dtype=torch.bool))
    assert math.isnan(share.value)
    assert share[1:] == (0.0, 1.0, 0)


def test_a_share_of_groups_that_are_all_alike_has_an_interval():
    hits = torch.tensor([False, True] * 4)
    one = measure_share(hits[:2], torch.tensor([7, 7]))
    assert (one.value, one.n) == (0.5, 2)
    assert one.low < 0.03  # of one example
    assert one.high > 0.97
    equal = measure_share(hits, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
    assert equal.value == 0.5
    assert 0.05 < equal.low < 0.5 < equal.high < 0.95
