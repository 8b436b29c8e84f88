import numpy as np
import pytest

from datamodules.table import as_text, filled, names, texts, value

ROW = {"s": "She", "who": {"n": 3.0, "of": {"x": None}}, "a.b": "dotted"}


def test_cells_as_text():
    cells = (None, float("nan"), 9.0, 0.5, 1e20, True, [1.0, ["a ", " b"]], float(np.float32(0.1)), 0.1, "né".encode())
    assert [as_text(cell) for cell in cells] == [
        "", "", "9", "0.5", "100000000000000000000", "True", "1\na b", "0.1", "0.1", "né",
    ]  # fmt: skip


def test_a_cell_with_columns_of_its_own_is_no_text():
    with pytest.raises(ValueError, match="expected a column with text, got one with n, of; name one after a dot"):
        as_text(ROW["who"])


def test_texts_of_a_cell():
    assert texts(["a ", "", None, "b", "a"]) == ["a", "b"]
    assert texts(" a ") == ["a"]
    assert texts(None) == []


def test_nested_columns():
    assert list(names(ROW)) == ["s", "who", "who.n", "who.of", "who.of.x", "a.b"]
    assert [value(ROW, column) for column in ("s", "who.n", "who.of.x", "a.b", "who.no", "s.x")] == [
        "She", 3.0, None, "dotted", None, None,
    ]  # fmt: skip


def test_a_text_with_columns_is_empty_where_all_of_them_are():
    assert filled("{s} and {who.n}", ROW) == "She and 3"
    assert filled("{s} and {no}", ROW) == "She and"
    assert filled("{who.of.x} and {no}", ROW) == ""
    assert filled(" s ".strip(), {"s": " {x} "}) == "{x}"
    assert filled("{s} and {t}", {"s": "  ", "t": None}) == ""
