import math

import pandas as pd
import pytest
import torch

from probes.analysis.auc_map import AUCMap, Choice, choose_cell

NAN = math.nan


def a_map(**changes) -> AUCMap:
    values = {
        "target": "correctness",
        "split": "val",
        "layers": (3, 7),
        "positions": ("last_q", "-1", "exact_answer_last"),
        "auc": torch.tensor([[0.5, 0.75, NAN], [0.25, 1.0, 0.9]], dtype=torch.float64),
        "auc_se": torch.tensor([[0.05, 0.04, NAN], [0.03, 0.0, 0.02]], dtype=torch.float64),
        "n": torch.tensor([[40, 20, 40], [19, 40, 40]]),
        "n_positive": torch.tensor([[10, 10, 20], [10, 31, 9]]),
    }
    return AUCMap(**(values | changes))


def test_table_is_long_layer_by_layer():
    expected = pd.DataFrame(
        [
            ("correctness", "val", 3, "last_q", 0.5, 0.05, 40, 10),
            ("correctness", "val", 3, "-1", 0.75, 0.04, 20, 10),
            ("correctness", "val", 3, "exact_answer_last", NAN, NAN, 40, 20),
            ("correctness", "val", 7, "last_q", 0.25, 0.03, 19, 10),
            ("correctness", "val", 7, "-1", 1.0, 0.0, 40, 31),
            ("correctness", "val", 7, "exact_answer_last", 0.9, 0.02, 40, 9),
        ],
        columns=["target", "split", "layer", "position", "auc", "auc_se", "n", "n_positive"],
    )
    pd.testing.assert_frame_equal(a_map().table(), expected)


def test_table_follows_a_transposed_tensor():
    auc = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], dtype=torch.float64).T
    assert a_map(auc=auc).table()["auc"].tolist() == [0.1, 0.3, 0.5, 0.2, 0.4, 0.6]


def test_readable_needs_ten_of_either_class_and_a_finite_auc():
    # row 1: 10 positives and 30; 10 and 10; NaN. Row 2: 9 negatives; 9 negatives; 9 positives
    assert a_map().readable().tolist() == [[True, True, False], [False, False, False]]
    assert a_map(n=a_map().n + 1, n_positive=a_map().n_positive + 1).readable()[1].tolist() == [False, False, True]


@pytest.mark.parametrize("name", ["auc", "auc_se", "n", "n_positive"])
def test_wrong_shape_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must be \[layers, positions\] = \[2, 3\], got \[3, 2\]"):
        a_map(**{name: getattr(a_map(), name).T})


def test_the_best_cell_is_chosen_on_validation_rows_and_not_by_test_rows():
    n = torch.full((2, 3), 40)
    test = a_map(split="test", n=n, n_positive=n // 2, auc=torch.tensor([[0.9, 0.8, 0.7], [NAN, 0.6, 0.5]]).double())
    val = a_map(n=n, n_positive=n // 2, auc=torch.tensor([[0.6, 0.7, 0.8], [0.99, NAN, 0.5]]).double())
    assert choose_cell(test, val) == Choice(0, 2, "val")  # .99 is of a cell that the test cannot read
    assert choose_cell(test) == Choice(0, 0, "test")
    unread = a_map(n=n, n_positive=0 * n)
    assert choose_cell(test, unread) == Choice(0, 0, "test")
    assert choose_cell(unread, val) is None
