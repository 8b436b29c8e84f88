"""How jobs of several processes end where one of them fails: soon, all together, with the line that tells why."""

import os
import signal
import time
from dataclasses import replace

import pytest

from probes.jobs.one_rank import Failure
from probes.jobs.ranks import _raise_cause
from tests.support.ranks import find_children, is_running, wait_until, write_activations
from tests.support.runs import fork, run_forked, start

TWO = "trainer=ddp_cpu"
LONG = ["probe=minibatch", "trainer.max_epochs=1000000", "callbacks.early_stopping.patience=1000000"]
BROKEN = """
import pytorch_lightning as pl

class Broken(pl.Callback):
    def on_validation_start(self, trainer, pl_module):
        if trainer.global_rank == 1:
            raise RuntimeError("this callback is broken")
"""


@pytest.fixture
def own(tmp_path):
    return write_activations(tmp_path / "acts.safetensors")


def test_a_mistake_that_one_rank_finds_is_told_once_and_alone(tmp_path):
    """The last cell is rank one's; what the other says when its partner is gone is not shown."""
    own = write_activations(tmp_path / "acts.safetensors", broken=True)
    status, out, err = run_forked(tmp_path, *own, TWO)
    assert status == 1
    (line,) = [line for line in err.splitlines() if "error" in line.lower()]
    assert line.startswith("error: ")
    assert "at layer 1, position 2, example 0" in line
    assert err.splitlines()[-1] == line
    assert "Traceback" not in out + err
    assert line in (tmp_path / "run" / "train.log").read_text()


def test_an_error_of_the_program_in_one_rank_shows_its_traceback_and_ends_with_its_line(own, tmp_path, monkeypatch):
    """A callback of the user's own, found where the first process finds it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken_callback.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    status, _, err = run_forked(
        tmp_path, *own, TWO, "+callbacks.mine._target_=broken_callback.Broken", "allow_targets=[broken_callback]"
    )
    assert status == 1
    assert err.splitlines()[-1] == "error: rank 1: RuntimeError: this callback is broken"
    assert err.count("Traceback") == 1
    assert "broken_callback.py" in err


def test_more_ranks_than_cells_are_refused_once_and_before_any_work(tmp_path):
    few = ["site.layers=[0]", "positions.rules=[{name: end, of: answer, at: -1}]", "dataset.limit=200"]
    status, _, err = run_forked(tmp_path, TWO, *few)
    assert (status, err.count("error: ")) == (1, 1)
    assert "trainer.devices: expected at most one for each of the 1 cells, got 2; take fewer" in err.splitlines()[-1]
    assert not list((tmp_path / "cache").rglob("shard-*"))


def test_a_rank_that_is_killed_ends_the_others_with_its_own_line(own, tmp_path):
    """While the other waits for it in a sum over ranks."""
    process = fork(tmp_path, *own, "datamodule.batch_size=64", TWO, *LONG)
    assert wait_until(lambda: (tmp_path / "run" / "epochs" / "001.png").exists() or process.poll() is not None)
    ranks = find_children(process.pid)
    assert len(ranks) == 2
    since = time.monotonic()
    os.kill(ranks[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - since < 60  # the bound that is promised, not a measurement
    assert err.splitlines()[-1].startswith("error: rank 1 of 2 was ended by SIGKILL; where nobody sent it, memory ran")
    assert "Traceback" not in err
    assert not any(map(is_running, ranks))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_the_process_that_started_it(own, tmp_path, number):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background ignore it
    process = start(tmp_path, *own, "datamodule.batch_size=64", TWO, *LONG)
    assert wait_until(lambda: len(find_children(process.pid)) == 2 or process.poll() is not None)
    signal.signal(signal.SIGINT, before)
    ranks = find_children(process.pid)
    assert len(ranks) == 2
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in err  # of ranks that still import
    assert wait_until(lambda: not any(map(is_running, ranks)), 60)


MISTAKE = Failure(0, 2.0, True, "split: expected, got", "Traceback of a mistake\n")
BUG = Failure(1, 1.0, False, "RuntimeError: no", "Traceback of a bug\n")


@pytest.mark.parametrize(
    ("failures", "codes", "line"),
    [
        ([MISTAKE], [1, -15], "split: expected, got"),
        ([MISTAKE, BUG], [1, 1], "split: expected, got"),  # what a user can mend comes first
        ([replace(MISTAKE, rank=1, time=1.0, line="other"), MISTAKE], [1, 1], "other"),
        ([BUG], [None, 1], "rank 1: RuntimeError: no"),
        ([BUG, replace(BUG, rank=0, time=0.5, line="first")], [1, 1], "rank 0: first"),
        ([BUG], [-9, 1], "rank 0 of 2 was ended by SIGKILL; where nobody sent it, memory ran out: take fewer ranks"),
        ([BUG], [-6, 1], "rank 1: RuntimeError: no"),  # NCCL aborts a rank whose partner has failed
        ([], [None, -11], "rank 1 of 2 was ended by SIGSEGV"),
        ([], [3, None], "rank 0 of 2 ended with status 3 and said nothing"),
    ],
)
def test_what_failed_first_is_told(failures, codes, line, tmp_path, capsys):
    for failure in failures:
        failure.write(tmp_path)
    with pytest.raises((ValueError, ChildProcessError)) as raised:
        _raise_cause(tmp_path, codes)
    assert str(raised.value).startswith(line)
    assert isinstance(raised.value, ValueError) == (MISTAKE in failures)
    assert capsys.readouterr().err == (BUG.traceback if "Runtime" in line or "first" in line else "")
