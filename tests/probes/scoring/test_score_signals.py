"""Ctrl-C and SIGTERM to a real process of `experiment=score`."""

import signal
import subprocess
import sys
import time

import pytest

from tests.support.runs import TRAIN


@pytest.mark.parametrize(
    ("number", "status", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_scoring_command_that_is_ended_says_so_and_leaves_no_score(folder, tmp_path, number, status, name):
    command = [sys.executable, "-u", str(TRAIN), "experiment=score", f"run={folder}", "dataset=demo_facts"]
    settings = ["dataset.limit=1000", "hydra.run.dir=scores"]
    process = subprocess.Popen(
        [*command, *settings], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    since = time.monotonic()
    while process.poll() is None and not (tmp_path / "scores").exists():
        assert time.monotonic() - since < 120
        time.sleep(0.05)
    time.sleep(3)  # it reads the run, loads the model, or writes answers
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith(f"error: ended by {name}")
    assert not [path.name for path in tmp_path.rglob("score*.*")]
