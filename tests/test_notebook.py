"""docs/notebook.ipynb runs: with the embedded model always, and with its own model where that is on this machine."""

import os
import re

import pytest
import torch

from datamodules.language import smollm2
from probes.analysis.auroc import auroc
from tests.support.notebooks import read_cells, read_code, run_code
from tests.support.places import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
DEMO = """
from datamodules import ask, capture, load_model
from datamodules.language.demo import DemoQuestions

name = "demo"
model, dataset = load_model(name), DemoQuestions(skill="facts", name="demo_facts", limit=203)
"""


def read_shown(outputs):
    """What cells show as text."""
    return "\n".join("".join(one.get("text") or one["data"]["text/plain"]) for shown in outputs for one in shown)


def read_stored():
    """What the cells of the notebook file show."""
    return [cell["outputs"] for cell in read_cells(NOTEBOOK) if cell["cell_type"] == "code"]


def test_every_cell_runs_with_the_embedded_model(capfd):
    sources = read_code(NOTEBOOK)
    assert "model = load_model(name)" in sources[0]
    found, outputs = run_code([DEMO, *sources[1:]], NOTEBOOK.parent, pictures=False)
    assert capfd.readouterr() == ("", "")
    assert len(found["answers"]) == 200
    assert found["acts"].shape == (200, 8, 15, 128)
    grid, best = found["grid"], found["best"]
    rows = grid.scores("test")
    at = grid.map.layers.index(best.layer), grid.map.positions.index(best.position)
    area = auroc(rows.scores[at], rows.labels, rows.scores[at].isfinite())
    assert float(area) == pytest.approx(float(grid.map.auc[at]))
    assert grid.best().auc == pytest.approx(float(area))
    # The score of an answer that was captured anew is that of the grid's own weights.
    weight = grid.probes.weight[0][at]
    scores = found["read"].acts[:, 0, at[1]].float() @ weight + grid.probes.bias[0][at]
    valid = found["read"].valid[:, at[1]]
    torch.testing.assert_close(found["scores"][valid], scores[valid], rtol=1e-4, atol=1e-4)
    shown = read_shown(outputs)
    assert len(re.findall(r"^(?:0\.\d\d|1\.00|nan)  .+ \(gold: ", shown, re.M)) == 3
    assert "Threshold(value=" in shown


def test_outputs_are_stored_for_every_cell_that_shows_something():
    sources, stored = read_code(NOTEBOOK), read_stored()
    for source, shown in zip(sources, stored, strict=True):
        assert bool(shown) == ("print(" in source or source.splitlines()[-1].startswith(("grid.", "probes."))), source
    assert any("image/png" in one.get("data", {}) for shown in stored for one in shown)
    assert "/tmp" not in NOTEBOOK.read_text("utf-8")


@pytest.mark.real
@pytest.mark.slow
def test_stored_outputs_are_those_of_the_real_model():
    path = ROOT / "cache" / "models" / smollm2.NAME
    if not os.environ.get("REQUIRE_REAL"):
        pytest.skip("takes a minute; REQUIRE_REAL=1 runs it")
    if not path.exists():
        pytest.fail(f"expected {path}; fetch it with: make weights")
    _, outputs = run_code(read_code(NOTEBOOK), NOTEBOOK.parent, pictures=False)
    stored, shown = read_shown(read_stored()), read_shown(outputs)
    first = stored.index("FittedGrid")
    same = [one == other for one, other in zip(stored[:first].splitlines(), shown.splitlines(), strict=False)]
    assert sum(same) >= len(same) - 1  # another machine may round one answer of bfloat16 otherwise
    areas = [float(re.search(r"mean of all cells (\S+)", text)[1]) for text in (stored, shown)]  # type: ignore[index]
    assert areas[0] == pytest.approx(areas[1], abs=0.03)
