"""The remembered size of batches of answers."""

import pytest

from datamodules.language.cache.batch_limit import BatchLimit, read_limit, write_limit
from datamodules.language.cache.entry import CacheEntry


def test_each_kind_of_gpu_has_its_own_and_the_entry_its_key(tmp_path):
    entry = CacheEntry(tmp_path, "answers", {"a": 1}, 1)
    before = {path.name: path.read_bytes() for path in entry.folder.glob("*.json")}
    assert read_limit(entry.folder, "NVIDIA H200") is None
    for limit in (BatchLimit(1000, True), BatchLimit(500, False)):
        write_limit(entry.folder, "NVIDIA H200", limit)
        assert read_limit(entry.folder, "NVIDIA H200") == limit
    assert read_limit(entry.folder, "NVIDIA H100 80GB HBM3/PCIe") is None
    assert {path.name: path.read_bytes() for path in entry.folder.glob("*.json")} == before
    assert CacheEntry(tmp_path, "answers", {"a": 1}, 1).folder == entry.folder


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff", b"{}", b'{"most": 0, "grows": true}', b'{"most": 2.5, "grows": true}',
                b'{"most": 2, "grows": 1}', b'{"most": true, "grows": true}']
)  # fmt: skip
def test_what_cannot_be_read_counts_for_nothing(tmp_path, content):
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local" / "batch-gpu.json").write_bytes(content)
    assert read_limit(tmp_path, "gpu") is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / ".local").write_text("a file where the folder should be")
    write_limit(tmp_path, "gpu", BatchLimit(2, True))
    assert read_limit(tmp_path, "gpu") is None
