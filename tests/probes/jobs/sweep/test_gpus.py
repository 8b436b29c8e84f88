"""Jobs on one machine share its GPUs, one each, and give them back when their process ends."""

import os
import subprocess
import sys

import pytest

from probes.jobs.sweep.gpus import GPUS, LOCKS, check_jobs_at_once
from tests.support.places import ROOT

PROGRAM = """
import os, sys
from probes.jobs.sweep.gpus import take_gpu
try:
    print(take_gpu(), take_gpu(), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
except ValueError as error:
    print(error, flush=True)
sys.stdin.read()
"""


def start(folder, gpus):
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {GPUS: gpus, LOCKS: str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def listen(process):
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_each_process_has_one_of_its_own(tmp_path):
    one, two, three = (start(tmp_path, "3,GPU-5") for _ in range(3))
    said = {process: listen(process) for process in (one, two, three)}
    refused = [process for process in said if "hydra.launcher.n_jobs=2" in said[process]]
    assert len(refused) == 1
    assert sorted(said[process] for process in said if process not in refused) == ["3 3 3", "GPU-5 GPU-5 GPU-5"]
    (first, *_) = (process for process in said if process not in refused)
    first.communicate("")  # ends
    another = start(tmp_path, "3,GPU-5")
    assert listen(another) == said[first]
    for process in (one, two, three, another):
        if process.poll() is None:
            process.communicate("")


def test_where_there_is_none_to_share_nothing_is_set(tmp_path):
    process = start(tmp_path, "")
    assert process.communicate("")[0].strip() == "None None None"


@pytest.mark.parametrize("n_jobs", [3, -1, 0])
def test_more_jobs_at_once_than_gpus_are_refused_before_the_first(n_jobs):
    check_jobs_at_once(2, 2)
    with pytest.raises(
        ValueError, match=rf"^hydra.launcher.n_jobs: expected at most .*, got {n_jobs} for 2; set .*=2$"
    ):
        check_jobs_at_once(n_jobs, 2)
