import datetime
from decimal import Decimal

import numpy as np
import pytest

from datamodules.questions.row import fill, format_cell, list_columns, read_cell, read_texts

ROW = {"s": "She", "who": {"n": 3.0, "of": {"x": None}}, "a.b": "dotted"}


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""), (float("nan"), ""), (Decimal("nan"), ""), (np.datetime64("NaT"), ""),
        (True, "True"), (np.True_, "True"), (np.int64(3), "3"), ("né".encode(), "né"), (10**25, "1" + "0" * 25),
        (9.0, "9"), (-0.0, "0"), (0.5, "0.5"), (0.1, "0.1"), (3.14159265, "3.14159265"), (1234567.5, "1234567.5"),
        (299792.458, "299792.458"), (123456789.123, "123456789.123"), (1e20, "1" + "0" * 20),
        (1.2345678901234568e20, "123456789012345680000"), (1e-7, "0.0000001"), (1e21, "1e+21"), (1e-11, "1e-11"),
        (float("-inf"), "-inf"),
        (float(np.float32(0.1)), "0.10000000149011612"),  # a double that happens to be a single
        (np.float32(0.1), "0.1"), (np.float16(0.1), "0.1"), (np.float32(9), "9"), (np.float64(0.1), "0.1"),
        (Decimal("9.50"), "9.50"), (Decimal("1E+3"), "1000"),
        (Decimal("3.14159265358979323846"), "3.14159265358979323846"),
        ([1.0, ["a ", " b"]], "1\na b"), (np.array([0.1, 2], dtype=np.float32), "0.1\n2"),
        (datetime.date(2020, 1, 2), "2020-01-02"), (datetime.datetime(2020, 1, 2), "2020-01-02"),
        (datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC), "2020-01-02"),
        (datetime.datetime(2020, 1, 2, 3, 4), "2020-01-02 03:04:00"), (datetime.time(3, 4), "03:04:00"),
        (np.datetime64("2020-01-02T00:00:00"), "2020-01-02"),
        ("2020-01-02T00:00:00.000Z", "2020-01-02"), ("2020-01-02 00:00:00", "2020-01-02"),
        ("2020-01-02 03:00:00", "2020-01-02 03:00:00"), ("On 2020-01-02 00:00:00", "On 2020-01-02 00:00:00"),
    ],
)  # fmt: skip
def test_cells_as_text(cell, text):
    assert format_cell(cell) == text


def test_a_list_in_a_text_stays_on_one_line():
    row = {"n": [3, 1.5, None, [1]], "w": ["a", 'b"é'], "e": [], "p": np.array([1, 2])}
    assert fill("n", row) == "[3, 1.5, null, [1]]"
    assert fill("Sort {w} and {p}{e}.", row) == 'Sort ["a", "b\\"é"] and [1, 2].'
    assert fill("{e}", row) == ""


def test_a_cell_with_columns_of_its_own_is_no_text():
    with pytest.raises(ValueError, match="expected a column with text, got one with n, of; name one after a dot"):
        format_cell(ROW["who"])


def test_texts_of_a_cell():
    assert read_texts(["a ", "", None, "b", "a"]) == ["a", "b"]
    assert read_texts(" a ") == ["a"]
    assert read_texts(None) == []


def test_nested_columns():
    assert list(list_columns(ROW)) == ["s", "who", "who.n", "who.of", "who.of.x", "a.b"]
    assert [read_cell(ROW, column) for column in ("s", "who.n", "who.of.x", "a.b", "who.no", "s.x")] == [
        "She", 3.0, None, "dotted", None, None,
    ]  # fmt: skip


def test_a_text_with_columns_is_empty_where_all_of_them_are():
    assert fill("{s} and {who.n}", ROW) == "She and 3"
    assert fill("{s} and {no}", ROW) == "She and"
    assert fill("{who.of.x} and {no}", ROW) == ""
    assert fill(" s ".strip(), {"s": " {x} "}) == "{x}"
    assert fill("{s} and {t}", {"s": "  ", "t": None}) == ""
