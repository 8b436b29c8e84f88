"""Ctrl-C and SIGTERM to a real process of `experiment=score`."""

import signal
import time

import pytest

from tests.support.ranks import wait_until
from tests.support.runs import fork


@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_scoring_command_that_is_ended_says_so_and_leaves_no_score(folder, tmp_path, number, status, name):
    settings = ["experiment=score", f"run={folder}", "dataset=demo_facts", "dataset.limit=2000"]
    with fork(tmp_path, *settings) as process:
        assert wait_until(lambda: (tmp_path / "run").exists() or process.poll() is not None)
        time.sleep(1)  # it reads the run, loads the model, or writes answers
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith(f"error: ended by {name}")
    assert not [path.name for path in tmp_path.rglob("score*.*")]
