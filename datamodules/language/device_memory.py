"""Memory of the devices of a language model: what it needs, how many tokens fit beside it, what a batch took."""

from __future__ import annotations

import gc
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

from datamodules.stream.memory import measure_free_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SHARE = 0.5  # of what the weights leave, for a first batch; the rest is for logits, copies and fragments
FULL = 0.9  # of a GPU, beyond which a larger batch is not tried: PyTorch's own context and fragments take the rest


def count_weight_bytes(model: torch.nn.Module, devices: Collection[torch.device]) -> int:
    """Bytes of weights and buffers on some devices; those of this process where a model is split over several."""
    parts = [getattr(one, "to_local", lambda one=one: one)() for one in (*model.parameters(), *model.buffers())]
    return sum(one.numel() * one.element_size() for one in parts if one.device in devices)


def count_token_bytes(config: PretrainedConfig, dtype: torch.dtype, written: bool) -> int:
    """Bytes that one token of a batch takes, about.

    The states within one block while it is read, and, where answers are written, its keys and values of all blocks.
    That counts tokens that are written as if they were read, so it is rather too much.

    Args:
        config: of the language part.
        dtype: of the states.
        written: whether answers are written.
    """
    width = config.hidden_size
    states = 4 * width + 3 * (getattr(config, "intermediate_size", None) or 4 * width)
    if not written:
        return states * dtype.itemsize
    heads = getattr(config, "num_attention_heads", None) or 1
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_width = getattr(config, "head_dim", None) or width // heads
    return (states + 2 * config.num_hidden_layers * kv_heads * head_width) * dtype.itemsize


def find_gpus(model: torch.nn.Module) -> set[torch.device]:
    """CUDA devices that weights of a model lie on."""
    return {one.device for one in model.parameters() if one.device.type == "cuda"}


def count_fitting_tokens(model: PreTrainedModel, written: bool) -> int | None:
    """How many tokens, padding and answers included, a batch may have at once on the GPUs that a model lies on.

    It follows from the size of these GPUs and of the model, not from what is free right now: the same machine makes the
    same batches. None where the model lies on no CUDA device, whose memory alone is known.
    """
    devices = find_gpus(model)
    if not devices:
        return None
    total = sum(torch.cuda.mem_get_info(device)[1] for device in devices)
    room = SHARE * max(0, total - count_weight_bytes(model, devices))
    return int(room / count_token_bytes(model.config.get_text_config(decoder=True), model.dtype, written))


class GpuRoom:
    """What a batch takes of the memory of GPUs, by PyTorch's own count of its tensors.

    It does not depend on what other processes hold, so the same batch gives the same answer on the same machine.
    """

    def __init__(self, devices: Collection[torch.device]) -> None:
        self.held = dict.fromkeys(devices, 0)  # bytes of each before the batch

    def watch(self) -> None:
        """Begin with a batch; PyTorch's peak is counted from here on."""
        for device in self.held:
            torch.cuda.reset_peak_memory_stats(device)
            self.held[device] = torch.cuda.memory_allocated(device)

    def fits_twice(self) -> bool:
        """Whether a batch that takes twice as much as the one that was watched would fit on each."""
        return all(
            2 * torch.cuda.max_memory_allocated(device) - held <= FULL * torch.cuda.mem_get_info(device)[1]
            for device, held in self.held.items()
        )


def measure_free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return measure_free_memory()


def empty_caches() -> None:
    """Give memory that nobody holds any more back to the devices.

    Models with hooks, of `device_map` and of quantisation, hold themselves in reference cycles: only the collector
    frees them.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
