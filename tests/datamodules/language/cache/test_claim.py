"""Claims on file systems with locks, without them, and with locks that count on one machine only."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from datamodules.language.cache import checksums, claim
from datamodules.language.cache.claim import Claim
from datamodules.language.cache.entry import CacheEntry
from tests.support.places import ROOT

SHARDS = 12


@pytest.fixture
def machines(monkeypatch):
    """Each thread is a machine of its own."""
    own = claim.identify_owner

    def identify():
        name = threading.current_thread().name
        return own() | {"host": name, "machine": name, "space": name}

    monkeypatch.setattr(claim, "identify_owner", identify)


def have_no_locks(monkeypatch, number=errno.ENOLCK):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def have_local_locks(monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


def build_in_threads(root, n=2):
    """Build one entry in threads that write different bytes; returns which thread made each shard."""
    made, failures, all_at_work = [], [], threading.Barrier(n, timeout=60)

    def build():
        name = threading.current_thread().name
        entry = CacheEntry(root, "answers", {}, SHARDS)

        def make(shard, check):
            if name not in dict(made).values():
                all_at_work.wait()
            made.append((shard, name))
            return {entry: {f"{part}/shard-{shard:05d}.bin": f"{name} {shard}".encode() * 9 for part in "ab"}}

        try:
            entry.build(make, lambda shard: None)
            for shard in range(SHARDS):
                entry.check_files(shard)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=build, name=f"machine-{k}") for k in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)
    return made


def test_builders_with_locks_share_the_shards_and_read_none_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "find_difference", lambda *_: pytest.fail("was read"))
    made = build_in_threads(tmp_path)
    assert sorted(shard for shard, _ in made) == list(range(SHARDS))
    assert len({name for _, name in made}) == 2


def test_machines_whose_locks_are_their_own_make_each_shard_once(tmp_path, monkeypatch, machines):
    have_local_locks(monkeypatch)
    made = build_in_threads(tmp_path, 3)
    assert sorted(shard for shard, _ in made) == list(range(SHARDS))
    assert len({name for _, name in made}) == 3
    monkeypatch.setattr(checksums, "_read_times", lambda _: b"others")
    entry = CacheEntry(tmp_path, "answers", {}, SHARDS)
    for shard, name in made:  # files and records are of one machine
        contents = {path.read_bytes() for path in entry.check_files(shard).values()}
        assert contents == {f"{name} {shard}".encode() * 9}


@pytest.mark.parametrize("number", claim.NO_LOCKS)
def test_builders_without_locks_make_each_shard_once(tmp_path, monkeypatch, number):
    have_no_locks(monkeypatch, number)
    made = build_in_threads(tmp_path)
    assert sorted(shard for shard, _ in made) == list(range(SHARDS))


def test_another_failure_of_the_lock_is_one_line(tmp_path, monkeypatch):
    have_no_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=r"cache.root: expected a folder that can be written, got .* \(Input/output"):
        CacheEntry(tmp_path, "answers", {}, 1)


@pytest.mark.parametrize(
    ("module", "name", "failure"),
    [(os, "link", OSError(errno.ENOSPC, "no space")), (threading.Thread, "start", RuntimeError("no new thread"))],
)
def test_a_claim_that_fails_is_over_at_once(tmp_path, monkeypatch, module, name, failure):
    def fail(*_, **__):
        raise failure

    failing = Claim(tmp_path, "shard-00000")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(type(failure), match=str(failure.args[-1])):
            failing.take()
    again = Claim(tmp_path, "shard-00000")
    assert again.take()
    again.release()


def test_one_at_a_time_and_again_after_release(tmp_path):
    first, second = Claim(tmp_path, "shard-00000"), Claim(tmp_path, "shard-00000")
    assert first.take()
    assert not second.take()
    assert first.held()
    first.release()
    first.release()
    assert not first.held()
    assert second.take()
    second.release()
    assert first.take()
    first.release()


HOLDER = """
import errno, fcntl, os, sys, time
from pathlib import Path
if sys.argv[2] == "no locks":
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
from datamodules.language.cache.claim import Claim
claim = Claim(Path(sys.argv[1]), "shard-00000")
assert claim.take()
print("taken", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_a_process_killed_on_this_machine_loses_its_claim_at_once(tmp_path, monkeypatch, locks):
    monkeypatch.setattr(claim, "STALE", 1e9)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), locks], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "taken\n"
    if locks == "no locks":
        have_no_locks(monkeypatch)
    other = Claim(tmp_path, "shard-00000")
    assert not other.take()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert other.take()
    assert json.loads((tmp_path / "shard-00000.claim-1").read_text())["pid"] == os.getpid()
    other.release()


def claim_elsewhere(folder, changed):
    """A claim of another machine that was last touched at some time of its clock, in ns."""
    path = folder / "shard-00000.claim-0"
    path.write_text(json.dumps({"host": "far", "machine": "far", "space": "far", "pid": 1}))
    os.utime(path, ns=(changed, changed))
    return path


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, moved by hand."""
    now = [1000.0]
    monkeypatch.setattr(claim.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("skew", [-(10**6), 0, 10**6])  # seconds of its clock
@pytest.mark.parametrize("locks", [True, False])
def test_a_dead_machine_loses_its_claim_when_its_heart_has_stopped(tmp_path, monkeypatch, clock, skew, locks):
    if not locks:
        have_no_locks(monkeypatch)
    claim_elsewhere(tmp_path, time.time_ns() + skew * 10**9)
    mine = Claim(tmp_path, "shard-00000")
    assert not mine.take()
    clock[0] += claim.STALE
    assert not mine.take()
    clock[0] += 1
    assert mine.take()
    mine.release()


@pytest.mark.parametrize("skew", [-(10**6), 10**6])
def test_a_machine_whose_heart_beats_keeps_its_claim(tmp_path, clock, skew):
    changed = time.time_ns() + skew * 10**9
    path = claim_elsewhere(tmp_path, changed)
    mine = Claim(tmp_path, "shard-00000")
    for beat in range(100):
        assert not mine.take()
        clock[0] += claim.BEAT
        os.utime(path, ns=(changed, changed + beat * 5 * 10**9))


def test_a_held_claim_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "BEAT", 0.01)
    mine = Claim(tmp_path, "shard-00000")
    assert mine.take()
    path = tmp_path / "shard-00000.claim-0"
    os.utime(path, (1, 1))
    until = time.monotonic() + 60
    while path.stat().st_mtime == 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert path.stat().st_mtime > 1
    mine.release()
    assert path.stat().st_mtime == 0


def test_an_entry_waits_for_another_machine_and_takes_over_when_it_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "STALE", 0.5)
    entry = CacheEntry(tmp_path, "answers", {}, 3)
    path, stopped = claim_elsewhere(entry.folder / ".local", time.time_ns()), threading.Event()
    made, beats = [], []

    def beat():
        while len(made) < 2 or len(beats) < 20:
            os.utime(path)
            beats.append(len(made))
            time.sleep(0.1)
        stopped.set()

    def make(shard, check):
        made.append(shard)
        assert shard != 0 or stopped.is_set()
        return {entry: {f"shard-{shard:05d}.bin": b"x"}}

    thread = threading.Thread(target=beat)
    thread.start()
    entry.build(make, lambda shard: None)
    thread.join()
    assert made == [1, 2, 0]
    assert entry.list_missing() == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_claim_whose_owner_is_unknown_is_left_until_it_is_stale(tmp_path, clock, content):
    (tmp_path / "shard-00000.claim-0").write_bytes(content)
    mine = Claim(tmp_path, "shard-00000")
    assert not mine.take()
    clock[0] += claim.STALE + 1
    assert mine.take()
    mine.release()


def test_a_process_that_had_stopped_writes_nothing_over_its_successor(tmp_path, monkeypatch):
    entry = CacheEntry(tmp_path, "answers", {}, 1)
    local = entry.folder / ".local"

    def make(shard, check):
        # another machine takes over while this process is stopped, and finishes the shard
        (local / "shard-00000.claim-1").write_text("{}")
        entry._finish(0, {"shard-00000.bin": b"theirs"})
        return {entry: {"shard-00000.bin": b"mine"}}

    line = (
        rf"cache.root: expected a claim that lasts, got shard-00000 of {entry.folder} taken over .*; the same run again"
    )
    with pytest.raises(OSError, match=line):
        entry.build(make, lambda shard: None)
    assert [path.read_bytes() for path in entry.check_files(0).values()] == [b"theirs"]
