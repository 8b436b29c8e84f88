import hashlib
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from datamodules.language import digests
from datamodules.language.digests import digest_files

MIB = 2**20


@pytest.fixture(autouse=True)
def _settled(monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)


@pytest.fixture
def weights(tmp_path):
    """A file of 68 MB that holds five tensors."""
    path = tmp_path / "model.safetensors"
    save_file({f"layer.{i}": torch.arange(i, i + 3_400_000, dtype=torch.float32) for i in range(5)}, path)
    assert path.stat().st_size > 64 * MIB
    return path


def digest(path, memory=None):
    return digest_files([path], memory)[path]


def no_reading(monkeypatch):
    def refuse(*_):
        raise AssertionError("read")

    monkeypatch.setattr(digests, "_hash", refuse)


def records(memory):
    return sorted(memory.iterdir())


def test_digests_are_those_of_the_content(tmp_path):
    contents = {"empty": b"", "small": b"abc", "large": bytes(range(256)) * 2**15}
    paths = [tmp_path / name for name in contents]
    for path in paths:
        path.write_bytes(contents[path.name])
    expected = {tmp_path / name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    for memory in (None, tmp_path / "memory", tmp_path / "memory"):
        assert digest_files(paths, memory) == expected
    assert digest_files([], None) == {}


@pytest.mark.parametrize("tensor", [0, 2, 4])
def test_a_tensor_changed_in_place_is_noticed(weights, tmp_path, tensor):
    memory = tmp_path / "memory"
    before, stat = digest(weights, memory), weights.stat()
    with weights.open("r+b") as file:
        file.seek(stat.st_size * (2 * tensor + 1) // 10)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = digest(weights, memory)
    assert after != before
    assert after == digest(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert len(records(memory)) == 1


def test_weights_copied_over_others_with_their_time_are_noticed(weights, tmp_path):
    memory, other = tmp_path / "memory", tmp_path / "other.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    other.write_bytes(content)
    stat = weights.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    before = digest(weights, memory)
    subprocess.run(["cp", "-p", other, weights], check=True)
    assert weights.stat().st_mtime_ns == stat.st_mtime_ns
    assert digest(weights, memory) == digest(other) != before
    # The same by a rename, as rsync does it.
    back = tmp_path / "back"
    shutil.copy2(other, back)
    os.replace(back, weights)
    assert digest(weights, memory) == digest(other)


def test_a_copy_elsewhere_has_the_same_digest(weights, tmp_path):
    memory, copy, link = tmp_path / "memory", tmp_path / "copy", tmp_path / "link"
    subprocess.run(["cp", "-p", weights, copy], check=True)
    link.symlink_to(weights)
    later = shutil.copyfile(weights, tmp_path / "later")
    os.utime(later, (1, 1))
    assert len(set(digest_files([weights, copy, link, later], memory).values())) == 1
    assert len(records(memory)) == 4


def test_a_link_to_other_weights_is_noticed(weights, tmp_path):
    memory, other, link = tmp_path / "memory", tmp_path / "other", tmp_path / "link"
    other.write_bytes(bytes(5 * MIB))
    link.symlink_to(weights)
    before = digest(link, memory)
    link.unlink()
    link.symlink_to(other)
    assert digest(link, memory) == digest(other) != before


def test_a_second_look_reads_nothing(weights, tmp_path, monkeypatch):
    memory, small = tmp_path / "memory", tmp_path / "small"
    small.write_bytes(b"small")
    before = digest_files([weights, small], memory)
    assert len(records(memory)) == 1  # small files are not remembered
    original = digests._hash
    monkeypatch.setattr(digests, "_hash", lambda path: original(path) if path == small else pytest.fail("read"))
    assert digest_files([weights, small], memory) == before
    monkeypatch.chdir(tmp_path)
    assert digest(Path(weights.name), memory) == before[weights]


def test_nothing_is_remembered_without_a_memory(weights, monkeypatch):
    digest(weights)
    no_reading(monkeypatch)
    with pytest.raises(AssertionError, match="read"):
        digest(weights)


def test_a_file_that_has_just_changed_is_not_remembered(weights, tmp_path, monkeypatch):
    memory = tmp_path / "memory"
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 3600.0)
    digest(weights, memory)
    assert not memory.exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(weights, tmp_path, monkeypatch):
    memory, original = tmp_path / "memory", digests._hash

    def meanwhile(path):
        result = original(path)
        with path.open("r+b") as file:
            file.write(b"x")
        return result

    monkeypatch.setattr(digests, "_hash", meanwhile)
    digest(weights, memory)
    assert not memory.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"sha256": 3}', "cut", "no digest", "digest cut"],
)
def test_a_corrupt_memory_is_only_slower(weights, tmp_path, content, monkeypatch):
    memory = tmp_path / "memory"
    before = digest(weights, memory)
    (record,) = records(memory)
    told = json.loads(record.read_bytes())
    content = {
        "cut": record.read_bytes()[:-9],
        "no digest": json.dumps({key: value for key, value in told.items() if key != "sha256"}).encode(),
        "digest cut": json.dumps(told | {"sha256": told["sha256"][:-1]}).encode(),
    }.get(content, content)
    record.write_bytes(content)  # type: ignore[arg-type]
    assert digest(weights, memory) == before
    assert json.loads(record.read_bytes()) == told


def test_a_memory_that_cannot_be_written_is_only_slower(weights, tmp_path, monkeypatch):
    before, taken = digest(weights), tmp_path / "taken"
    taken.write_bytes(b"")  # a file where the folder should be, which stops even root
    assert digest(weights, taken) == before
    assert digest(weights, taken / "deeper") == before
    full = tmp_path / "full"

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datamodules.stream.whole_file.os.fsync", no_room)
    assert digest(weights, full) == before
    assert records(full) == []


def test_many_at_once_agree(weights, tmp_path):
    memory = tmp_path / "memory"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: digest(weights, memory), range(8)))
    assert set(found) == {hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert [path.suffix for path in records(memory)] == [".json"]


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        digest_files([tmp_path / "none"], tmp_path / "memory")
