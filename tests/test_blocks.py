import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from datamodules.blocks import CellBlocks

L, T, N, D = 3, 5, 20, 8


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    acts = torch.randn(L, T, N, D, generator=torch.Generator().manual_seed(0)).bfloat16()
    shards = []
    for layer in range(L):
        paths = [folder / f"{layer}-{k}.safetensors" for k in range(3)]
        for k, path in enumerate(paths):
            save_file({"h": acts[layer, :, k * 8 : (k + 1) * 8].contiguous()}, path)
        shards.append(paths)
    return acts, shards


def blocks(stored, block_bytes, rank=0, world_size=1):
    labels, valid = torch.arange(N) % 2, torch.arange(N * T).view(N, T) % 3 > 0
    rows = np.array([0, 3, 7, 8, 15, 19])
    return CellBlocks(stored[1], rows, labels, valid, block_bytes, rank, world_size), rows, labels, valid


@pytest.mark.parametrize("cells_per_block", [1, 4, 100])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_cell_once_with_the_rows_of_the_split(stored, cells_per_block, world_size):
    seen = []
    for rank in range(world_size):
        stream, rows, labels, valid = blocks(stored, cells_per_block * 6 * D * 2, rank, world_size)
        yielded = list(stream)
        assert len(yielded) == len(stream)
        for block in yielded:
            assert 1 <= len(block["cells"]) <= cells_per_block
            for i, cell in enumerate(block["cells"].tolist()):
                layer, position = divmod(cell, T)
                assert torch.equal(block["acts"][i], stored[0][layer, position, rows])
                assert torch.equal(block["valid"][i], valid[rows, position])
            assert torch.equal(block["labels"], labels[rows])
            assert block["acts"].dtype == torch.bfloat16
            seen += block["cells"].tolist()
    assert sorted(seen) == list(range(L * T))


def test_one_cell_fits_however_small_the_budget(stored):
    assert len(blocks(stored, 1)[0]) == L * T


def test_more_ranks_than_cells_are_refused(stored):
    with pytest.raises(ValueError, match="expected at most one for each of the 15 cells, got 16"):
        blocks(stored, 1, rank=0, world_size=16)


def test_width(stored):
    assert CellBlocks.width(stored[1]) == D
