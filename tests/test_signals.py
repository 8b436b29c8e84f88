"""Ctrl-C and SIGTERM, with real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from tests.support.runs import TRAIN


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sweep_of_several_ranks_ends_with_its_table_and_leaves_nothing(number, status, tmp_path):
    save_file({"acts": torch.randn(90, 2, 2, 4), "labels": torch.arange(90) % 2}, tmp_path / "own.safetensors")
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")}
    own = ["datamodule=precomputed", "datamodule.path=own.safetensors", "trainer=ddp_cpu", "probe.l2=1,10"]
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), "-m", *own], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    since = time.monotonic()
    while process.poll() is None and not list(tmp_path.glob("temporary/probegrid-*/job.yaml")):
        assert time.monotonic() - since < 120
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert "Traceback" not in err
    assert "l2-1: unfinished" in err
    assert (tmp_path / "multirun/latest/results.csv").exists()
    assert not list((tmp_path / "temporary").glob("probegrid-*"))


def test_a_fit_that_is_ended_is_no_success(tmp_path):
    """Lightning turns SIGTERM into an exit with status 0."""
    save_file({"acts": torch.randn(90, 2, 2, 4), "labels": torch.arange(90) % 2}, tmp_path / "own.safetensors")
    own = ["datamodule=precomputed", "datamodule.path=own.safetensors", "trainer=cpu", "probe=minibatch"]
    endless = ["trainer.max_epochs=100000", "~callbacks.early_stopping", "hydra.run.dir=run"]
    process = subprocess.Popen([sys.executable, str(TRAIN), *own, *endless], cwd=tmp_path, stderr=subprocess.DEVNULL)
    since = time.monotonic()
    while process.poll() is None and not (tmp_path / "run/metrics/version_0/metrics.csv").exists():
        assert time.monotonic() - since < 120
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143


def test_a_rank_that_is_ended_stops_the_others(tmp_path):
    """Lightning would have it wait for the others, and these for it."""
    save_file({"acts": torch.randn(90, 2, 2, 4), "labels": torch.arange(90) % 2}, tmp_path / "own.safetensors")
    own = ["datamodule=precomputed", "datamodule.path=own.safetensors", "trainer=ddp_cpu", "probe=minibatch"]
    endless = ["trainer.max_epochs=100000", "~callbacks.early_stopping", "hydra.run.dir=run"]
    command = [sys.executable, str(TRAIN), *own, *endless]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    since = time.monotonic()
    while process.poll() is None and not (tmp_path / "run/metrics/version_0/metrics.csv").exists():
        assert time.monotonic() - since < 120
        time.sleep(0.05)
    ranks = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], stdout=subprocess.PIPE, text=True)
    os.kill(int(ranks.stdout.split()[1]), signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "error: rank 1 of 2 was ended by SIGTERM"


def test_a_sweep_whose_lines_nobody_reads_is_finished(tmp_path):
    save_file({"acts": torch.randn(90, 2, 2, 4), "labels": torch.arange(90) % 2}, tmp_path / "own.safetensors")
    own = ["datamodule=precomputed", "datamodule.path=own.safetensors", "trainer=cpu", "probe.l2=1,10"]
    command = [sys.executable, str(TRAIN), "-m", *own]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert "Error" not in err
    assert (tmp_path / "multirun/latest/results.csv").read_text().count(",done,") == 2
