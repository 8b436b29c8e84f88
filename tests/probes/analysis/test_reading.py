import itertools
import json
import math

import pytest
import torch

from probes.analysis.auc_map import AUCMap
from probes.analysis.reading import dominant_rectangle, read_map


def map_of(auc, readable=None, layers=None, positions=None) -> AUCMap:
    auc = torch.as_tensor(auc, dtype=torch.float64)
    L, T = auc.shape
    readable = torch.ones(L, T, dtype=torch.bool) if readable is None else readable
    return AUCMap(
        target="correctness",
        split="test",
        layers=layers or tuple(range(L)),
        positions=positions or tuple(f"p{column}" for column in range(T)),
        auc=auc,
        auc_se=torch.full((L, T), 0.03, dtype=torch.float64),
        n=torch.full((L, T), 100),
        n_positive=torch.where(readable, 50, 5),
    )


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
def test_read_rectangle_against_brute_force(seed):
    generator = torch.Generator().manual_seed(seed)
    auc = torch.rand(6, 5, generator=generator, dtype=torch.float64)
    readable = torch.rand(6, 5, generator=generator) < 0.7
    auc[0, 0] = math.nan
    readable[0, 0] = False
    known = [float(value) for value in auc[readable]]
    midpoint = (min(known) + max(known)) / 2
    weights = torch.tensor(
        [[float(auc[i, j]) - midpoint if readable[i, j] else 0.0 for j in range(5)] for i in range(6)],
        dtype=torch.float64,
    )
    (best, _), found = brute_force(weights)
    assert found is not None
    layers, positions = (2, 4, 6, 8, 10, 12), ("a", "b", "c", "d", "e")

    got = read_map(map_of(auc.where(readable, 0.99), readable, layers, positions))["rectangle"]

    assert got["midpoint"] == pytest.approx(midpoint, abs=1e-12)
    a, b = (layers.index(layer) for layer in got["layers"])
    c, d = (positions.index(position) for position in got["positions"])
    assert float(weights[a : b + 1, c : d + 1].sum()) == pytest.approx(best, abs=1e-12)
    cells = set(itertools.product(range(a, b + 1), range(c, d + 1)))
    inside = [float(auc[cell]) for cell in itertools.product(range(6), range(5)) if readable[cell] and cell in cells]
    outside = [
        float(auc[cell]) for cell in itertools.product(range(6), range(5)) if readable[cell] and cell not in cells
    ]
    assert (got["n_cells"], got["n_readable"]) == (len(cells), len(inside))
    assert got["share"] == len(inside) / len(known)
    assert got["mean_inside"] == pytest.approx(sum(inside) / len(inside), abs=1e-12)
    assert got["mean_outside"] == pytest.approx(sum(outside) / len(outside), abs=1e-12)


def test_best_cells_ties_keep_map_order_and_unreadable_cells_never_win():
    auc = [[0.7, 0.99, 0.8], [0.8, 0.6, 0.8], [0.9, math.nan, 0.5]]
    readable = torch.tensor([[True, False, True], [True, True, True], [True, True, True]])
    best = read_map(map_of(auc, readable))["best_cells"]
    assert [(cell["layer"], cell["position"], cell["auc"]) for cell in best] == [
        (2, "p0", 0.9),
        (0, "p2", 0.8),
        (1, "p0", 0.8),
        (1, "p2", 0.8),
        (0, "p0", 0.7),
    ]
    assert best[0] == {"position": "p0", "layer": 2, "auc": 0.9, "auc_se": 0.03, "n": 100}


def test_best_layer_of_every_position():
    auc = [[0.7, 0.9, 0.6], [0.8, 0.6, 0.6]]
    readable = torch.tensor([[True, False, True], [True, False, True]])
    layers = read_map(map_of(auc, readable, layers=(4, 9)), n_valid=[100, 12, 90])["best_layers"]
    assert layers == [
        {"position": "p0", "n_valid": 100, "layer": 9, "auc": 0.8, "auc_se": 0.03, "n": 100},
        {"position": "p1", "n_valid": 12, "layer": None, "auc": None, "auc_se": None, "n": None},
        {"position": "p2", "n_valid": 90, "layer": 4, "auc": 0.6, "auc_se": 0.03, "n": 100},  # a tie: the first
    ]


def test_coincidences_each_pair_once_largest_first():
    shares = [
        [1.0, 0.2, None, 0.5],
        [0.2, 1.0, 0.0, 0.2],
        [None, 0.0, 1.0, math.nan],
        [0.5, 0.2, math.nan, 1.0],
    ]
    assert read_map(map_of(torch.rand(2, 4)), shares)["coincidences"] == [
        {"positions": ["p0", "p3"], "share": 0.5},
        {"positions": ["p0", "p1"], "share": 0.2},
        {"positions": ["p1", "p3"], "share": 0.2},
    ]


@pytest.mark.parametrize("auc", [[[math.nan] * 3] * 2, [[0.9] * 3] * 2])
def test_a_map_without_a_readable_cell(auc):
    reading = read_map(map_of(auc, torch.zeros(2, 3, dtype=torch.bool)))
    assert (reading["n_cells"], reading["n_readable"]) == (6, 0)
    assert reading["best_cells"] == []
    assert reading["rectangle"] is None
    assert [cell["auc"] for cell in reading["best_layers"]] == [None] * 3
    json.dumps(reading, allow_nan=False)


def test_one_readable_cell_stands_out_from_nothing():
    readable = torch.tensor([[False, True]])
    reading = read_map(map_of([[0.9, 0.7]], readable))
    assert [cell["auc"] for cell in reading["best_cells"]] == [0.7]
    assert reading["rectangle"] is None


def test_an_infinite_standard_error_is_none_in_json():
    auc_map = map_of([[0.6, 0.7]])
    auc_map.auc_se[0, 1] = math.inf
    reading = read_map(auc_map, [[1.0, None], [None, 1.0]], [3, 4])
    assert reading["best_cells"][0]["auc_se"] is None
    assert json.loads(json.dumps(reading, allow_nan=False)) == reading


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"coincidence must be \[2, 2\]"):
        read_map(map_of([[0.6, 0.7]]), [[1.0, 0.5]])
    with pytest.raises(ValueError, match="n_valid must have 2 counts, one for each position of the map, got 3"):
        read_map(map_of([[0.6, 0.7]]), n_valid=[1, 2, 3])
