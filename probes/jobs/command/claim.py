"""A run folder belongs to one run at a time: two that start in one second, or are given one folder, do not mix."""

import fcntl
import os
import re
from contextlib import suppress
from errno import EACCES
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from probes.jobs.command.mistakes import stop_at_mistakes
from probes.jobs.one_rank import FOLDER
from probes.jobs.run_name import find_starter, is_further_rank
from probes.jobs.sweep.job_file import JOB

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")  # as whole_file names what it has not finished
_held: dict[Path, int] = {}  # folders of this process; closing the descriptor, as its end does, lets go of one


class RunFolder(Callback):
    """Hydra's callback: claims the folder of a run before Hydra writes there."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Claim it, and tell Hydra which it is. Hydra turns what a callback raises into a warning, so it stops here."""
        with stop_at_mistakes():
            if not isinstance(config.hydra.run.dir, str) or not config.hydra.run.dir.strip():
                raise ValueError(f"hydra.run.dir: expected a folder, got {config.hydra.run.dir!r}; name one")
            folder = Path(config.hydra.run.dir).absolute()
            if config.get("command") is not None and folder == Path.cwd():  # a command that leaves none
                return
            pattern = str(OmegaConf.to_container(config.hydra.run)["dir"])  # type: ignore[index,call-overload]
            named = "${now:" not in pattern or find_starter() is not None  # all ranks of a run have agreed on its name
            claimed = claim_folder("hydra.run.dir", folder, named)
            with read_write(config), open_dict(config):
                config.hydra.run.dir = str(claimed)


def claim_folder(key: str, folder: Path, named: bool) -> Path:
    """Make a folder that no other process is using, and keep it until this process ends.

    What a killed run has left unfinished there is removed.

    Args:
        key: of the configuration that names the folder, for the message.
        folder: the folder.
        named: whether the user asks for this very folder; else the next free name is taken where it exists.

    Returns:
        The folder.

    Raises:
        ValueError: another process is using the folder that the user asks for, or no folder can have the name.
        OSError: it cannot be made or written.

    Example:
        >>> claim_folder("folder", Path("outputs/2026-01-31/12-00-00"), named=False)  # doctest: +SKIP
        PosixPath('outputs/2026-01-31/12-00-00-2')
    """
    wanted = folder
    if "\0" in str(folder):
        raise ValueError(f"{key}: expected a folder, got {str(folder)!a}, with a NUL character; take it out")
    try:
        for number in range(2, 1000):
            try:
                folder.mkdir(parents=True, exist_ok=named)
                break
            except FileExistsError:
                if named:
                    raise ValueError(f"{key}: expected a folder, got the file {folder}; name another") from None
                folder = wanted.with_name(f"{wanted.name}-{number}")
        if not os.access(folder, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
    except OSError as error:
        raise OSError(
            f"{key}: expected a folder that can be made, got {folder}: {error.strerror}; name another"
        ) from error
    if folder in _held or FOLDER in os.environ or is_further_rank():  # the run has it already
        return folder
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise ValueError(
            f"{key}: expected a folder that no other process is writing to, got {folder}; wait for it, or name another"
        ) from None
    except OSError:  # a file system without locks on folders; a name that nobody has given is unique all the same
        os.close(held)
        return folder
    _held[folder] = held
    for place in (folder, *(job.parent for job in folder.glob(f"*/{JOB}"))):  # no deeper: others may write there
        for path in place.glob(".*.tmp"):
            if TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()
    return folder


def let_go(folder: Path) -> None:
    """Let other processes have a folder that this one has claimed."""
    if (held := _held.pop(folder, None)) is not None:
        os.close(held)
