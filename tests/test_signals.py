"""Ctrl-C and SIGTERM, with real processes.

Most are forked; `test_no_rank_outlives_the_process_that_started_it` of tests/test_ranks_ends.py sends signals to
processes that import for themselves.
"""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.ranks import find_children, wait_until, write_activations
from tests.support.runs import TRAIN, fork

ENDLESS = ["probe=minibatch", "trainer.max_epochs=1000000", "~callbacks.early_stopping"]
METRICS = "metrics/version_0/metrics.csv"


@pytest.fixture
def own(tmp_path):
    return write_activations(tmp_path / "acts.safetensors")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sweep_of_several_ranks_ends_with_its_table_and_leaves_nothing(number, status, own, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with fork(tmp_path, "-m", *own, *ENDLESS, "trainer=ddp_cpu", "probe.l2=1,10") as process:
        fits = "multirun/*/*/l2-1/" + METRICS
        assert wait_until(lambda: list(tmp_path.glob(fits)) or process.poll() is not None)
        assert list(tmp_path.glob("temporary/probegrid-*/job.yaml"))
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert "Traceback" not in err
    assert "l2-1: unfinished" in err
    assert (tmp_path / "multirun/latest/results.csv").exists()
    assert not list((tmp_path / "temporary").glob("probegrid-*"))


def test_a_fit_that_is_ended_is_no_success(own, tmp_path):
    """Lightning turns SIGTERM into an exit with status 0."""
    with fork(tmp_path, *own, *ENDLESS, "trainer=cpu") as process:
        assert wait_until(lambda: (tmp_path / "run" / METRICS).exists() or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 143


def test_a_rank_that_is_ended_stops_the_others(own, tmp_path):
    """Lightning would have it wait for the others, and these for it."""
    with fork(tmp_path, *own, *ENDLESS, "trainer=ddp_cpu") as process:
        assert wait_until(lambda: (tmp_path / "run" / METRICS).exists() or process.poll() is not None)
        os.kill(find_children(process.pid)[1], signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "error: rank 1 of 2 was ended by SIGTERM"


def test_a_sweep_whose_lines_nobody_reads_is_finished(own, tmp_path):
    command = [sys.executable, str(TRAIN), "-m", *own, "trainer=cpu", "probe.l2=1,10"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert "Error" not in err
    assert (tmp_path / "multirun/latest/results.csv").read_text().count(",done,") == 2
