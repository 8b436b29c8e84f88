"""Signals before the work, after it, and a second one: in small processes."""

import os
import signal
import subprocess
import sys

import pytest

from probes.jobs.command.signals import tell_end
from tests.support.places import ROOT

BEFORE = "end_at_once(); print('here', flush=True); time.sleep(60)"
AFTER = """
end_at_once()
with end_at_signals():
    pass
print('here', flush=True)
time.sleep(60)
"""
IN_A_FINALISER_AT_THE_END = """
import atexit
end_at_once()
atexit.register(lambda: (print('here', flush=True), time.sleep(60)))
with end_at_signals():
    pass
"""
SECOND = """
end_at_once()
with end_at_signals():
    try:
        os.kill(os.getpid(), {number})
        time.sleep(60)
    finally:
        print('here', flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", [BEFORE, AFTER, IN_A_FINALISER_AT_THE_END, SECOND])
def test_wherever_it_falls_it_is_one_line_and_its_status(program, number):
    start = "import os, time; from probes.jobs.command.signals import end_at_once, end_at_signals\n"
    process = subprocess.Popen(
        [sys.executable, "-c", start + program.replace("{number}", str(int(number)))], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == f"{tell_end(number)}\n"


def test_a_signal_that_is_ignored_stays_so():
    program = "import os; from probes.jobs.command.signals import end_at_once, end_at_signals; end_at_once()\n"
    program += f"with end_at_signals(): os.kill(os.getpid(), {int(signal.SIGINT)}); print('on')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, env=os.environ,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "on\n")


def test_in_a_sweep_the_line_says_how_that_goes_on(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "probe.l2=1,10"])
    assert tell_end(signal.SIGINT) == (
        "error: ended by Ctrl-C; finished jobs are kept, and the same command goes on with resume=true"
    )


def test_scores_are_written_at_the_end_and_the_line_says_so(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "experiment=score", "run=outputs/latest", "dataset=cities"])
    assert tell_end(signal.SIGTERM) == (
        "error: ended by SIGTERM; scores are written together at the end, and the same command starts over"
    )
