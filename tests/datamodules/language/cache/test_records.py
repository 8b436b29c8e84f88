"""Records of shards that do not hold what an entry promises."""

import json

import pytest

from datamodules.language.cache.cached_activations import open_activations
from datamodules.language.cache.entry import CacheEntry


def test_a_record_that_lacks_a_layer_is_named(tmp_path):
    """Its files would be fewer than those of the other layers, and the stream would find no reason."""
    entry = CacheEntry(tmp_path, "activations", {"site": "z"}, 2)
    for shard in range(2):
        name = f"shard-{shard:05d}.safetensors"
        entry.offer(shard, {f"layer=00/{name}": b"a", f"layer=01/{name}": b"b"}, wait=True)
    assert [len(files) for files in open_activations(entry, [0, 1], [0], 1, 2).files] == [2, 2]
    record = entry.folder / "shard-00001.json"
    held = json.loads(record.read_text())
    del held["layer=01/shard-00001.safetensors"]
    record.write_text(json.dumps(held))
    with pytest.raises(
        ValueError, match=rf"{record} is altered: expected one file of layer 1, got 0; rebuild its shard"
    ):
        open_activations(entry, [0, 1], [0], 1, 2)
