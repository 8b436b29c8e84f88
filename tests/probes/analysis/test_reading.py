import json
import math
from dataclasses import replace

import pytest
import torch

from probes.analysis.block import find_block
from probes.analysis.reading import read_map
from tests.support.maps import map_of


def test_the_rectangle_is_the_dominant_block_by_name():
    auc = torch.full((6, 5), 0.6)
    auc[2:4, 1:3] = 0.9
    auc_map = map_of(auc, layers=(2, 4, 6, 8, 10, 12), positions=("a", "b", "c", "d", "e"))
    block = find_block(auc_map)
    assert block is not None
    assert read_map(auc_map)["rectangle"] == {
        "layers": [6, 8],
        "positions": ["b", "c"],
        "threshold": block.threshold,
        "n_cells": 4,
        "n_readable": 4,
        "share": 4 / 30,
        "mean_inside": pytest.approx(0.9),
        "mean_outside": pytest.approx(0.6),
    }
    assert read_map(auc_map, chance=0.95)["rectangle"] is None


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
    assert best[0] == {
        "position": "p0",
        "layer": 2,
        "auc": 0.9,
        "auc_se": 0.03,
        "n": 100,
        "n_positive": 50,
        "val_auc": None,
    }


def test_best_layer_of_every_position():
    auc = [[0.7, 0.9, 0.6], [0.8, 0.6, 0.6]]
    readable = torch.tensor([[True, False, True], [True, False, True]])
    layers = read_map(map_of(auc, readable, layers=(4, 9)), n_valid=[100, 12, 90])["best_layers"]
    assert layers == [
        {
            "position": "p0",
            "n_valid": 100,
            "layer": 9,
            "auc": 0.8,
            "auc_se": 0.03,
            "n": 100,
            "n_positive": 50,
            "val_auc": None,
        },
        {
            "position": "p1",
            "n_valid": 12,
            "layer": None,
            "auc": None,
            "auc_se": None,
            "n": None,
            "n_positive": None,
            "val_auc": None,
        },
        {
            "position": "p2",
            "n_valid": 90,
            "layer": 4,
            "auc": 0.6,
            "auc_se": 0.03,
            "n": 100,
            "n_positive": 50,
            "val_auc": None,
        },
    ]


def test_validation_rows_rank_the_cells():
    test, val = map_of([[0.9, 0.8], [0.7, 0.6]]), map_of([[0.5, 0.7], [0.9, 0.8]])
    reading = read_map(test, val=replace(val, split="val"))
    assert reading["chosen_on"] == "val"
    found = [(cell["layer"], cell["position"], cell["auc"], cell["val_auc"]) for cell in reading["best_cells"]]
    assert found == [(1, "p0", 0.7, 0.9), (1, "p1", 0.6, 0.8), (0, "p1", 0.8, 0.7), (0, "p0", 0.9, 0.5)]
    assert [cell["layer"] for cell in reading["best_layers"]] == [1, 1]
    unread = map_of([[0.9] * 2] * 2, torch.zeros(2, 2, dtype=torch.bool))
    assert read_map(test, val=unread)["chosen_on"] == "test"


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
