"""One run on the embedded model, whose probes the tests of this folder score with."""

import pytest

from tests.support.runs import run_here, without_pictures

POSITIONS = (
    "positions.rules=[{name: last_q, of: prompt, at: last}, {name: exact_answer_last, of: exact_answer, at: last}, "
    "{name: mean, of: answer, at: mean}, {name: '-1', of: answer, at: -1}]"
)
RUN = ("dataset.limit=240", "site.layers=[3,7]", POSITIONS, "split.val=0.4", "logger=csv", "report.terminal=line")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Folder of the run; tests that change it copy it first."""
    place = tmp_path_factory.mktemp("scored")
    with without_pictures():
        status, _, err = run_here(place, *RUN)
    assert status == 0, err
    return place / "run"
