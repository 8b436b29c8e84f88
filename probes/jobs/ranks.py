"""The ranks of a job: how many processes it wants, and their start, watch and end, from a process that is none of them.

The processes run `train.py` on a file that holds the composed configuration, so no command line is run again and
nothing is drawn twice. As the process of a sweep is no rank itself, one job leaves nothing behind for the next.
Processes that torchrun or SLURM has started are ranks already, and start no others.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from probes.jobs.one_rank import CONFIGURATION, FOLDER, OBJECTIVE, STARTED, Failure, escape
from probes.jobs.run_name import find_starter, has_store, is_further_rank

POLL = 0.1  # seconds between two looks at the ranks
REPORT = 1.0  # seconds that the others have to say what ended them: the first that is seen may not be the first to fail
TURN = 5.0  # seconds after which a rank that torchrun or SLURM has started tells an error, where rank zero has none
PATIENCE = 10.0  # seconds between asking a rank to stop and killing it


def count_processes(trainer: DictConfig) -> int:
    """How many processes a trainer wants on each machine: one a device."""
    devices = trainer.get("devices", "auto")
    if isinstance(devices, ListConfig):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([one for one in devices.split(",") if one.strip()])
    with suppress(TypeError, ValueError):
        if int(devices) >= 0:
            return max(1, int(devices))
    if devices not in ("auto", "-1", -1) or trainer.get("accelerator", "auto") not in ("auto", "gpu", "cuda"):
        return 1  # what is no number is Lightning's to refuse
    import torch

    return max(1, torch.cuda.device_count())


def count_to_start(trainer: DictConfig) -> int:
    """How many ranks this process has to start for a job; 0 where it can run the job itself, or is a rank of it.

    A strategy of several processes gets a rank of its own even on one device: what it sets up in a process would be
    there for the next job of a sweep.

    Raises:
        ValueError: what has started this process does not go with the trainer; says what to add.
    """
    here, machines = count_processes(trainer), int(trainer.get("num_nodes", 1))
    strategy = trainer.get("strategy", "auto")
    if isinstance(strategy, str) and any(way in strategy for way in ("spawn", "fork", "notebook")):
        raise ValueError(
            f"trainer.strategy: expected one whose processes are started anew, such as ddp, got {strategy}; choose "
            "trainer=ddp"
        )
    single = strategy in (None, "auto") or (isinstance(strategy, str) and strategy.startswith("single"))
    if by := find_starter():
        _check_started(by, here, machines)
        return 0
    if machines > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
        raise ValueError(
            f"trainer.num_nodes: expected a start by torchrun or SLURM on each of {machines} machines, got neither; "
            "docs/scaling.md has both scripts"
        )
    return 0 if single and here * machines == 1 else here


def run_ranks(cfg: DictConfig, n: int, program: Path) -> float | None:
    """Run a job in `n` processes on this machine, to its end.

    Args:
        cfg: the composed configuration.
        n: number of processes.
        program: train.py, whose main part calls `run_rank`.

    Returns:
        What rank zero returns.

    Raises:
        ValueError: a rank refused something; its own words.
        ChildProcessError: a rank failed otherwise, or was ended from outside; the others are stopped.
    """
    with tempfile.TemporaryDirectory(prefix="probegrid-") as name:
        place = Path(name)
        _write_configuration(cfg, place / CONFIGURATION)
        environment = _make_environment(place, n, int(cfg.trainer.get("num_nodes", 1)))
        ranks: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(n):
                ranks.append(_start(program, environment | {"LOCAL_RANK": str(rank)}))
            while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
                time.sleep(POLL)
            if any(rank.poll() for rank in ranks):
                _wait(ranks, REPORT)
            codes = [rank.poll() for rank in ranks]  # before the others are stopped
        except KeyboardInterrupt:
            for number, rank in enumerate(ranks):  # one that still imports would print where it stands
                _signal([rank], signal.SIGINT if (place / f"{STARTED}-{number}").exists() else signal.SIGTERM)
            _wait(ranks, PATIENCE)
            raise
        finally:
            _stop(ranks)
        if any(codes):
            _raise_cause(place, codes)
        path = place / OBJECTIVE
        return json.loads(path.read_text()) if path.exists() else None  # another machine has rank zero


def let_rank_zero_speak(run: Callable[[DictConfig], float | None]) -> Callable[[DictConfig], float | None]:
    """Have the errors of ranks that torchrun or SLURM has started told once: most are the same in all of them.

    Rank zero tells its own at once, and whoever has started the ranks then ends the others. They wait for that.
    """

    @wraps(run)
    def run_in_turn(cfg: DictConfig) -> float | None:
        try:
            return run(cfg)
        except Exception:
            if FOLDER not in os.environ and is_further_rank():
                time.sleep(TURN)
            raise

    return run_in_turn


def check_world(size: int) -> None:
    """Hold the number of processes that a trainer counts against the number that were started, or form a group.

    Raises:
        ValueError: they differ, so ranks would not share the work as each of them thinks.
    """
    from torch import distributed

    grouped = distributed.is_available() and distributed.is_initialized()
    started = distributed.get_world_size() if grouped else int(os.environ.get("WORLD_SIZE", size))
    if size != started:
        raise ValueError(
            f"trainer: expected a trainer of {started} processes, as many as were started, got one of {size}; set "
            "trainer=ddp, trainer.devices and trainer.num_nodes to match"
        )


def _check_started(by: str, here: int, machines: int) -> None:
    world = int(os.environ.get("WORLD_SIZE" if by == "torchrun" else "SLURM_NTASKS") or 1)
    if here * machines != world:
        local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or world)
        nodes = f" trainer.num_nodes={world // local}" if world > local else ""
        raise ValueError(
            f"trainer: expected a trainer of {world} processes, as {by} has started, got one of {here * machines}; add "
            f"trainer=ddp (on CPUs trainer=ddp_cpu) trainer.devices={local}{nodes}"
        )
    if by != "torchrun" or not HydraConfig.initialized():
        return
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError(
            "-m: expected one process that starts the ranks of each job, got several that torchrun has started; leave "
            "torchrun out"
        )
    named = any(one.startswith("hydra.run.dir=") for one in HydraConfig.get().overrides.hydra)
    if world > 1 and not named and not has_store():
        raise ValueError(
            "hydra.run.dir: expected one folder for all ranks, got a torchrun that shares no store with them; name it, "
            "or leave TORCH_DISABLE_SHARE_RDZV_TCP_STORE out"
        )


def _write_configuration(cfg: DictConfig, path: Path) -> None:
    """Write all that a rank needs to know, with every interpolation resolved: some have another value each time."""
    logging_of_hydra = HydraConfig.get().job_logging if HydraConfig.initialized() else None
    parts = {
        "cfg": OmegaConf.to_container(cfg, resolve=True),
        "job_logging": logging_of_hydra and OmegaConf.to_container(logging_of_hydra, resolve=True),
        "verbose": HydraConfig.get().verbose if HydraConfig.initialized() else False,
        "path": sys.path,
    }
    OmegaConf.save(OmegaConf.create(escape(parts)), path)


def _make_environment(place: Path, n: int, machines: int) -> dict[str, str]:
    """The environment of the ranks, all but LOCAL_RANK."""
    # A process of SLURM that starts ranks is the only one there: Lightning is not to take it for one of several.
    ours = {name: value for name, value in os.environ.items() if name not in ("SLURM_NTASKS", "SLURM_PROCID")}
    ours |= {FOLDER: str(place), "WORLD_SIZE": str(n * machines)}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ours.setdefault("OMP_NUM_THREADS", str(max(1, cores // n)))
    if machines == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ours |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    return ours


def _start(program: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    # Of its own session: the terminal's Ctrl-C reaches this process alone, which passes it on. A rank ends by itself
    # when its standard input closes, so none outlives this process, however that ends.
    return subprocess.Popen(
        [sys.executable, str(program)], env=environment, stdin=subprocess.PIPE, start_new_session=True
    )


def _signal(ranks: "list[subprocess.Popen[bytes]]", number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            with suppress(ProcessLookupError):
                rank.send_signal(number)


def _wait(ranks: "list[subprocess.Popen[bytes]]", seconds: float) -> None:
    """Wait for all, at most so long."""
    end = time.monotonic() + seconds
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < end:
        time.sleep(POLL)


def _stop(ranks: "list[subprocess.Popen[bytes]]") -> None:
    """End all that still run, and leave nothing behind."""
    _signal(ranks, signal.SIGTERM)
    _wait(ranks, PATIENCE)
    _signal(ranks, signal.SIGKILL)
    for rank in ranks:
        rank.wait()
        if rank.stdin:
            rank.stdin.close()


def _raise_cause(place: Path, codes: list[int | None]) -> None:
    """Raise what failed first; what other ranks say after that follows from it."""
    failures = [failure for rank, code in enumerate(codes) if code and (failure := Failure.read(place, rank))]
    mistakes = [failure for failure in failures if failure.mistake]
    if mistakes:
        raise _told(min(mistakes, key=lambda failure: failure.time))
    said = {failure.rank for failure in failures}
    for rank, code in enumerate(codes):
        if code and rank not in said and (code != -signal.SIGABRT or not failures):  # NCCL aborts where another fails
            raise ChildProcessError(f"rank {rank} of {len(codes)} {_tell_end(code)}")
    raise _told(min(failures, key=lambda failure: failure.time))


def _told(failure: Failure) -> Exception:
    """The error of a rank as one to raise here; its traceback is printed where there is one to see."""
    if not failure.mistake or os.environ.get("HYDRA_FULL_ERROR") == "1":
        print(failure.traceback, file=sys.stderr, end="", flush=True)
    return ValueError(failure.line) if failure.mistake else ChildProcessError(f"rank {failure.rank}: {failure.line}")


def _tell_end(code: int) -> str:
    if code == 128 + signal.SIGTERM:
        code = -signal.SIGTERM
    if code > 0:
        return f"ended with status {code} and said nothing"
    name = signal.Signals(-code).name
    memory = "; where nobody sent it, memory ran out: take fewer ranks (trainer.devices)"
    return f"was ended by {name}{memory * (name == 'SIGKILL')}"
