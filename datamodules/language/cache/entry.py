"""Content-addressed, crash-safe store of the results of the language-model stages.

An entry is a folder named by the hash of everything its content depends on. Its content comes in shards; a shard is
finished once its record, which lists its files with size and checksum, exists next to them. Files are written under a
temporary name, synced and renamed, so a file with its final name is complete. Any number of processes build one entry
together: each shard is claimed by a file lock, which the system releases when its holder ends.

The bytes of an entry do not depend on the process that built it, except in its folder `.local`, which has the locks and
the time at which each shard was last checked.
"""

import fcntl
import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from datamodules.language.cache.checksums import find_difference, read_times
from datamodules.stream.whole_file import replace_whole

VERSION = 1  # layout of an entry


class CacheEntry:
    """One folder `<root>/<kind>/<key>` of the cache.

    Args:
        root: cache folder, made if missing.
        kind: `answers` or `activations`.
        content: JSON-ready description of everything the content depends on; its hash is the key.
        n_shards: number of shards of the complete entry.
        about: further content of the manifest, for people; not part of the key.
        contains: further content of the manifest, for runs that search for an entry with more than they want; not
            part of the key.

    Raises:
        OSError: the folder cannot be created or written.
        ValueError: a newer version wrote it.
    """

    def __init__(
        self,
        root: str | Path,
        kind: str,
        content: dict[str, Any],
        n_shards: int,
        about: dict[str, Any] | None = None,
        contains: dict[str, Any] | None = None,
    ) -> None:
        self.key = compute_key(content)
        self.folder = Path(root).expanduser().absolute() / kind / self.key
        self.n_shards = n_shards
        with _explain_error(f"a folder that can be written, got {root}"):
            (self.folder / ".local").mkdir(parents=True, exist_ok=True)
        manifest = {"cache": VERSION, "about": about or {}, "shards": n_shards, **content}
        if contains:
            manifest["contains"] = contains
        if not (self.folder / "manifest.json").exists():
            self.write_once("manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode())
        self._check_version()
        with suppress(OSError):  # a cache that others own can be read all the same
            (self.folder / ".local" / "used").touch()
            in_use = os.open(self.folder / ".local" / "used", os.O_RDONLY)
            weakref.finalize(self, os.close, in_use)
            fcntl.flock(in_use, fcntl.LOCK_SH)  # in use while this object exists: not removed

    def list_missing(self) -> list[int]:
        """Shards without a record."""
        return find_missing(self.folder, self.n_shards)

    def require_room(self, needed: int) -> None:
        """Compare an estimate of the missing bytes with the free disk space.

        Raises:
            OSError: the disk is too small.
        """
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                f"cache.root: expected {needed / 1e6:,.1f} MB of free space for {self.folder}, "
                f"got {free / 1e6:,.1f} MB; free some, or choose another cache.root"
            )

    def build(
        self,
        make: Callable[[int], dict[str, bytes]],
        skip: Callable[[int], Any],
        together: bool = False,
    ) -> None:
        """Make every missing shard, sharing the work with other processes that build the same entry.

        Args:
            make: gives the files of a shard, name to bytes. Its result must depend on the shard number alone.
            skip: called with each shard that another process made meanwhile.
            together: make every shard, as all processes that hold parts of one model must; one of them stores it.
        """
        missing = self.list_missing()
        if together:
            for shard in missing:
                self.offer(shard, make(shard), wait=True)
            return
        # First the shards that no process has claimed; then wait for the rest, in case their process ends.
        for wait in (False, True):
            held = []
            for shard in missing:
                with self._claim(f"shard-{shard:05d}", wait) as mine:
                    if not mine:
                        held.append(shard)
                    elif self._record(shard).exists():
                        skip(shard)
                    else:
                        self._finish(shard, make(shard))
            missing = held

    def offer(self, shard: int, files: dict[str, bytes], wait: bool) -> None:
        """Store a shard unless it exists or another process is storing it.

        If `wait` is true, the shard is stored on return, by this or another process.
        """
        with self._claim(f"shard-{shard:05d}", wait) as mine:
            if mine and not self._record(shard).exists():
                self._finish(shard, files)

    def check_files(self, shard: int) -> dict[str, Path]:
        """Return the paths of the files of a finished shard by name, after a check of each against its record.

        Raises:
            ValueError: a file is missing, truncated or altered; says how to rebuild it.
        """
        try:
            recorded = json.loads(self._record(shard).read_bytes())
            kinds = [(type(record["bytes"]), type(record["sha256"])) for record in recorded.values()]
            if set(kinds) != {(int, str)}:
                raise ValueError
        except (ValueError, AttributeError, TypeError, KeyError):
            raise ValueError(
                f"cache: record {self._record(shard)} is altered; rebuild its shard with: rm '{self._record(shard)}' "
                "and the same run again"
            ) from None
        paths = {name: self.folder / name for name in recorded}
        seal = self.folder / ".local" / f"shard-{shard:05d}.seal"
        sealed = seal.read_bytes() if seal.exists() else b""
        # A file with the size and time of change of its last check is not read again: a cache can be large.
        if not sealed or sealed != read_times(paths.values()):
            for name, path in paths.items():
                problem = find_difference(path, recorded[name])
                if problem:
                    raise ValueError(
                        f"cache: shard {path} {problem}; "
                        f"rebuild it with: rm '{self._record(shard)}' and the same run again"
                    )
            with suppress(OSError):  # a cache that others own can be read all the same
                seal.write_bytes(read_times(paths.values()))
        return paths

    def write_once(self, name: str, content: bytes) -> Path:
        """Write one file, unless it exists with this content."""
        path = self.folder / name
        if not (path.exists() and path.read_bytes() == content):
            with self._claim(name, wait=True):
                for leftover in path.parent.glob(f".{name}.*.tmp"):
                    leftover.unlink()  # of a process that was killed while it held this claim
                self.write(name, content)
        return path

    def write(self, name: str, content: bytes) -> Path:
        """Write one file so that it is complete or does not exist."""
        path = self.folder / name
        with _explain_error(f"room for {len(content) / 1e6:,.1f} MB at {path}"):
            replace_whole(path, content)
        return path

    def _check_version(self) -> None:
        path = self.folder / "manifest.json"
        try:
            version = int(json.loads(path.read_bytes())["cache"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"cache: expected a manifest, got {path} altered; rebuild it with: rm '{path}' and the same run again"
            ) from None
        if version > VERSION:
            raise ValueError(
                f"cache: expected {path} of version {VERSION} or older, got version {version}, written by a newer "
                "probegrid; update this one, or choose another cache.root"
            )

    def _record(self, shard: int) -> Path:
        return _name_record(self.folder, shard)

    def _finish(self, shard: int, files: dict[str, bytes]) -> None:
        for leftover in self.folder.glob(f"**/.*shard-{shard:05d}.*.tmp"):
            leftover.unlink()  # of a process that was killed while it held this claim
        written: list[Path] = []
        try:
            for name, content in files.items():
                written.append(self.write(name, content))
            record = {
                name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in files.items()
            }
            self.write(self._record(shard).name, json.dumps(record, indent=1).encode())
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise

    @contextmanager
    def _claim(self, name: str, wait: bool) -> Iterator[bool]:
        """Lock a shard or a file; yields whether the lock was acquired."""
        with ExitStack() as claim:
            with _explain_error(f"a folder that can be written, got {self.folder}"):
                lock = claim.enter_context((self.folder / ".local" / f"{name}.lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True  # closing the file drops the lock


def compute_key(content: dict[str, Any]) -> str:
    """Key of an entry: the hash of everything its content depends on.

    Example:
        >>> compute_key({"stage": "answers"})
        'c74bc78445208b6541cd'
    """
    described = json.dumps({"cache": VERSION, **content}, sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:20]


def find_missing(folder: Path, n_shards: int) -> list[int]:
    """List the shards without a record in the folder of an entry; all if there is no such folder.

    >>> find_missing(Path("no-such-folder"), n_shards=2)
    [0, 1]
    """
    return [shard for shard in range(n_shards) if not _name_record(folder, shard).exists()]


def _name_record(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.json"


@contextmanager
def _explain_error(expected: str) -> Iterator[None]:
    """Turn a system error about a file into one line that names the setting at fault."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cache.root: expected {expected} ({error.strerror or error}); free some space, or choose another"
        ) from error
