import math

import numpy as np
import pytest

from datamodules.questions.lists import parse_list, parse_number


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("['Paris' 'City of Light']", ["Paris", "City of Light"]),
        ("['Paris'\n 'City of Light'\n \"it's\"]", ["Paris", "City of Light", "it's"]),
        ("[b'a' b'b']", [b"a", b"b"]),
        ("['\\xe9' 'a\\nb']", ["é", "a\nb"]),
        ("[1. 2.]", [1.0, 2.0]),
        ("[ 1  -2 30]", [1, -2, 30]),
        ("[1.e+10 2.5e-03 inf]", [1e10, 0.0025, math.inf]),
        ("[ True False]", [True, False]),
        ("[None 'a']", [None, "a"]),
        ("[['a' 'b']\n ['c' 'd']]", [["a", "b"], ["c", "d"]]),
        ("[array(['a', 'b'], dtype=object), array([1.], dtype=float32)]", [["a", "b"], [1.0]]),
        ("['a', 'b' 'c']", ["a", "b", "c"]),
        ("['a' '...']", ["a", "..."]),
        ('["x", 9.0]', ["x", 9.0]),  # JSON
        ("['x', 'it\\'s']", ["x", "it's"]),  # Python
        ("[('a', 1)]", [("a", 1)]),
        ("[]", []),
    ],
)
def test_lists_as_json_python_and_numpy_write_them(field, values):
    assert parse_list(field) == values
    assert [type(one) for one in parse_list(field)] == [type(one) for one in values]


@pytest.mark.parametrize(
    "text",
    [
        "[sic]", "[...]", "[... 1]", "[1 ...]", "[[...] ['a']]", "[1 of 2]", "[5 - 3]", "['Twas the night]",
        "['a'] ['b']", "['a'] and ['b']", "['it''s']", "[('a' 'b'), 'c']", "['a' u]", "['a'... 'b']", "[x][1 2]",
        "[--]", "[['a']", "[['a'])]", "[" * 5000 + "]" * 5000, "Paris", "", "[",
    ],
)  # fmt: skip
def test_text_in_brackets_stays_text(text):
    assert parse_list(text) == text


@pytest.mark.parametrize(
    "field", ["[0 1 2 ... 97 98 99]", "['a' 'b' ... 'z']", "[[1 2 ... 3]\n [4 5 ... 6]]", "[1, ..., 9]"]
)
def test_an_abbreviated_array_is_refused_in_one_line(field):
    with pytest.raises(
        ValueError, match=r"expected a list with all its elements, got .*numpy has abbrev.*tolist"
    ) as told:
        parse_list(field)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["Paris", "City of Light", "l'été", 'a "b"', "back\\slash", "x" * 90, "line\nbreak"]),
        np.array([0.1, 2, 3e-20, np.nan, -np.inf]),
        np.arange(40).reshape(2, 20),
        np.array([True, False]),
    ],
)
def test_what_numpy_prints_is_read_back(array):
    with np.printoptions(precision=17):
        np.testing.assert_array_equal(np.array(parse_list(str(array))), array)


def test_numbers_keep_digits_that_a_float_would_lose():
    assert isinstance(parse_number("3.14159265"), float)
    assert str(parse_number("3.14159265358979323846")) == "3.14159265358979323846"
    for text in ("[1e9999999999999999999, 2.5]", "[1e9999999999999999999 2.5]"):
        with pytest.raises(ValueError, match="expected a number that can be held, got 1e9999999999999999999"):
            parse_list(text)
    assert [str(one) for one in parse_list("[3.14159265358979323846, 0.10]")] == ["3.14159265358979323846", "0.1"]
