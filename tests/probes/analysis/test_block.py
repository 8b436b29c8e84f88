import itertools
import math

import pytest
import torch

from probes.analysis.block import dominant_rectangle, find_block, required_lead, split_columns
from tests.support.maps import PAPER, map_of

EXACT = ("exact_answer_before_first", "exact_answer_first", "exact_answer_last", "exact_answer_after_last")


def every_rectangle(L, T):
    rows = itertools.combinations_with_replacement(range(L), 2)
    return ((a, b, c, d) for a, b in rows for c, d in itertools.combinations_with_replacement(range(T), 2))


def brute_force(weights):
    """Largest sum, then fewest cells."""
    best, found = (0.0, 0), None
    for a, b, c, d in every_rectangle(*weights.shape):
        candidate = (float(weights[a : b + 1, c : d + 1].sum()), -(b - a + 1) * (d - c + 1))
        if candidate > best:
            best, found = candidate, (a, b, c, d)
    return best, found


@pytest.mark.parametrize("seed", range(40))
def test_rectangle_is_the_best_of_all_rectangles(seed):
    generator = torch.Generator().manual_seed(seed)
    L, T = torch.randint(1, 8, (2,), generator=generator).tolist()
    # eighths: sums are exact and ties abound; a third of the cells weighs nothing
    weights = torch.randint(-8, 9, (L, T), generator=generator).double() / 8
    weights[torch.rand(L, T, generator=generator) < 1 / 3] = 0
    best, found = brute_force(weights)
    got = dominant_rectangle(weights)
    if found is None:
        assert got is None
        return
    assert got is not None
    a, b, c, d = got
    assert (float(weights[a : b + 1, c : d + 1].sum()), -(b - a + 1) * (d - c + 1)) == best


@pytest.mark.parametrize("weights", [[[0.0, 0.0]], [[-1.0], [-2.0]], [[0.0, -1.0], [-1.0, 0.0]]])
def test_no_rectangle_without_a_positive_sum(weights):
    assert dominant_rectangle(torch.tensor(weights)) is None


@pytest.mark.parametrize("seed", range(10))
def test_the_block_against_brute_force(seed):
    generator = torch.Generator().manual_seed(seed)
    auc = torch.rand(6, 5, generator=generator, dtype=torch.float64)
    readable = torch.rand(6, 5, generator=generator) < 0.7
    auc[0, 0] = math.nan
    readable[0, 0] = False
    known = [float(value) for value in auc[readable]]
    threshold = (sum(known) / len(known) + max(known)) / 2
    weights = torch.where(readable, auc - threshold, 0.0)
    (best, _), found = brute_force(weights)
    assert found is not None

    got = find_block(map_of(auc.where(readable, 0.99), readable))

    assert got is not None
    assert got.threshold == pytest.approx(threshold, abs=1e-12)
    a, b, c, d = got.top, got.bottom, got.left, got.right
    assert float(weights[a : b + 1, c : d + 1].sum()) == pytest.approx(best, abs=1e-12)
    cells = set(itertools.product(range(a, b + 1), range(c, d + 1)))
    every = [cell for cell in itertools.product(range(6), range(5)) if readable[cell]]
    inside = [float(auc[cell]) for cell in every if cell in cells]
    outside = [float(auc[cell]) for cell in every if cell not in cells]
    assert (got.n_cells, got.n_readable) == (len(cells), len(inside))
    assert got.share == len(inside) / len(known)
    assert got.mean_inside == pytest.approx(sum(inside) / len(inside), abs=1e-12)
    assert got.mean_outside == pytest.approx(sum(outside) / len(outside), abs=1e-12)


def corners(auc, positions=PAPER, **more):
    block = find_block(map_of(auc, positions=positions), **more)
    return block and (block.top, block.bottom, positions[block.left], positions[block.right])


def noise(scale, seed=0, shape=(30, 15)):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(top, bottom, left, right, high=0.9, low=0.6, by_layer=0.03, by_token=0.12):
    """A block, from which AUC falls by so much per layer and per token down to `low`; 30 x 15."""
    rows, columns = torch.arange(30.0)[:, None], torch.arange(15.0)
    away = (top - rows).clamp(0) + (rows - bottom).clamp(0), (left - columns).clamp(0) + (columns - right).clamp(0)
    return (high - by_layer * away[0] - by_token * away[1]).clamp(low)


def test_one_low_cell_does_not_move_the_block():
    auc = planted(16, 28, 4, 5) + noise(0.008)
    before = corners(auc)
    auc[0, 0] = 0.2
    assert corners(auc) == before
    assert before is not None
    top, bottom, left, right = before
    assert (left, right) == ("exact_answer_first", "exact_answer_last")
    assert top == 12  # 16 - 4: the threshold is .77, and AUC is .78 there
    assert bottom == 29


@pytest.mark.parametrize(("L", "left"), [(2, 3), (6, 7), (24, 7)])
def test_a_block_may_be_small_or_most_of_the_map(L, left):
    auc = torch.full((30, 15), 0.6) + noise(0.008)
    auc[30 - L :, left:] += 0.25
    run = "exact_answer_before_first" if left == 3 else "-8"
    assert corners(auc[:, :7] if left == 3 else auc, PAPER[:7] if left == 3 else PAPER) == (
        30 - L, 29, run, "exact_answer_after_last" if left == 3 else "-1",
    )  # fmt: skip


def test_the_darker_of_two_blocks_is_taken():
    auc = torch.maximum(planted(8, 20, 4, 5, high=0.88), planted(10, 24, 13, 14, high=0.82)) + noise(0.005)
    found = corners(auc)
    assert found is not None
    assert found[2:] == ("exact_answer_first", "exact_answer_last")


def test_a_block_does_not_span_columns_that_are_only_neighbours_in_the_map():
    auc = torch.full((30, 15), 0.6)
    auc[10:20, 6:8] = 0.9  # exact_answer_after_last and -8
    assert corners(auc) == (10, 19, "exact_answer_after_last", "exact_answer_after_last")  # the first of two equal ones
    names = tuple(f"p{column}" for column in range(15))
    assert corners(auc, names) == (10, 19, "p6", "p7")


def test_no_block_stands_out_of_a_flat_map():
    assert corners(0.75 + noise(0.004)) is None
    assert corners(torch.full((4, 15), 0.8)) is None


@pytest.mark.parametrize("memory", [0.0, 0.95])
def test_noise_shows_a_block_in_at_most_5_percent_of_maps(memory):
    """Also noise that layers share, as those of a real map do."""
    found = 0
    for seed in range(200):
        auc = noise(0.03, seed, (12, 15))
        for row in range(1, 12):
            auc[row] = memory * auc[row - 1] + (1 - memory**2) ** 0.5 * auc[row]
        found += corners(0.5 + auc) is not None
    assert found <= 10


def test_a_block_is_above_chance():
    auc = torch.full((6, 15), 0.55)
    auc[2:4, 4:6] = 0.66
    assert corners(auc) == (2, 3, "exact_answer_first", "exact_answer_last")
    assert corners(auc, chance=0.65) == (2, 3, "exact_answer_first", "exact_answer_last")
    assert corners(auc, chance=0.67) is None


def test_a_block_needs_its_lead_in_spreads():
    auc = torch.full((6, 15), 0.6)
    auc[2:4, 4:6] = 0.7
    needed = 2.84476  # scipy.stats.norm.isf(0.05 * 4 / 90)
    assert required_lead(4 / 90) == pytest.approx(needed, abs=1e-4)
    assert find_block(map_of(auc, positions=PAPER, se=0.99 * 0.1 / needed)) is not None
    assert find_block(map_of(auc, positions=PAPER, se=1.01 * 0.1 / needed)) is None
    assert find_block(map_of(auc, positions=PAPER, se=math.nan)) is not None  # an unknown spread decides nothing


@pytest.mark.parametrize(
    ("positions", "runs"),
    [
        (PAPER, [(0, 3), (3, 7), (7, 15)]),
        (EXACT, [(0, 4)]),
        (("last_q", "exact_answer_first", "exact_answer_last", "-2", "-1"), [(0, 1), (1, 3), (3, 5)]),
        (("-8", "-4", "-3", "-1"), [(0, 1), (1, 3), (3, 4)]),  # a gap of tokens
        (("-1", "-2", "-3"), [(0, 3)]),  # the other way round
        (("a", "b", "c"), [(0, 3)]),
        (("a", "last_q", "b", "-1", "c"), [(0, 3), (2, 5)]),  # b may belong to either side
        (("last_q", "a", "first_answer"), [(0, 3)]),
        (("last", "phrase", "-2", "-1"), [(0, 4)]),
        (("last_q", "a", "-9", "exact_answer_last"), [(0, 2), (1, 3), (3, 4)]),
        (("-x", "-", "--1", "-1.5"), [(0, 4)]),  # names, not numbers
        (("only",), [(0, 1)]),
    ],
)
def test_columns_are_split_where_the_text_does_not_run_on(positions, runs):
    assert [(run.start, run.stop) for run in split_columns(positions)] == runs


@pytest.mark.parametrize("readable", [[[False, False]], [[False, True]]])
def test_no_block_with_fewer_than_two_readable_cells(readable):
    assert find_block(map_of([[0.9, 0.7]], torch.tensor(readable))) is None
