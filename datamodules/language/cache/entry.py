"""Content-addressed, crash-safe store of the results of the language-model stages.

An entry is a folder named by the hash of everything its content depends on. Its content comes in shards; a shard is
finished once its record, which names its files with size and checksum, stands beside them. Files are written under a
temporary name, synced and renamed, so whatever has its final name is whole. Any number of processes, on any number of
machines, build one entry together: each shard is claimed, as `claim.py` says, until its record is written.

An entry's bytes are the same whoever built it, but for its folder `.local`: claims, and the times of each shard's files
when they were written or last held against their checksums.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.language.cache.checksums import check_files, write_seal
from datamodules.language.cache.claim import POLL, Claim
from datamodules.language.cache.shard_writer import ShardWriter
from datamodules.stream.whole_file import replace_whole

VERSION = 1  # layout of an entry
THREADS = 4  # that hash and write the files of a shard

Content = bytes | memoryview
Files = Mapping[str, Content]  # of a shard, by name


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
        make: Callable[[int, Callable[[], None]], "Mapping[CacheEntry, Files]"],
        skip: Callable[[int], Any],
        together: bool = False,
    ) -> None:
        """Make every missing shard, sharing the work with other processes that build the same entry.

        A shard is stored while the next one is made; on return, and after an error, none is half stored.

        Args:
            make: gives the files of a shard for each entry that lacks it, this one among them. They must depend on the
                shard number alone. Its second argument, called now and then, raises what storing another shard raised.
            skip: called with each shard that another process made meanwhile.
            together: make every shard, as all processes that hold parts of one model must; one of them stores it.

        Raises:
            OSError: a shard cannot be stored.
        """
        missing = self.list_missing()
        with ExitStack() as claims, ShardWriter() as writer:  # an error lets go of claims once the writer has stopped
            if together:
                for shard in missing:
                    writer.submit(partial(_offer_all, shard, make(shard, writer.check)))
                return
            held = [(shard, self._get_claim(shard)) for shard in missing]
            for _, claim in held:
                claims.callback(claim.release)
            # First whatever nobody else holds; then wait for the rest, in case its holder dies.
            while held:
                left = []
                for shard, claim in held:
                    if name_record(self.folder, shard).exists():
                        skip(shard)
                    elif not self._take(claim):
                        left.append((shard, claim))
                    elif name_record(self.folder, shard).exists():
                        claim.release()
                        skip(shard)
                    else:
                        writer.submit(partial(self._store, shard, make(shard, writer.check), claim))
                held = left
                if held:
                    writer.flush()
                    time.sleep(POLL)

    def offer(self, shard: int, files: Files, wait: bool) -> None:
        """Store a shard that others may have made too, unless it is there; one that another process makes is its own.

        If `wait` is true, the shard is stored on return, by this or another process.
        """
        claim = self._get_claim(shard)
        while not name_record(self.folder, shard).exists():
            if self._take(claim):
                try:
                    if not name_record(self.folder, shard).exists():
                        self._finish(shard, files, claim)
                finally:
                    claim.release()
            elif wait:
                time.sleep(POLL)
            else:
                return

    def check_files(self, shard: int) -> dict[str, Path]:
        """Return the paths of the files of a finished shard by name, after a check of each against its record.

        Raises:
            ValueError: a file is missing, truncated or altered; says how to rebuild it.
        """
        return check_files(name_record(self.folder, shard), self._get_seal(shard))

    def write_once(self, name: str, content: bytes) -> Path:
        """Write one file, unless it is there with this content."""
        path, claim = self.folder / name, Claim(self.folder / ".local", name)
        while not (path.exists() and path.read_bytes() == content):
            if not self._take(claim):
                time.sleep(POLL)
                continue
            try:
                for leftover in path.parent.glob(f".{name}.*.tmp"):
                    leftover.unlink()  # of a process that was killed while it held this claim
                self.write(name, content)
            finally:
                claim.release()
        return path

    def write(self, name: str, content: Content) -> os.stat_result:
        """Write one file so that it is there whole or not at all; returns its size and times."""
        path = self.folder / name
        with _explain_error(f"room for {len(content) / 1e6:,.1f} MB at {path}"):
            return replace_whole(path, content)

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

    def _get_claim(self, shard: int) -> Claim:
        return Claim(self.folder / ".local", f"shard-{shard:05d}")

    def _take(self, claim: Claim) -> bool:
        with _explain_error(f"a folder that can be written, got {self.folder}"):
            return claim.take()

    def _store(self, shard: int, made: "Mapping[CacheEntry, Files]", claim: Claim) -> None:
        """Store a shard that is claimed here, and offer what was made of it for other entries."""
        try:
            for entry, files in made.items():
                if entry is not self:
                    entry.offer(shard, files, wait=False)
            self._finish(shard, made[self], claim)
        finally:
            claim.release()

    def _finish(self, shard: int, files: Files, claim: Claim | None = None) -> None:
        for leftover in self.folder.glob(f"**/.*shard-{shard:05d}.*.tmp"):
            leftover.unlink()  # of a process that was killed while it held this claim

        def store(name: str) -> tuple[dict[str, int | str], os.stat_result]:
            self._require(claim)
            content = files[name]
            digest = hashlib.sha256(content).hexdigest()
            return {"bytes": len(content), "sha256": digest}, self.write(name, content)

        try:
            with ThreadPoolExecutor(THREADS) as pool:  # hashing and writing let other threads run
                stored = dict(zip(files, pool.map(store, files), strict=True))
            # What was just written need not be read again. Whoever finds the record finds the seal, so it comes first.
            write_seal(self._get_seal(shard), [stat for _, stat in stored.values()])
            record = {name: described for name, (described, _) in stored.items()}
            self._require(claim)
            self.write(name_record(self.folder, shard).name, json.dumps(record, indent=1).encode())
        except BaseException:
            if claim is None or claim.held():
                for name in files:
                    (self.folder / name).unlink(missing_ok=True)
            raise

    def _require(self, claim: Claim | None) -> None:
        if claim is not None and not claim.held():
            raise OSError(
                f"cache.root: expected a claim that lasts, got {claim.name} of {self.folder} taken over by another "
                "machine, as this process had stopped; the same run again goes on where it stands"
            )

    def _get_seal(self, shard: int) -> Path:
        return self.folder / ".local" / f"shard-{shard:05d}.seal"


def _offer_all(shard: int, made: Mapping[CacheEntry, Files]) -> None:
    for entry, files in made.items():
        entry.offer(shard, files, wait=True)


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
    return [shard for shard in range(n_shards) if not name_record(folder, shard).exists()]


def name_record(folder: Path, shard: int) -> Path:
    """Path of the record of one shard in the folder of an entry.

    >>> name_record(Path("entry"), 1).name
    'shard-00001.json'
    """
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
