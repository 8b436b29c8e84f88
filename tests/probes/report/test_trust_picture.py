"""The picture of reliability and risk shows the numbers of the assessment, and no text leaves it."""

import re

import numpy as np
import pytest
from matplotlib.text import Text

from probes.analysis.assessment import assess
from probes.report.trust_picture import draw_trust, write_trust
from tests.probes.analysis.test_assessment import draw_rows


def read_texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.findobj(Text)]


@pytest.mark.parametrize("fpr", [0.1, 0.001])
def test_curves_are_those_of_the_tables(fpr):
    found = assess(draw_rows(200, 0), draw_rows(300, 1), fpr)
    figure = draw_trust(found, "$a$ model\n: layer 4", ("<wrong>", "right"))
    reliability, risk = figure.axes
    assert [*np.asarray(reliability.lines[1].get_ydata())] == found.reliability["rate"].tolist()
    assert [*np.asarray(risk.lines[1].get_ydata())] == found.risk["risk"].tolist()[9:]
    texts = read_texts(figure)
    assert "$a$ model\\n: layer 4" in texts
    assert any("300 test rows" in text for text in texts)
    assert any(re.search(r"<wrong> that reach it: \.\d+", text) for text in texts) == (fpr == 0.1)


def test_files_are_written_and_every_text_is_inside(tmp_path):
    figure = write_trust(tmp_path, assess(draw_rows(200, 0), draw_rows(300, 1)), "a model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reliability.pdf", "reliability.png"]
    assert (tmp_path / "reliability.png").read_bytes()[:4] == b"\x89PNG"
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= width
    assert box.y1 <= height
