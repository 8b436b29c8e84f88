import csv
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.text import Text

from probes.report.coincidence import Coincidence, draw, render, table
from tests.support.cards import make_card

POSITIONS = ["last_q", "a_position_with_a_rather_long_name", "-1"]
SHARES = ((1.0, 0.25, None), (0.25, 1.0, 0.0), (None, 0.0, 1.0))


def write(folder, shares: Any = SHARES, zero=True):
    card = make_card((0,), POSITIONS, coincidence=shares, n_valid=(10, 8, 0))
    trainer: Any = SimpleNamespace(is_global_zero=zero)
    Coincidence(folder / "run").on_test_end(trainer, SimpleNamespace(tested=card))
    return sorted(path.name for path in folder.rglob("*.*"))


def test_the_table_says_how_many_have_a_position_and_how_often_two_are_one(tmp_path):
    assert write(tmp_path) == ["coincidence.csv", "coincidence.png"]
    rows = list(csv.DictReader((tmp_path / "run" / "coincidence.csv").read_text().splitlines()))
    assert [row.pop("position") for row in rows] == POSITIONS
    assert [row.pop("examples") for row in rows] == ["10", "8", "0"]
    assert [[float(x) if x else None for x in row.values()] for row in rows] == [list(row) for row in SHARES]
    assert list(rows[0]) == POSITIONS


def test_the_same_run_writes_the_same_bytes(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "other", (SHARES[0], (0.5, 1.0, 0.0), SHARES[2]))
    render.cache_clear()
    write(tmp_path / "two")
    pictures = [(tmp_path / run / "run" / "coincidence.png").read_bytes() for run in ("one", "other")]
    assert pictures[0] != pictures[1]
    for name in ("coincidence.csv", "coincidence.png"):
        one, two = ((tmp_path / run / "run" / name).read_bytes() for run in ("one", "two"))
        assert one == two


def test_nothing_is_written_where_tokens_are_unknown_or_by_other_ranks(tmp_path):
    assert write(tmp_path, shares=None) == []
    assert write(tmp_path, zero=False) == []


@pytest.mark.parametrize("T", [1, 3, 15, 40])
def test_no_label_is_cut_off(T):
    names = [f"position_{t}" if t % 3 else "a_position_with_a_rather_long_name" + str(t) for t in range(T)]
    figure = draw(table(names, [[float(i == j) for j in range(T)] for i in range(T)]), [2000] * T)
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert 0 <= box.x0 <= box.x1 <= width
            assert 0 <= box.y0 <= box.y1 <= height


def test_percentages_stand_where_positions_meet():
    figure = draw(table(POSITIONS, SHARES), [1200, 8, 0])
    written = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in written if text] == ["25"]
    assert next(label.get_text() for label in figure.axes[0].get_yticklabels()) == "last_q  (1,200)"
