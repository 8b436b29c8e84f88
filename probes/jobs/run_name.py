"""The name of a run folder, the same in all ranks of a run that torchrun or SLURM has started."""

import os
from functools import cache

KEY = "probegrid/run/{}"  # in torchrun's store; of each restart


@cache
def choose_run_name(own: str) -> str:
    """What `${run_name:...}` stands for in a configuration.

    Ranks start in different seconds, so that the time alone would give one run several folders. Under torchrun the
    name of rank zero is that of all, on all machines; it goes through the store in which torchrun's agents meet. Under
    SLURM it is made of the numbers of job and step. Any other run has its own.

    Args:
        own: the name that this process would choose, from the time.

    Example:
        >>> choose_run_name("2026-03-01/12-00-00")
        '2026-03-01/12-00-00'
    """
    starter = find_starter()
    if starter == "SLURM" and "SLURM_JOB_ID" in os.environ:
        numbers = [os.environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")]
        return "slurm/" + "-".join(number for number in numbers if number is not None)
    return _take_from_rank_zero(own) if starter == "torchrun" and has_store() else own


def find_starter() -> str | None:
    """What has started this process as one of several ranks; None where nothing has."""
    if "LOCAL_RANK" in os.environ:
        return "torchrun"
    tasks = int(os.environ.get("SLURM_NTASKS") or 1)
    return "SLURM" if tasks > 1 and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive") else None


def has_store() -> bool:
    """Whether torchrun shares its store with the ranks, as it does unless an environment variable forbids it."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _take_from_rank_zero(own: str) -> str:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    key = KEY.format(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if os.environ["RANK"] == "0":
        store.set(key, own)
    return store.get(key).decode()  # waits for it
