"""Memory laid out as safetensors files."""

import pytest
import torch
from safetensors.torch import save

from datamodules.language.file_buffers import FileBuffers


@pytest.mark.parametrize("shape", [(2, 5, 7), (15, 256, 64), (1, 1, 1), (3, 0, 4), (123, 7, 1001)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_bytes_are_those_that_safetensors_writes(shape, dtype):
    acts = torch.randn(3, *shape).to(dtype)
    h, files = FileBuffers().lend(3, shape, dtype)
    h.copy_(acts)
    assert [bytes(file) for file in files] == [save({"h": each}) for each in acts]


def test_memory_is_lent_again_once_nobody_holds_it():
    buffers = FileBuffers()
    acts = torch.randn(2, 3, 4).bfloat16()
    h, files = buffers.lend(2, (3, 4), torch.bfloat16)
    h.copy_(acts)
    place, held = h.data_ptr(), files[1]
    del h, files
    other, _ = buffers.lend(2, (3, 4), torch.bfloat16)
    other.zero_()
    assert other.data_ptr() != place
    assert bytes(held) == save({"h": acts[1]})
    del held
    smaller, files = buffers.lend(2, (1, 4), torch.bfloat16)  # the last shard
    assert abs(smaller.data_ptr() - place) < 16  # its header may be shorter
    smaller.zero_()
    assert [bytes(file) for file in files] == 2 * [save({"h": torch.zeros(1, 4, dtype=torch.bfloat16)})]


def test_a_tensor_alone_keeps_its_memory():
    buffers = FileBuffers()
    h = buffers.lend(1, (4,), torch.float32)[0].zero_()
    other = buffers.lend(1, (4,), torch.float32)[0].fill_(1)
    assert h.tolist() == [[0.0] * 4]
    assert other.tolist() == [[1.0] * 4]


def test_memory_that_the_machine_lacks_is_told_in_one_line():
    """2**60 bytes: more than addresses of a process."""
    buffers = FileBuffers()
    with pytest.raises(
        ValueError, match=r"memory: expected 1\S+ \wB for the files of one shard, got \S+ \wB free on this .*; free"
    ):
        buffers.lend(1, (2**59,), torch.bfloat16)
    h, _ = buffers.lend(1, (4,), torch.bfloat16)
    assert h.shape == (1, 4)
