from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from datamodules.stream import store as store_module
from datamodules.stream.byte_ranges import ByteRange, read_header
from datamodules.stream.store import Shards, TensorFile, TensorInMemory

L, T, N, D = 3, 5, 50, 8
ROWS = {
    "some": np.array([0, 3, 7, 8, 15, 19, 20, 21, 49]),
    "all": np.arange(N),
    "one": np.array([17]),
    "shuffled": np.random.default_rng(0).permutation(N)[:31],
    "swapped": np.array([5, 7, 6, 8]),
    "repeated": np.array([4, 4, 30, 2, 4]),
}
CELLS = {"all": np.arange(L * T), "one": np.array([7]), "apart": np.array([0, 1, 6, 7, 8, 14])}


def save_shards(folder, acts, size):
    """Layer files of `acts [N, L, T, D]`."""
    shards = []
    for layer in range(acts.shape[1]):
        shards.append([])
        for k, part in enumerate(acts[:, layer].split(size)):
            shards[-1].append(folder / f"{layer}-{k}.safetensors")
            save_file({"h": part.transpose(0, 1).contiguous()}, shards[-1][-1])
    return shards


@pytest.fixture(params=["shards", "file"])
def kind(request):
    return request.param


def make(kind, folder, dtype=torch.bfloat16):
    acts = torch.randn(N, L, T, D, generator=torch.Generator().manual_seed(0)).to(dtype)
    if kind == "shards":
        return acts, Shards(save_shards(folder, acts, 16))
    # another tensor before it, so that the first byte is not where the header ends
    save_file({"acts": acts, "aaa": torch.zeros(3)}, folder / "acts.safetensors")
    return acts, TensorFile(read_header(folder / "acts.safetensors").get_tensor("acts", ""))


def read(store, cells, rows, **more):
    out = torch.full((len(cells), len(rows), D), torch.nan).to(store.dtype)
    store.read(cells, rows, out, **more)
    return out


def expected(acts, cells, rows):
    return acts.flatten(1, 2)[rows][:, cells].transpose(0, 1)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS.keys())
@pytest.mark.parametrize(("scratch", "gap"), [(2**21, 2**16), (3 * D * 2, 0), (1, 0)])
def test_what_is_read_is_what_was_saved(kind, rows, cells, scratch, gap, tmp_path, monkeypatch):
    """Oracle: torch's indexing. Small scratch buffers and gaps cut what is read into many parts."""
    monkeypatch.setattr(store_module, "SCRATCH", scratch)
    monkeypatch.setattr(store_module, "GAP", gap)
    acts, store = make(kind, tmp_path)
    assert store.shape == (N, L, T, D)
    assert store.scratch <= max(scratch, D * 2)
    assert torch.equal(read(store, cells, rows), expected(acts, cells, rows))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_memory_is_read_as_files_are(dtype):
    acts = torch.randn(N, L, D, T, generator=torch.Generator().manual_seed(0)).to(dtype)
    acts = acts.requires_grad_().mT  # of any strides, and perhaps of a model that still learns
    store = TensorInMemory(acts)
    assert (store.shape, store.dtype) == ((N, L, T, D), dtype)
    assert store.acts.data_ptr() == acts.data_ptr()
    for rows in ROWS.values():
        for cells in CELLS.values():
            assert torch.equal(read(store, cells, rows), expected(acts, cells, rows))
            with ThreadPoolExecutor(3) as pool:
                found = read(store, cells, rows, each=lambda call, jobs: pool.map(lambda job: call(*job), jobs))
            assert torch.equal(found, expected(acts, cells, rows))


def test_rows_far_apart_are_read_alone(tmp_path, monkeypatch):
    _, store = make("shards", tmp_path)
    lengths, plain = [], ByteRange.read

    def counts(self, file, into, offset):
        lengths.append(len(into) // (D * 2))
        plain(self, file, into, offset)

    monkeypatch.setattr(ByteRange, "read", counts)
    for gap, expected in ((2**16, [16, 2]), (5 * D * 2, [7, 1, 2]), (0, [1, 1, 1, 2])):
        lengths.clear()
        monkeypatch.setattr(store_module, "GAP", gap)
        read(store, CELLS["one"], np.array([0, 6, 15, 17, 18]))
        assert lengths == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype(kind, dtype, tmp_path):
    acts, store = make(kind, tmp_path, dtype)
    assert store.dtype == dtype
    assert torch.equal(read(store, CELLS["all"], ROWS["shuffled"]), expected(acts, CELLS["all"], ROWS["shuffled"]))


def test_many_threads_read_the_same(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SCRATCH", 6 * D * 2)
    acts, store = make(kind, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        for rows in ROWS.values():
            out = read(store, CELLS["all"], rows, each=lambda call, args: pool.map(lambda each: call(*each), args))
            assert torch.equal(out, expected(acts, CELLS["all"], rows))


def test_a_file_that_went_away_is_named(kind, tmp_path):
    _, store = make(kind, tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    of_the_cache = r"^cache: .*\.safetensors was removed while this run read it; leave the cache alone while a run uses"
    line = of_the_cache if kind == "shards" else r"^expected a safetensors file, got .*\.safetensors: no such file"
    with pytest.raises(ValueError, match=line):
        read(store, CELLS["one"], ROWS["some"])


def test_a_file_cut_short_meanwhile_is_named(kind, tmp_path):
    _, store = make(kind, tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:500])
    of_the_cache = r"^cache: .*\.safetensors was changed while this run read it; .* start the same command again, which"
    line = r"\.safetensors: expected \d+ more bytes of acts at byte \d+, got the end"
    with pytest.raises(ValueError, match=of_the_cache if kind == "shards" else line):
        read(store, CELLS["all"], ROWS["all"])


def test_a_shard_without_activations_is_named(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x.safetensors: expected a tensor h \[T, n, D\], got x"):
        Shards([[tmp_path / "x.safetensors"]])


@pytest.mark.parametrize(
    "odd",
    [torch.zeros(T, 3, D), torch.zeros(T, 4, D, dtype=torch.float64), torch.zeros(T, D), torch.zeros(T, 4, D + 1)],
)
def test_shards_that_do_not_fit_each_other_are_named(odd, tmp_path):
    save_file({"h": torch.zeros(T, 4, D)}, tmp_path / "0")
    save_file({"h": odd}, tmp_path / "1")
    with pytest.raises(ValueError, match=r"1: expected h \[T, n, D\] = \[5, 4, 8\] in F32 as in the other shards, got"):
        Shards([[tmp_path / "0"], [tmp_path / "1"]])


def test_a_flat_shard_is_refused(tmp_path):
    save_file({"h": torch.zeros(T)}, tmp_path / "0")
    with pytest.raises(ValueError, match=r"0: expected h \[T, n, D\] = .*, got \[5\] in F32"):
        Shards([[tmp_path / "0"]])


def list_files(folder):
    """Paths that `save_shards` wrote, by layer."""
    return [sorted(folder.glob(f"{layer}-*")) for layer in range(L)]


@pytest.mark.parametrize("positions", [[2], [4, 0], [0, 1, 2, 3, 4], [3, 3, 1]])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_chosen_positions_are_read_in_their_order_and_nothing_else(positions, rows, tmp_path, monkeypatch):
    acts, every = make("shards", tmp_path)
    lengths, plain = [], ByteRange.read

    def counts(self, file, into, offset):
        lengths.append(len(into))
        plain(self, file, into, offset)

    store = Shards(list_files(tmp_path), positions)
    assert store.shape == (N, L, len(positions), D)
    assert store.scratch == every.scratch
    chosen = acts[:, :, positions]
    for cells in (np.arange(L * len(positions)), np.array([len(positions)])):
        monkeypatch.setattr(ByteRange, "read", counts)
        lengths.clear()
        assert torch.equal(read(store, cells, rows), expected(chosen, cells, rows))
        got = sum(lengths)
        lengths.clear()
        read(every, cells, rows)
        assert got == sum(lengths)  # as many bytes as that many cells of a store of all positions
        monkeypatch.undo()


@pytest.mark.parametrize("position", [-1, T])
def test_a_position_that_the_files_lack_is_refused(position, tmp_path):
    make("shards", tmp_path)
    with pytest.raises(ValueError, match=rf"expected positions 0 to {T - 1} of h \[T, n, D\], got {position};"):
        Shards(list_files(tmp_path), [0, position])
