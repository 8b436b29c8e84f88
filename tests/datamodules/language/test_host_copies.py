"""Copies from a GPU, here a simulated one, that are used while the next batch is made."""

import threading

import pytest
import torch

from datamodules.language.host_copies import HostCopies
from datamodules.stream.read_ahead import get_copy_stream
from tests.support.simulated_cuda import SimulatedCuda, simulate


@pytest.fixture
def device():
    get_copy_stream.cache_clear()
    with SimulatedCuda() as device:
        yield device
    get_copy_stream.cache_clear()


def test_a_buffer_is_filled_again_only_when_its_content_was_used(device):
    copies, seen, go, begun = HostCopies(), [], threading.Event(), threading.Event()

    def use(tensors):
        begun.set()
        assert go.wait(60)
        seen.append(tensors["h"].tolist())

    for n in (1, 2):  # of different sizes, in a buffer each; neither waits
        copies.use(copies.start({"h": simulate(torch.full((n,), float(n)))}), use)
    assert begun.wait(60)
    assert not seen
    third = simulate(torch.full((1,), 3.0))
    timer = threading.Timer(0.1, go.set)
    timer.start()
    copies.use(copies.start({"h": third}), use)
    assert seen[0] == [1.0]
    copies.finish()
    assert seen == [[1.0], [2.0, 2.0], [3.0]]
    assert device.pinned == 2
    assert device.threads == ["host-copies_0"]


def test_what_a_use_raises_comes_with_a_later_batch_or_the_end(device):
    def fail(tensors):
        raise OSError("no place")

    copies = HostCopies()
    copies.use(copies.start({"h": simulate(torch.ones(2))}), fail)
    with pytest.raises(OSError, match="no place"):
        copies.finish()
    copies.finish()


def test_on_the_cpu_there_is_no_thread_and_no_copy():
    h, seen = torch.ones(2), []
    copies = HostCopies()
    copies.use(copies.start({"h": h}), lambda tensors: seen.append((threading.current_thread().name, tensors["h"])))
    assert seen[0][0] == threading.current_thread().name
    assert seen[0][1] is h
