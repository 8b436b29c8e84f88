import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from datamodules.stream import blocks as blocks_module
from datamodules.stream.blocks import CellBlocks, ExampleBlocks, Examples
from datamodules.stream.byte_ranges import read_header
from datamodules.stream.memory import Budget
from datamodules.stream.read_ahead import _Reused, count_copies, count_readers
from datamodules.stream.store import Shards, TensorFile
from tests.support.places import ROOT

L, T, N, D = 3, 5, 20, 8
ROWS = np.array([0, 3, 7, 8, 15, 19])
CELL = len(ROWS) * D * 2  # bytes
ROW = L * T * D * 2


@pytest.fixture(scope="module")
def acts():
    return torch.randn(N, L, T, D, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.fixture(scope="module", params=["shards", "file"])
def store(request, acts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("acts")
    if request.param == "file":
        save_file({"acts": acts}, folder / "acts")
        return TensorFile(read_header(folder / "acts").get_tensor("acts", ""))
    shards = []
    for layer in range(L):
        shards.append([])
        for part in acts[:, layer].split(8):
            shards[-1].append(folder / f"{layer}-{len(shards[-1])}")
            save_file({"h": part.transpose(0, 1).contiguous()}, shards[-1][-1])
    return Shards(shards)


def examples(store, rows=ROWS, n_targets=1):
    """All rows are held by the first target; the second has other labels, and holds every second row."""
    labels = torch.stack([torch.arange(N) % 2, torch.arange(N) // 2 % 2])[:n_targets]
    held = torch.stack([torch.ones(N, dtype=torch.bool), torch.arange(N) % 4 < 2])[:n_targets]
    valid, groups = torch.arange(N * T).view(N, T) % 3 > 0, torch.arange(N) // 3
    return Examples(store, rows, labels[:, rows], held[:, rows], valid[rows], groups[rows])


def budget(store, block_bytes):
    """A budget for blocks of so many bytes."""
    cpu = torch.device("cpu")
    return Budget(block_bytes * count_copies(cpu) + store.scratch * count_readers(cpu))


@pytest.mark.parametrize("cells_per_block", [1, 4, 100])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_cell_once_with_the_rows_of_the_split(store, acts, cells_per_block, world_size):
    these, seen = examples(store), []
    for rank in range(world_size):
        stream = CellBlocks(these, budget(store, cells_per_block * CELL), rank, world_size)
        yielded = list(stream)
        assert len(yielded) == len(stream)
        for block in yielded:
            assert 1 <= len(block["cells"]) <= cells_per_block
            assert block["valid"].shape == (1, *block["acts"].shape[:2])
            for i, cell in enumerate(block["cells"].tolist()):
                layer, position = divmod(cell, T)
                assert torch.equal(block["valid"][0, i], these.valid[:, position])
                kept = these.valid[:, position]
                assert torch.equal(block["acts"][i][kept], acts[ROWS, layer, position][kept])
                assert not block["acts"][i][~kept].any()
            assert block["labels"].tolist() == [[0, 1, 1, 0, 1, 1]]
            assert block["held"].tolist() == [[True] * 6]
            assert block["examples"].tolist() == ROWS.tolist()
            assert block["groups"].tolist() == [0, 1, 2, 2, 5, 6]
            assert block["acts"].dtype == torch.bfloat16
            assert {block[name].dtype for name in ("labels", "cells", "groups", "examples")} == {torch.int64}
            assert {block[name].dtype for name in ("valid", "held")} == {torch.bool}
            assert list(block) == ["acts", "labels", "valid", "cells", "groups", "held", "examples"]
            seen += block["cells"].tolist()
    assert sorted(seen) == list(range(L * T))


def test_a_budget_is_used_in_full(store):
    assert [len(CellBlocks(examples(store), budget(store, n * CELL))) for n in (1, 4, 5, 15)] == [15, 4, 3, 1]
    assert len(CellBlocks(examples(store), budget(store, 5 * CELL - 1))) == 4


def test_one_cell_fits_however_small_the_budget(store, caplog):
    small = Budget(1)
    assert len(list(CellBlocks(examples(store), small))) == L * T
    CellBlocks(examples(store), small)
    assert len(caplog.records) == 1
    assert "3 times a cell and what reads it, got 1; going on with" in caplog.text


def test_what_is_absent_is_zero_whatever_the_file_says(acts, tmp_path):
    these = examples(None)
    broken = acts.clone()
    broken[ROWS] = broken[ROWS].masked_fill(~these.valid[:, None, :, None], torch.nan)
    save_file({"acts": broken}, tmp_path / "acts")
    store = TensorFile(read_header(tmp_path / "acts").get_tensor("acts", ""))
    for block in [*CellBlocks(examples(store), Budget(1)), *ExampleBlocks(examples(store), 4, 0, Budget(1))]:
        assert not block["acts"][~block["valid"][0]].any()
        assert block["acts"][block["valid"][0]].isfinite().all()


@pytest.mark.parametrize("kind", ["cells", "batches"])
def test_a_block_says_which_target_holds_an_example(store, acts, kind):
    """Activations are those of any target: what one leaves out is there for the other."""
    these = examples(store, n_targets=2)
    stream = CellBlocks(these, Budget(1)) if kind == "cells" else ExampleBlocks(these, 4, 0, Budget(1))
    seen = 0
    for block in stream:
        rows = block["examples"]
        assert torch.equal(block["labels"], torch.stack([rows % 2, rows // 2 % 2]))
        assert torch.equal(block["held"], torch.stack([rows >= 0, rows % 4 < 2]))
        has_position = torch.arange(N * T).view(N, T)[rows] % 3 > 0
        for i, cell in enumerate(block["cells"].tolist()):
            here = has_position[:, cell % T]
            assert torch.equal(block["valid"][:, i], torch.stack([here, here & (rows % 4 < 2)]))
            assert torch.equal(block["acts"][i][here], acts[rows, cell // T, cell % T][here])
            assert not block["acts"][i][~here].any()
            seen += len(rows)
    assert seen == L * T * len(ROWS)


def test_cells_come_one_by_one_where_that_is_asked_for(store):
    blocks = CellBlocks(examples(store), Budget(10**9), 1, 2, one_by_one=True)
    assert [block["cells"].tolist() for block in blocks] == [[cell] for cell in range(8, 15)]


def test_a_stream_can_be_run_again(store):
    stream = CellBlocks(examples(store), budget(store, 4 * CELL))
    for one, other in zip(stream, stream, strict=True):
        assert torch.equal(one["acts"], other["acts"])


@pytest.mark.parametrize("rows", [ROWS, np.arange(N)])
@pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("batches_at_once", [1, 2, 50])
def test_every_example_once_an_epoch(store, acts, rows, batch_size, world_size, batches_at_once):
    these = examples(store, rows)
    given = budget(store, batches_at_once * ROW * -(-batch_size // world_size))
    ranks = [ExampleBlocks(these, batch_size, 0, given, rank, world_size) for rank in range(world_size)]
    for _ in range(2):
        by_rank = [list(stream) for stream in ranks]
        assert {len(batches) for batches in by_rank} == {-(-len(rows) // batch_size)} == {len(ranks[0])}
        seen = []
        for i, shares in enumerate(zip(*by_rank, strict=True)):
            expected = min(batch_size, len(rows) - i * batch_size)
            sizes = [share["labels"].shape[1] for share in shares]
            assert sum(sizes) == max(expected, world_size)
            assert max(sizes) - min(sizes) <= 1
            batch = []
            for share in shares:
                assert share["cells"].tolist() == list(range(L * T))
                assert share["acts"].shape == (L * T, share["labels"].shape[1], D)
                assert share["held"].all()
                for n in range(share["labels"].shape[1]):
                    valid = share["valid"][0, :, n].view(L, T)
                    found = share["acts"][:, n].view(L, T, D)
                    # which example this is: the one that has these activations
                    [row] = [row for row in rows if torch.equal(acts[row][valid], found[valid])]
                    assert (int(share["labels"][0, n]), int(share["groups"][n])) == (row % 2, row // 3)
                    assert int(share["examples"][n]) == row
                    assert torch.equal(valid[0], torch.arange(N * T).view(N, T)[row] % 3 > 0)
                    assert not found[~valid].any()
                    batch.append(row)
            assert len(set(batch)) == expected  # what is repeated, is repeated in its own batch
            seen += set(batch)
        assert sorted(seen) == rows.tolist()


def order(stream):
    """Numbers of the examples as they come, without reading anything."""
    return np.concatenate(stream._batches(stream.epoch)).tolist()


@pytest.fixture
def small_pools(monkeypatch):
    monkeypatch.setattr(blocks_module, "CHUNK", 2)
    monkeypatch.setattr(blocks_module, "POOL", 8)


@pytest.mark.usefixtures("small_pools")
def test_the_order_follows_from_seed_and_epoch(store):
    def labels(seed, given):
        stream = ExampleBlocks(examples(store, np.arange(N)), 6, seed, given)
        return [torch.cat([block["acts"][2, :, 0] for block in stream]).tolist() for _ in range(3)]

    first = labels(0, budget(store, 6 * ROW))
    assert first == labels(0, budget(store, 18 * ROW)) == labels(0, Budget(1))
    assert first != labels(1, budget(store, 6 * ROW))
    assert len({tuple(epoch) for epoch in first}) == 3


@pytest.mark.usefixtures("small_pools")
def test_chunks_stay_together_in_a_pool(store):
    """Each pool of 8 holds whole chunks of 2 neighbours, and the two are parted within it."""
    stream = ExampleBlocks(examples(store, np.arange(N)), 6, 0, Budget(1))
    seen = order(stream)
    assert sorted(seen) == list(range(N))
    for start in range(0, N, 8):
        pool = seen[start : start + 8]
        assert all(row ^ 1 in pool for row in pool)
        if len(pool) == 8:
            assert any(abs(pool.index(row) - pool.index(row ^ 1)) > 1 for row in pool)


@pytest.mark.parametrize("kind", ["cells", "batches"])
def test_what_was_given_is_not_held(store, kind, monkeypatch):
    """Not even the last block, while the loop over it still waits for more."""
    back = []
    monkeypatch.setattr(_Reused, "_take_back", lambda self, memory: back.append(memory.nbytes))
    these, least = examples(store), Budget(1)
    loader = CellBlocks(these, least) if kind == "cells" else ExampleBlocks(these, 4, 0, least)
    stream = iter(loader)
    for n in range(len(loader)):
        next(stream)
        assert len(back) == n + 1


def test_several_batches_are_read_at_once(store, monkeypatch):
    reads = []
    plain = type(store).read

    def counts(self, cells, rows, out, each):
        reads.append(len(rows))
        plain(self, cells, rows, out, each)

    monkeypatch.setattr(type(store), "read", counts)
    batches = list(ExampleBlocks(examples(store, np.arange(N)), 4, 0, budget(store, 2 * 4 * ROW)))
    assert reads == [8, 8, 4]
    assert [batch["labels"].shape for batch in batches] == [(1, 4)] * 5


MEMORY = """
import re, sys
from pathlib import Path
import numpy as np, torch
from datamodules.stream.blocks import CellBlocks, ExampleBlocks, Examples
from datamodules.stream.memory import Budget
from datamodules.stream.store import Shards, TensorFile
from datamodules.stream.byte_ranges import read_header
from tests.support.places import ROOT

def memory(key):  # VmRSS now, VmHWM at most; ru_maxrss would start from the parent's
    return 1024 * int(re.findall(key + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[0])

folder, kind, budget = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if kind == "file":
    store = TensorFile(read_header(folder / "acts").get_tensor("acts", ""))
else:
    store = Shards([sorted(layer.iterdir()) for layer in sorted(folder.glob("layer*"))])
N, L, T, D = store.shape

def stream(rows):
    n = len(rows)
    labels, held = torch.arange(n)[None] % 2, torch.ones(1, n, dtype=torch.bool)
    examples = Examples(store, rows, labels, held, torch.arange(n * T).view(n, T) % 9 > 0, torch.arange(n))
    batches, cells = ExampleBlocks(examples, 16, 0, Budget(budget)), CellBlocks(examples, Budget(budget))
    total = 0
    for block in batches if kind == "batches" else cells:
        total += block["acts"].nbytes
    assert total == n * L * T * D * 2, total

stream(np.arange(8))  # code, threads
before = memory("VmRSS")
stream(np.flatnonzero(np.arange(N) % 5))
print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize("kind", ["shards", "file", "batches"])
def test_memory_stays_within_the_budget(kind, tmp_path):
    """A cache of eight times the budget, in a process that does nothing else."""
    n, depth, width, allowed = 512, 8, 1024, 8 * 2**20
    acts = torch.ones(n, depth, 8, width, dtype=torch.bfloat16)
    assert acts.nbytes == 8 * allowed
    if kind == "file":
        save_file({"acts": acts}, tmp_path / "acts")
    else:
        for layer in range(depth):
            (tmp_path / f"layer{layer}").mkdir()
            for k, part in enumerate(acts[:, layer].split(256)):
                save_file({"h": part.transpose(0, 1).contiguous()}, tmp_path / f"layer{layer}" / str(k))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), kind, str(allowed)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # a warning would say that the budget is too small
    assert allowed / 2 < int(done.stdout) < allowed + 2**20
