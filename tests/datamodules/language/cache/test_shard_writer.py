"""Shards that are stored while the next one is made."""

import threading

import pytest

from datamodules.language.cache import checksums
from datamodules.language.cache.entry import CacheEntry
from datamodules.language.cache.shard_writer import ShardWriter


@pytest.fixture
def entry(tmp_path):
    return CacheEntry(tmp_path, "answers", {}, 4)


def files(shard):
    return {f"shard-{shard:05d}.bin": bytes([shard]) * 50}


def watch_writes(monkeypatch, before):
    """Call `before` with the name of each file of a shard, in the thread that writes it."""
    write = CacheEntry.write

    def watched(self, name, content):
        before(name)
        return write(self, name, content)

    monkeypatch.setattr(CacheEntry, "write", watched)


def test_a_shard_is_stored_while_the_next_is_made_and_the_one_after_has_to_wait(entry, monkeypatch):
    begun = [threading.Event() for _ in range(5)]

    def before(name):
        shard = int(name.split("-")[1].split(".")[0])
        assert begun[min(shard + 1, 3)].wait(60)
        assert shard > 1 or not begun[shard + 2].is_set()

    def make(shard, check):
        begun[shard].set()
        return {entry: files(shard)}

    watch_writes(monkeypatch, before)
    entry.build(make, lambda shard: None)
    assert entry.list_missing() == []


def test_what_was_just_written_is_not_read_again(entry, tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "find_difference", lambda *_: pytest.fail("was read again"))
    entry.build(lambda shard, check: {entry: files(shard)}, lambda shard: None)
    for rank in (entry, CacheEntry(tmp_path, "answers", {}, 4)):
        for shard in range(4):
            ((name, path),) = rank.check_files(shard).items()
            assert {name: path.read_bytes()} == files(shard)


def test_what_was_changed_since_is_read_again(entry):
    entry.build(lambda shard, check: {entry: files(shard)}, lambda shard: None)
    (entry.folder / "shard-00001.bin").write_bytes(b"\2" * 50)
    with pytest.raises(ValueError, match="is altered"):
        entry.check_files(1)


def test_a_failure_of_the_disk_ends_the_shard_in_hand(entry, monkeypatch):
    failed, asked = threading.Event(), []

    def fill_up(name):
        if name == "shard-00000.json":
            failed.set()
            raise OSError("cache.root: expected room")

    def make(shard, check):
        assert shard < 2
        if shard == 1:
            assert failed.wait(60)
            for batch in range(10**6):
                asked.append(batch)
                check()
            pytest.fail("went on")
        return {entry: files(shard)}

    watch_writes(monkeypatch, fill_up)
    with pytest.raises(OSError, match=r"cache.root: expected room"):
        entry.build(make, lambda shard: None)
    assert entry.list_missing() == [0, 1, 2, 3]
    assert not list(entry.folder.glob("*.bin"))


def test_an_interrupted_run_keeps_the_shard_before_and_lets_go_of_its_claims(entry, tmp_path, monkeypatch):
    interrupted = threading.Event()

    def before(name):
        if "00001" in name:
            assert interrupted.wait(60)

    def make(shard, check):
        if shard == 2:
            interrupted.set()
            raise KeyboardInterrupt
        return {entry: files(shard)}

    watch_writes(monkeypatch, before)
    with pytest.raises(KeyboardInterrupt):
        entry.build(make, lambda shard: None)
    assert entry.list_missing() == [2, 3]
    again, made = CacheEntry(tmp_path, "answers", {}, 4), []
    again.build(lambda shard, check: made.append(shard) or {again: files(shard)}, lambda shard: None)
    assert made == [2, 3]
    assert again.list_missing() == []


@pytest.mark.parametrize("together", [False, True])
def test_what_is_made_for_several_entries_is_stored_in_each(tmp_path, together):
    first, second = (CacheEntry(tmp_path, "activations", {"site": site}, 3) for site in "ab")

    def make(shard, check):
        return {first: files(shard), second: {f"shard-{shard:05d}.bin": b"second"}}

    first.build(make, lambda shard: None, together)
    assert first.list_missing() == second.list_missing() == []
    assert [path.read_bytes() for path in first.check_files(2).values()] == list(files(2).values())
    assert [path.read_bytes() for path in second.check_files(2).values()] == [b"second"]


def test_processes_that_make_every_shard_together_store_each_once(tmp_path, monkeypatch):
    """As those do that hold parts of one model; one of them writes each shard, and all find it there."""
    stored, failures, meet = [], [], threading.Barrier(3, timeout=60)

    def build():
        entry = CacheEntry(tmp_path, "activations", {}, 4)

        def make(shard, check):
            meet.wait()  # the forward
            return {entry: files(shard)}

        try:
            entry.build(make, lambda shard: None, together=True)
            assert entry.list_missing() == []
        except BaseException as failure:
            failures.append(failure)

    watch_writes(monkeypatch, stored.append)
    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    names = [name for name in stored if name != "manifest.json"]
    assert sorted(names) == sorted([f"shard-{k:05d}.{end}" for k in range(4) for end in ("bin", "json")])


def test_the_last_failure_is_raised_on_leaving():
    def fail():
        raise OSError("full")

    with pytest.raises(OSError, match="full"), ShardWriter() as writer:
        writer.submit(fail)
