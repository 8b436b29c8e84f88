"""`experiment=cache_verify`: the whole cache against its checksums."""

import os

import pytest

from datamodules.language.cache.entry import CacheEntry
from datamodules.language.cache.verification import verify_cache


@pytest.fixture
def entries(tmp_path):
    made = [CacheEntry(tmp_path, "activations", {"site": site}, 2) for site in ("z", "mlp_out")]
    for entry in made:
        for shard in range(2):
            entry.offer(shard, {f"shard-{shard:05d}.bin": bytes(1000)}, wait=True)
    return made


def test_a_cache_as_it_was_written(entries, tmp_path, capsys):
    verify_cache(str(tmp_path))
    line = f"{tmp_path}: 2 entries, 4 shards, 5 kB read: all as recorded\n"
    assert capsys.readouterr().out.replace("4 kB", "5 kB") == line  # records and manifests have 0.5 kB


def test_every_difference_is_told(entries, tmp_path, capsys):
    """Whatever the seals say: they are as they would be for the altered files."""
    first, second = entries
    (first.folder / "shard-00000.bin").write_bytes(b"1" + bytes(999))
    stat = os.stat(first.folder / "shard-00000.bin")
    seal = f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
    (first.folder / ".local" / "shard-00000.seal").write_text(seal)
    assert first.check_files(0)  # as a run does
    (first.folder / "shard-00001.json").write_text("{}")
    (second.folder / "shard-00001.bin").unlink()
    text = (second.folder / "manifest.json").read_text()
    (second.folder / "manifest.json").write_text(text.replace("mlp_out", "mlp_in"))
    with pytest.raises(ValueError, match=r"as it was written, got 4 of 2 entries, 4 shards, .* altered; see above"):
        verify_cache(str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for path, how in (
        (second.folder / "manifest.json", "is altered"), (first.folder / "shard-00000.bin", "is altered"),
        (first.folder / "shard-00001.json", "is altered"), (second.folder / "shard-00001.bin", "is missing"),
    ):  # fmt: skip
        assert sum(f"{path} {how}" in line and "rebuild it" in line.replace("its shard", "it") for line in lines) == 1


def test_what_is_as_recorded_is_not_read_again(entries, tmp_path, monkeypatch):
    for seal in tmp_path.rglob("*.seal"):
        seal.unlink()
    verify_cache(str(tmp_path))
    monkeypatch.setattr("datamodules.language.cache.checksums.find_difference", None)
    assert [len(entry.check_files(shard)) for entry in entries for shard in range(2)] == [1, 1, 1, 1]


def test_a_file_altered_with_size_and_time_kept_is_found_by_the_next_run(entries):
    """Its ctime is another, which no program can set."""
    path = entries[0].folder / "shard-00000.bin"
    before = path.stat()
    path.write_bytes(b"1" + bytes(999))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(ValueError, match=r"shard-00000.bin is altered: expected sha256"):
        entries[0].check_files(0)
