"""Jobs of several processes give what one process gives: alone, in a sweep, under torchrun and under SLURM."""

import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import train
from probes.jobs.one_rank import escape
from probes.jobs.ranks import count_processes, count_to_start
from tests.support.places import ROOT
from tests.support.ranks import write_activations
from tests.support.runs import TRAIN, command, run_forked, run_here, without_pictures
from tests.support.warm import Forked

FILES = ("heatmap.csv", "probes.safetensors", "scores.safetensors")
SLURM = {"SLURM_JOB_ID": "4321", "SLURM_JOB_NAME": "probes", "SLURM_NODELIST": "127.0.0.1", "SLURM_NNODES": "1"}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return write_activations(tmp_path_factory.mktemp("acts") / "acts.safetensors")


@pytest.fixture(scope="module")
def alone(own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with without_pictures():
        status, _, err = run_here(folder, *own)
    assert status == 0, err
    return folder / "run"


def same(one, other) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


JOBS = {
    "one_device": ("ddp_cpu", "trainer: {devices: 1}"),
    "ranks": ("ddp_cpu", ""),
    "other_ranks": ("ddp_cpu", "probe: {l2: 100}"),
    "single": ("cpu", ""),
    "other_single": ("cpu", "probe: {l2: 100}"),
}


@pytest.fixture(scope="module")
def swept(own, tmp_path_factory):
    """Jobs of one sweep, one after the other: first those of ranks, on one device and on two."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "own" / "experiment").mkdir(parents=True)
    for name, (trainer, values) in JOBS.items():
        text = f"# @package _global_\ndefaults: [{{override /trainer: {trainer}}}]\n{values}\n"
        (folder / "own" / "experiment" / f"{name}.yaml").write_text(text)
    where = [f"hydra.sweep.dir={folder}/sweep", "hydra.sweep.subdir=${hydra.job.num}"]
    given = [*where, *own, f"experiment={','.join(JOBS)}"]
    status, _, err = run_forked(folder, "-m", f"--config-dir={folder}/own", *given)
    assert status == 0, err
    return {name: folder / "sweep" / str(number) for number, name in enumerate(JOBS)}


def test_two_jobs_of_two_ranks_give_what_two_jobs_of_one_process_give(swept, alone):
    """In one sweep: a process group that outlived its job would solve half of the next one's cells."""
    assert same(swept["ranks"], swept["single"])
    assert same(swept["ranks"], alone)
    assert same(swept["other_ranks"], swept["other_single"])
    assert not same(swept["ranks"], swept["other_ranks"])
    log = (swept["ranks"] / "train.log").read_text()
    assert log.count("split: train") == 1
    assert "split: train" in (swept["single"] / "train.log").read_text()


def test_a_sweep_over_the_number_of_devices(swept, alone):
    """One device under a strategy of several processes: what it sets up is gone when the next job starts."""
    assert same(swept["one_device"], alone)
    assert same(swept["ranks"], alone)


def test_a_job_can_be_run_from_python_and_returns_its_objective(own, tmp_path):
    """Without Hydra's own start, as in a notebook; with a text that looks like an interpolation.

    These ranks import for themselves; those of other tests are forked.
    """
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = [*own, r"dataset.name='costs \${x}'", "cache.root=none"]
        cfgs = [
            compose("config", overrides=[*given, f"trainer={trainer}", f"folder={tmp_path / trainer}"])
            for trainer in ("cpu", "ddp_cpu")
        ]
    before = dict(os.environ)
    ranks = train.run(cfgs[1])
    assert "LOCAL_RANK" not in os.environ
    assert os.environ.get("WORLD_SIZE") == before.get("WORLD_SIZE")
    assert ranks == train.run(cfgs[0])
    assert ranks is not None
    assert ranks > 0.5
    assert same(tmp_path / "ddp_cpu", tmp_path / "cpu")


def call_torchrun(folder, *program) -> "subprocess.CompletedProcess[str]":
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(torchrun, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_torchrun_gives_the_same_in_one_folder_though_its_ranks_start_seconds_apart(own, alone, tmp_path):
    late = f"sleep $((2 * LOCAL_RANK)); exec {sys.executable} {TRAIN} {' '.join(own)} trainer=ddp_cpu"
    done = call_torchrun(tmp_path, "--no-python", "sh", "-c", late)
    assert done.returncode == 0, done.stderr
    (folder,) = (path for path in (tmp_path / "outputs").glob("*/*") if path.parent.name != "latest")
    assert same(folder, alone)


@pytest.mark.slow
def test_torchrun_is_refused_once_without_a_trainer_of_several_devices(own, tmp_path):
    done = call_torchrun(tmp_path, *command(tmp_path, *own)[1:])
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == (
        "error: trainer: expected a trainer of 2 processes, as torchrun has started, got one of 1; add trainer=ddp "
        "(on CPUs trainer=ddp_cpu) trainer.devices=2"
    )


@pytest.mark.slow
def test_processes_that_slurm_starts_share_the_work(own, alone, tmp_path):
    """SLURM as a process sees it: its variables."""
    of_all = os.environ | {"OMP_NUM_THREADS": "1", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", **SLURM}
    tasks = [
        Forked(
            train.main,
            folder=tmp_path,
            argv=command(tmp_path, *own, "trainer=slurm", "trainer.accelerator=cpu")[1:],
            environment=of_all | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), "SLURM_NODEID": "0"},
        )
        for task in range(2)
    ]
    errors = [task.communicate(timeout=200)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], errors
    assert same(tmp_path / "run", alone)


@pytest.mark.parametrize(
    ("trainer", "n"),
    [
        ({"devices": 3}, 3),
        ({"devices": "3"}, 3),
        ({"devices": [0, 2]}, 2),
        ({"devices": "0,2"}, 2),
        ({"devices": "1,"}, 1),
        ({"devices": "auto", "accelerator": "cpu"}, 1),
        ({"devices": None}, 1),
        ({"devices": "many"}, 1),
        ({}, 1),
    ],
)
def test_processes_of_a_trainer_are_counted(trainer, n, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert count_processes(DictConfig(trainer)) == n


@pytest.mark.parametrize(("devices", "n"), [("auto", 4), (-1, 4), ("-1", 4)])
def test_all_gpus_are_counted(devices, n, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert count_processes(DictConfig({"accelerator": "gpu", "devices": devices})) == n


@pytest.mark.parametrize(
    ("trainer", "environment", "n"),
    [
        ({"devices": 1, "strategy": "auto"}, {}, 0),
        ({"devices": 1, "strategy": "ddp"}, {}, 1),
        ({"devices": 2, "strategy": "auto"}, {}, 2),
        ({"devices": 2}, {"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, 0),
        ({"devices": 2}, {"SLURM_NTASKS": "2", **SLURM}, 0),
        ({"devices": 2}, {"SLURM_NTASKS": "1", **SLURM}, 2),  # a job that submitit has started
        ({"devices": 2}, {"SLURM_NTASKS": "2", **SLURM, "SLURM_JOB_NAME": "bash"}, 2),  # a shell in an allocation
        ({"devices": 2, "num_nodes": 2}, {"MASTER_ADDR": "a", "MASTER_PORT": "1", "NODE_RANK": "1"}, 2),
    ],
)
def test_who_starts_the_ranks(trainer, environment, n, monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert count_to_start(DictConfig(trainer)) == n


@pytest.mark.parametrize(
    ("trainer", "environment", "line"),
    [
        ({"strategy": "ddp_spawn"}, {}, "trainer.strategy: expected one whose processes are started anew, such as ddp"),
        ({"num_nodes": 2}, {}, "trainer.num_nodes: expected a start by torchrun or SLURM on each of 2 machines, got"),
        (
            {"devices": 4},
            {"LOCAL_RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"},
            r"devices=4 trainer.num_nodes=2$",
        ),
        (
            {},
            {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", **SLURM},
            "of 4 processes, as SLURM has started, got one of 1",
        ),
    ],
)
def test_a_start_that_does_not_go_with_the_trainer_is_refused(trainer, environment, line, monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=line):
        count_to_start(DictConfig(trainer))


@pytest.mark.parametrize("text", ["${x}", r"\${x}", r"a\\${x} ${y}", "$x {y}", "plain", "???"])
def test_a_text_is_read_back_as_it_was(text):
    node = OmegaConf.create(escape({"text": text, "more": [1, None, {"deep": text}]}))
    read = OmegaConf.create(OmegaConf.to_yaml(node))
    assert OmegaConf.to_container(read, resolve=True) == {"text": text, "more": [1, None, {"deep": text}]}
