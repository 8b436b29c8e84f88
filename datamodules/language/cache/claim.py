"""Claims: which process makes a shard, on any file system that several machines share.

A claim is held by whoever has both of these, in the folder `.local` of an entry:

- the lock `NAME.lock` (`flock`). The system drops it when its holder dies, so on one machine a killed run can be
  started again at once. Some file systems have no such lock, and on some it counts on one machine only.
- the file `NAME.claim-K`, made exclusively, which all machines agree on. It names its owner from the moment it is
  there: it is a link to a file that was written before. A thread of the owner touches it every few seconds: its
  heartbeat. On release its time is set to zero.

Files of claims are never removed, as two processes could then each remove the other's. The next claim is the file
with the next number, and a process makes it only once the claim before is over:

- it was released; or
- its owner ran on this machine, and the lock is free, or, where there are no locks, no process has its number; or
- its heartbeat has not changed for `STALE` seconds by the clock of the process that watches. The clocks of two
  machines, and that of the file system, do not matter.

What can go wrong: a process that is stopped for longer than `STALE` seconds loses its claim to one on another machine.
It notices before it writes the next file or the record. A file that it replaces in between differs from the record if
its bytes do, and is reported as altered when it is next read. Links must be atomic, and so must exclusive creation
where there are no links. That holds for local disks, NFS, Lustre, GPFS and Ceph, and not for object stores mounted as
folders. Without links a process that is killed before it has written its name costs the others `STALE` seconds.
"""

import errno
import fcntl
import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

BEAT = 5.0  # seconds between two touches of a claim that is held
STALE = 60.0  # seconds without a touch after which a claim on another machine is over
POLL = 0.2  # seconds between two looks at a claim that another process holds
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # what link says of it
NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)  # what flock says of it


class Claim:
    """The right to write a shard or a file, for one process at a time; `take` it, and `release` it.

    Args:
        folder: where the files of the claim lie; it exists.
        name: of what is claimed.

    Example:
        >>> claim = Claim(entry.folder / ".local", "shard-00003")  # doctest: +SKIP
        >>> claim.take()  # doctest: +SKIP
        True
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._number = 0  # of the claim file that is ours, or that was not over when last seen
        self._seen: tuple[int, int] | None = None  # that file's number, and its time
        self._since = 0.0  # when it was first seen with this time, by the monotonic clock
        self._lock: IO[str] | None = None
        self._released: threading.Event | None = None  # while the claim is held
        self._heart: threading.Thread | None = None

    def take(self) -> bool:
        """Claim it, unless another process has it; never waits.

        Raises:
            OSError: the folder cannot be written.
        """
        self._lock = (self.folder / f"{self.name}.lock").open("w")
        try:
            locks = self._take_lock()
            while locks is not None:
                if self._path.exists():
                    if not self._is_over(locks):
                        break
                    self._number += 1
                    continue
                if not self._make(json.dumps(identify_owner()).encode()):
                    continue  # another process was faster
                heart = threading.Thread(target=_beat, args=(self._path, self._released), daemon=True)
                heart.start()
                self._heart = heart
                return True
        except BaseException:
            self.release()
            raise
        self.release()
        return False

    def release(self) -> None:
        """Let go of it, if it is held."""
        if self._released is not None:
            self._released.set()
            if self._heart is not None:  # None if `take` failed
                self._heart.join()
            self._released = self._heart = None
            with suppress(OSError):
                os.utime(self._path, (0, 0))
            self._number += 1
        if self._lock is not None:
            self._lock.close()  # which drops the lock
            self._lock = None

    def held(self) -> bool:
        """Whether it is held still: another machine takes it over if this process stops for too long."""
        return self._released is not None and not self._get_path(self._number + 1).exists()

    @property
    def _path(self) -> Path:
        return self._get_path(self._number)

    def _get_path(self, number: int) -> Path:
        return self.folder / f"{self.name}.claim-{number}"

    def _make(self, owner: bytes) -> bool:
        """Make the claim file, with its content, unless it is there."""
        ours = self.folder / f".{self.name}.claim.{uuid4().hex}.tmp"
        try:
            ours.write_bytes(owner)
            os.link(ours, self._path)
            self._released = threading.Event()  # from here on there is a claim to release
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return self._make_without_links(owner)
        finally:
            with suppress(OSError):
                ours.unlink(missing_ok=True)
        return True

    def _make_without_links(self, owner: bytes) -> bool:
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        self._released = threading.Event()
        with os.fdopen(file, "wb", buffering=0) as claim:
            claim.write(owner)
        return True

    def _take_lock(self) -> bool | None:
        """Whether the file system has locks; None where another process holds this one."""
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return False
        return True

    def _is_over(self, locks: bool) -> bool:
        """Whether nobody holds the claim file that is there."""
        with self._path.open("rb") as file:  # opening asks a server for the time, which `stat` may not
            owner, changed = _read_owner(file.read()), os.fstat(file.fileno()).st_mtime_ns
        own = identify_owner()
        if changed == 0 or (locks and owner.get("machine") == own["machine"]):
            return True
        if not locks and owner.get("space") == own["space"] and not _is_running(owner.get("pid")):
            return True
        if self._seen != (self._number, changed):
            self._seen, self._since = (self._number, changed), time.monotonic()
        return time.monotonic() - self._since > STALE


def identify_owner() -> dict[str, str | int]:
    """Who this process is, for others that meet its claims.

    `machine` tells running systems apart, `space` also containers, whose process numbers mean other processes. `host`
    is for people who look into the folder.
    """
    host = machine = socket.gethostname()
    with suppress(OSError):
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    space = f"{host} {machine}"
    with suppress(OSError):
        space = f"{machine} {os.readlink('/proc/self/ns/pid')}"
    return {"host": host, "machine": machine, "space": space, "pid": os.getpid()}


def _read_owner(content: bytes) -> dict[str, str | int]:
    """What a claim file says; empty where there are no links and its owner was killed before it wrote it."""
    with suppress(ValueError):
        owner = json.loads(content)
        return owner if isinstance(owner, dict) else {}
    return {}


def _is_running(pid: object) -> bool:
    if not isinstance(pid, int):
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _beat(path: Path, released: threading.Event) -> None:
    while not released.wait(BEAT):
        with suppress(OSError):
            os.utime(path)
