"""One run, one folder, however its ranks are started and in whatever second."""

from datetime import timedelta

import pytest
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from probes.jobs.ranks import check_world
from probes.jobs.run_name import choose_run_name
from tests.support.ranks import write_activations
from tests.support.runs import run_here


@pytest.fixture(autouse=True)
def _anew():
    choose_run_name.cache_clear()
    yield
    choose_run_name.cache_clear()


def choose(monkeypatch, environment, own):
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        choose_run_name.cache_clear()
        return choose_run_name(own)


def test_ranks_of_torchrun_take_the_name_of_rank_zero(monkeypatch):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "LOCAL_RANK": "0",
    }  # fmt: skip
    for restart, (first, second) in enumerate([("a/1", "a/2"), ("b/1", "b/2")]):
        of_all = common | {"TORCHELASTIC_RESTART_COUNT": str(restart)}
        assert choose(monkeypatch, of_all | {"RANK": "0"}, first) == first
        assert choose(monkeypatch, of_all | {"RANK": "1"}, second) == first
        # the first of another machine, which waits in the same store
        assert choose(monkeypatch, of_all | {"RANK": "8"}, second) == first


def test_tasks_of_slurm_take_that_of_job_and_step(monkeypatch):
    of_all = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "4321", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "probes"}
    for task in ("0", "1"):
        assert choose(monkeypatch, of_all | {"SLURM_PROCID": task}, f"time-{task}") == "slurm/4321-0"
    assert choose(monkeypatch, of_all | {"SLURM_RESTART_COUNT": "1"}, "time") == "slurm/4321-0-1"
    assert choose(monkeypatch, of_all | {"SLURM_NTASKS": "1"}, "time") == "time"


def test_ranks_that_can_agree_on_no_folder_are_refused(tmp_path, monkeypatch):
    """torchrun shares its store, unless it is told not to."""
    own = write_activations(tmp_path / "own.safetensors")
    for name, value in (("LOCAL_RANK", "0"), ("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tests.support.runs.command", lambda folder, *overrides: ["", "train.py", *overrides])
    status, _, err = run_here(tmp_path, *own, "trainer=ddp_cpu")
    assert status == 1
    assert err.splitlines()[-1].startswith("error: hydra.run.dir: expected one folder for all ranks, got a torchrun")


@pytest.mark.parametrize(("world", "group"), [("2", None), (None, 2)])
def test_a_trainer_of_another_size_than_what_was_started_is_refused(world, group, monkeypatch):
    check_world(1)
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    if group:
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: group)
    check_world(2)
    with pytest.raises(ValueError, match=r"^trainer: expected a trainer of 2 processes, as many as were started, got"):
        check_world(1)


def test_a_run_whose_trainer_counts_otherwise_is_one_line(tmp_path, monkeypatch):
    own = write_activations(tmp_path / "own.safetensors")
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = run_here(tmp_path, *own, "trainer=cpu")
    assert status == 1
    assert err.splitlines()[-1].startswith("error: trainer: expected a trainer of 2 processes, as many as were started")
    assert not (tmp_path / "run" / "heatmap.csv").exists()
