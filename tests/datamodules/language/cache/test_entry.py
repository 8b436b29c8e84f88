import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from datamodules.language.cache import checksums
from datamodules.language.cache import entry as cache
from datamodules.language.cache.entry import CacheEntry
from tests.support.places import ROOT


def entry(root, n_shards=4, **content):
    return CacheEntry(root, "answers", {"stage": "test", **content}, n_shards)


def make(shard):
    return {f"layer=00/shard-{shard:05d}.bin": bytes([shard]) * 100, f"shard-{shard:05d}.txt": b"x"}


def build(cache_entry, maker=make):
    cache_entry.build(lambda shard, check: {cache_entry: maker(shard)}, skip=lambda shard: None)


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".local" not in path.parts
    }


def test_a_checked_shard_is_not_read_again(tmp_path, monkeypatch):
    built = entry(tmp_path)
    build(built)
    built.check_files(1)
    monkeypatch.setattr(checksums, "find_difference", lambda *_: pytest.fail("was read again"))
    assert len(entry(tmp_path).check_files(1)) == 2


def test_what_was_built_is_found_again_and_not_built_twice(tmp_path):
    first, calls = entry(tmp_path), []
    assert first.list_missing() == [0, 1, 2, 3]
    build(first, lambda shard: calls.append(shard) or make(shard))
    again = entry(tmp_path)
    assert again.list_missing() == []
    build(again, lambda shard: calls.append(shard) or make(shard))
    assert calls == [0, 1, 2, 3]
    files = again.check_files(2)
    assert {name: path.read_bytes() for name, path in files.items()} == make(2)
    assert json.loads((again.folder / "manifest.json").read_text())["stage"] == "test"


def test_other_content_is_another_entry(tmp_path):
    assert entry(tmp_path, model="a").folder != entry(tmp_path, model="b").folder
    assert entry(tmp_path, a=1, b=2).folder == entry(tmp_path, b=2, a=1).folder


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"\1" * 40), "is truncated or overlong: expected 100 bytes, got 40"),
        (lambda path: path.write_bytes(b"\2" * 100), "is altered: expected sha256"),
    ],
)
def test_a_harmed_shard_is_named_with_its_mend(tmp_path, harm, text):
    built = entry(tmp_path)
    build(built)
    path = built.folder / "layer=00" / "shard-00001.bin"
    harm(path)
    with pytest.raises(ValueError, match=text) as error:
        entry(tmp_path).check_files(1)
    assert str(path) in str(error.value)
    mend = str(error.value).split("rebuild it with: ")[1].split(" and the same run")[0]
    subprocess.run(mend, shell=True, check=True)
    build(entry(tmp_path))
    assert entry(tmp_path).check_files(1)["layer=00/shard-00001.bin"].read_bytes() == b"\1" * 100


def test_a_touched_but_equal_shard_is_accepted(tmp_path):
    built = entry(tmp_path)
    build(built)
    os.utime(built.folder / "layer=00" / "shard-00001.bin", (1, 1))
    assert len(entry(tmp_path).check_files(1)) == 2


def test_an_error_in_a_stage_leaves_nothing_half_written(tmp_path):
    def fails(shard):
        if shard == 2:
            raise ValueError("no such number")
        return make(shard)

    started = entry(tmp_path)
    with pytest.raises(ValueError, match="no such number"):
        build(started, fails)
    assert entry(tmp_path).list_missing() == [2, 3]
    assert not list(started.folder.rglob("*.tmp"))


def test_a_disk_that_fills_up_leaves_whole_shards_only(tmp_path, monkeypatch):
    started, write = entry(tmp_path), CacheEntry.write

    def full(self, name, content):
        if name == "shard-00001.txt":
            raise OSError(28, "No space left on device")
        return write(self, name, content)

    monkeypatch.setattr(CacheEntry, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        build(started)
    assert entry(tmp_path).list_missing() == [1, 2, 3]
    assert [path.name for path in started.folder.rglob("*00001*") if ".local" not in path.parts] == []


def test_a_write_that_fails_says_where_and_what_to_do(tmp_path, monkeypatch):
    started = entry(tmp_path)
    monkeypatch.setattr(cache.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(
        OSError, match=r"expected room for 0.0 MB at .*00000.bin \(No space left on device\); free some"
    ):
        build(started)
    monkeypatch.undo()
    assert entry(tmp_path).list_missing() == [0, 1, 2, 3]
    assert not list(started.folder.rglob("*.tmp"))


@pytest.mark.parametrize("content", ["", "[]", '{"a": {}}', '{"a": 3}'])
def test_an_altered_record_is_named_with_its_mend(tmp_path, content):
    built = entry(tmp_path)
    build(built)
    record = built.folder / "shard-00002.json"
    record.write_text(content)
    with pytest.raises(ValueError, match=rf"record {record} is altered; rebuild its shard with: rm '{record}'"):
        entry(tmp_path).check_files(2)


def test_a_disk_that_cannot_hold_it_is_refused_before_the_start(tmp_path):
    with pytest.raises(
        OSError, match=r"expected 4,000,000,000,000,000\.0 MB of free space for .*, got .* MB; free some"
    ):
        entry(tmp_path).require_room(4 * 10**21)
    assert entry(tmp_path).list_missing() == [0, 1, 2, 3]


def test_a_root_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cache.root: expected a folder that can be written, got .*file"):
        entry(tmp_path / "file")


def test_shards_claimed_by_another_process_are_left_to_it(tmp_path):
    shared, made, elsewhere = entry(tmp_path), [], []
    with (shared.folder / ".local" / "shard-00000.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def other_finishes_the_first(shard):
            made.append(shard)
            if shard == 3:  # while this process makes its last shard
                shared._finish(0, make(0))
                fcntl.flock(lock, fcntl.LOCK_UN)
            return make(shard)

        shared.build(lambda shard, check: {shared: other_finishes_the_first(shard)}, elsewhere.append)
    assert made == [1, 2, 3]
    assert elsewhere == [0]
    assert shared.list_missing() == []


def test_a_shard_that_another_process_finished_meanwhile_is_not_made_again(tmp_path):
    shared, made, elsewhere = entry(tmp_path), [], []

    def other_is_faster(shard):
        made.append(shard)
        if shard == 0:
            entry(tmp_path).offer(2, {"shard-00002.txt": b"theirs"}, wait=True)
        return make(shard)

    shared.build(lambda shard, check: {shared: other_is_faster(shard)}, elsewhere.append)
    assert (made, elsewhere) == ([0, 1, 3], [2])
    shared.offer(2, make(2), wait=True)
    assert [path.read_bytes() for path in shared.check_files(2).values()] == [b"theirs"]


def test_a_half_written_file_of_a_killed_process_is_swept_away(tmp_path):
    folder = entry(tmp_path).folder
    (folder / "manifest.json").rename(folder / ".manifest.json.abc.tmp")
    (folder / ".index.parquet.abc.tmp").write_bytes(b"half")
    again = entry(tmp_path)
    again.write_once("index.parquet", b"whole")
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "index.parquet", ".local"}
    assert (folder / "index.parquet").read_bytes() == b"whole"


@pytest.mark.parametrize("content", ["{}", '{"a": 5}', '{"a": {"bytes": 1, "sha256": 5}}', "[]", "no"])
def test_a_record_that_names_no_files_is_altered(tmp_path, content):
    built = entry(tmp_path)
    build(built)
    (built.folder / "shard-00001.json").write_text(content)
    with pytest.raises(ValueError, match=r"record .*shard-00001.json is altered; rebuild its shard with: rm "):
        built.check_files(1)


WORKER = """
import sys, time
from datamodules.language.cache.entry import CacheEntry
from tests.support.places import ROOT
entry = CacheEntry(sys.argv[1], "answers", {}, 12)
def make(shard, check):
    time.sleep(0.05)
    return {entry: {f"layer=00/shard-{shard:05d}.bin": bytes([shard]) * 100_000}}
entry.build(make, lambda shard: None)
"""


def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(tmp_path):
    def start(root):
        return subprocess.Popen([sys.executable, "-c", WORKER, str(root)], cwd=ROOT)

    assert start(tmp_path / "alone").wait() == 0
    for kill in range(6):
        worker = start(tmp_path / "killed")
        started = time.monotonic()
        while not list((tmp_path / "killed").rglob("layer=00/.*")) and worker.poll() is None:
            assert time.monotonic() - started < 60
        time.sleep(0.001 * kill)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    pair = [start(tmp_path / "killed") for _ in range(2)]
    assert [worker.wait() for worker in pair] == [0, 0]
    assert tree(tmp_path / "killed") == tree(tmp_path / "alone")
    assert len(list((tmp_path / "alone").rglob("*.bin"))) == 12


def test_a_manifest_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    manifest = entry(tmp_path).folder / "manifest.json"
    written = json.loads(manifest.read_text()) | {"cache": cache.VERSION + 1}
    manifest.write_text(json.dumps(written))
    newer = rf"expected .* of version {cache.VERSION} or older, got version .*; update this"
    with pytest.raises(ValueError, match=newer):
        entry(tmp_path)
    assert json.loads(manifest.read_text()) == written


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cache": "one"}', "\ufeff\ud7ff"])
def test_an_altered_manifest_is_named_with_its_mend(tmp_path, content):
    built = entry(tmp_path)
    build(built)
    (built.folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=f"expected a manifest, got {built.folder}/manifest.json altered") as error:
        entry(tmp_path)
    subprocess.run(str(error.value).split("rebuild it with: ")[1].split(" and the same run")[0], shell=True, check=True)
    assert entry(tmp_path).list_missing() == []


def test_what_a_manifest_says_for_people_is_not_part_of_the_key(tmp_path):
    first = CacheEntry(tmp_path, "answers", {"stage": "test"}, 1, {"model": "a"})
    assert json.loads((first.folder / "manifest.json").read_text())["about"] == {"model": "a"}
    assert CacheEntry(tmp_path, "answers", {"stage": "test"}, 1, {"model": "b"}).folder == first.folder


def test_a_damaged_seal_costs_a_check_and_no_more(tmp_path):
    built = entry(tmp_path)
    build(built)
    built.check_files(1)
    (built.folder / ".local" / "shard-00001.seal").write_bytes(b"\xff")
    assert len(built.check_files(1)) == 2
