import threading
import tracemalloc

import pytest
import torch

from datamodules.stream.read_ahead import count_copies, get_copy_stream, read_ahead
from tests.support.simulated_cuda import CUDA, SimulatedCuda

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
MEGA = 2**20


def jobs(n, width=16, dtype=torch.int64):
    """Tensors full of 0, 1, 2 ..."""
    return [((2, width), lambda out, each, k=k: out.fill_(k)) for k in range(n)]


def running():
    return {thread for thread in threading.enumerate() if thread.name.startswith("read")}


def all_ended():
    """Whether the reading threads end; nothing waits for them where a loop is left."""
    for thread in running():
        thread.join(10)
    return not running()


def test_each_is_filled_in_order_with_its_shape():
    shapes = [(2, 3), (1, 5), (4, 1), (2, 3)]
    made = list(read_ahead([(shape, lambda out, _: out.fill_(sum(out.shape))) for shape in shapes], torch.float32, CPU))
    assert [tuple(tensor.shape) for tensor in made] == shapes
    assert [tensor.unique().tolist() for tensor in made] == [[5.0], [6.0], [5.0], [5.0]]


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_what_is_kept_is_not_overwritten(n):
    kept = list(read_ahead(jobs(n), torch.int64, CPU))
    assert [tensor.unique().tolist() for tensor in kept] == [[k] for k in range(n)]


@pytest.mark.parametrize("view", [lambda x: x[0], lambda x: x.T, lambda x: x.numpy(), lambda x: x.view(torch.float64)])
def test_a_view_keeps_it_too(view):
    kept = [view(tensor) for tensor in read_ahead(jobs(9), torch.int64, CPU)]
    expected = [view(torch.full((2, 16), k)) for k in range(9)]
    assert all((one == other).all() for one, other in zip(kept, expected, strict=True))


def test_memory_is_used_again():
    places = {tensor.data_ptr() for tensor in read_ahead(jobs(20), torch.int64, CPU)}
    assert 2 <= len(places) <= count_copies(CPU)


def test_memory_is_as_aligned_as_torch_makes_it():
    assert all(tensor.data_ptr() % 64 == 0 for tensor in read_ahead(jobs(5), torch.int64, CPU))


def test_no_more_than_so_many_copies_and_all_given_back():
    tracemalloc.start()
    try:
        for _ in read_ahead(jobs(12, width=MEGA), torch.int64, CPU):
            pass
        del _
        assert all_ended()
        now, peak = tracemalloc.get_traced_memory()
        assert peak < count_copies(CPU) * 16 * MEGA + MEGA
        assert now < MEGA
        stream = read_ahead(jobs(12, width=MEGA), torch.int64, CPU)
        first = next(stream)
        stream.close()
        assert all_ended()
        assert 16 * MEGA <= tracemalloc.get_traced_memory()[0] < 17 * MEGA  # the one that is kept
        del first
        assert tracemalloc.get_traced_memory()[0] < MEGA
    finally:
        tracemalloc.stop()


def test_when_nothing_is_left_to_read_no_memory_waits_for_it():
    """A loader that has given its last block is still there while another one works."""
    tracemalloc.start()
    try:
        stream = read_ahead(jobs(4, width=MEGA), torch.int64, CPU)
        kept = [next(stream) for _ in range(3)]
        kept.clear()
        next(stream)
        assert tracemalloc.get_traced_memory()[0] < MEGA
    finally:
        tracemalloc.stop()


def test_the_next_is_read_while_this_one_is_used():
    began = [threading.Event() for _ in range(3)]
    main = threading.current_thread()

    def fill(out, each, k):
        began[k].set()
        assert threading.current_thread() is not main

    stream = read_ahead([((1,), lambda out, each, k=k: fill(out, each, k)) for k in range(3)], torch.float32, CPU)
    next(stream)
    assert began[1].wait(10)  # nobody has asked for it
    assert not began[2].wait(0.1)
    next(stream)
    assert began[2].wait(10)


class OddError(Exception):
    pass


@pytest.mark.parametrize("bad", [0, 1, 4])
def test_an_error_in_the_reader_comes_out_as_itself(bad):
    def fails(out, each):
        raise OddError("that block")

    stream = read_ahead([*jobs(bad), ((2, 16), fails), *jobs(3)], torch.int64, CPU)
    assert [int(next(stream)[0, 0]) for _ in range(bad)] == list(range(bad))
    with pytest.raises(OddError, match="that block"):
        next(stream)
    assert all_ended()


def test_leaving_early_ends_the_thread():
    def leaves():
        for tensor in read_ahead(jobs(9), torch.int64, CPU):
            assert running()
            if tensor[0, 0] == 2:
                break
        assert all_ended()

    def raises():
        for _ in read_ahead(jobs(9), torch.int64, CPU):
            raise OddError

    leaves()
    with pytest.raises(OddError):
        raises()
    assert all_ended()


def test_a_finished_loop_leaves_no_thread():
    list(read_ahead(jobs(3), torch.int64, CPU))
    assert all_ended()


def test_leaving_a_loop_waits_for_no_read():
    """Python closes a generator in a finaliser, where a Ctrl-C is lost; the wait for a read made that likely."""
    began, may_end = threading.Event(), threading.Event()

    def fill(out, each):
        began.set()
        assert may_end.wait(60)

    stream = read_ahead([*jobs(1), ((2, 16), fill), *jobs(3)], torch.int64, CPU)
    left = threading.Thread(target=lambda: (next(stream), began.wait(60), stream.close()), daemon=True)
    left.start()
    left.join(30)
    assert not left.is_alive()
    assert running()
    may_end.set()
    assert all_ended()


@pytest.fixture
def simulated_cuda():
    get_copy_stream.cache_clear()  # streams of a real device are not those of a simulated one
    with SimulatedCuda() as device:
        yield device
    get_copy_stream.cache_clear()


@pytest.mark.parametrize("kept", [False, True])
def test_a_simulated_gpu_gets_the_same_through_pinned_buffers(simulated_cuda, kept):
    saved = [torch.randn(2, 3, 4) for _ in range(6)]
    made = []
    stream = read_ahead(
        [((2, 3, 4), lambda out, each, k=k: out.copy_(saved[k])) for k in range(6)], torch.float32, CUDA
    )
    for block, expected in zip(stream, saved, strict=True):
        assert block.is_cuda
        assert torch.equal(block.cpu(), expected)
        made += [block] if kept else []
    assert all(torch.equal(block.cpu(), expected) for block, expected in zip(made, saved, strict=False))
    assert simulated_cuda.copied == (12 if not kept else 18) * 96
    assert simulated_cuda.launches == 0


def test_the_reading_thread_sets_its_device_and_passes_share_a_stream(simulated_cuda):
    """A thread that does not would make a context on device 0; the simulated device refuses it."""
    for _ in range(3):
        list(read_ahead(jobs(3), torch.int64, CUDA))
    assert [name.rsplit("_", 1)[0] for name in simulated_cuda.threads] == ["read-ahead"] * 3
    assert simulated_cuda.streams == 1


@pytest.mark.gpu
@no_gpu
@pytest.mark.parametrize("kept", [False, True])
def test_a_gpu_gets_the_same(kept):
    """Work on the consumer's stream is slow, so that a copy which does not wait for it would be seen."""
    device = torch.device("cuda")
    shape, n = (64, 4096, 8), 12
    generator = torch.Generator().manual_seed(0)
    saved = [torch.randn(shape, generator=generator) for _ in range(n)]
    stream = read_ahead([(shape, lambda out, each, k=k: out.copy_(saved[k])) for k in range(n)], torch.float32, device)
    load = torch.randn(4096, 4096, device=device)
    blocks, sums = [], []
    for block in stream:
        assert block.device.type == "cuda"
        for _ in range(10):
            load = (load @ load).clamp(-1, 1)
        sums.append(block.double().sum(dim=(1, 2)) + 0 * load.sum())
        if kept:
            blocks.append(block)
        del block
    for one, other in zip(sums, saved, strict=True):
        torch.testing.assert_close(one.cpu(), other.double().sum(dim=(1, 2)))
    for one, other in zip(blocks, saved, strict=False):
        assert torch.equal(one.cpu(), other)
    assert all_ended()


@pytest.mark.gpu
@no_gpu
def test_a_gpu_gets_the_same_under_inference_mode():
    with torch.inference_mode():
        made = list(read_ahead(jobs(5), torch.int64, torch.device("cuda")))
    assert [int(tensor.float().mean()) for tensor in made] == list(range(5))
