"""Memory of the devices that a language model lies on: what it needs, and how many tokens fit beside it."""

import gc
from collections.abc import Collection

import torch
from transformers import PretrainedConfig, PreTrainedModel

from datamodules.stream.memory import measure_free_memory

SHARE = 0.5  # of what the weights leave; the rest is for prompts being read, logits, copies and fragments


def count_weight_bytes(model: torch.nn.Module, devices: Collection[torch.device]) -> int:
    """Bytes of weights and buffers on some devices; those of this process where a model is split over several."""
    parts = [getattr(one, "to_local", lambda one=one: one)() for one in (*model.parameters(), *model.buffers())]
    return sum(one.numel() * one.element_size() for one in parts if one.device in devices)


def count_token_bytes(config: PretrainedConfig, dtype: torch.dtype, written: bool) -> int:
    """Bytes that one token of a batch takes, about.

    Where answers are written these are its keys and values of all blocks; where tokens are only read, the states within
    one block.

    Args:
        config: of the language part.
        dtype: of the states.
        written: whether answers are written.
    """
    width = config.hidden_size
    if not written:
        return (4 * width + 3 * (getattr(config, "intermediate_size", None) or 4 * width)) * dtype.itemsize
    heads = getattr(config, "num_attention_heads", None) or 1
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_width = getattr(config, "head_dim", None) or width // heads
    return 2 * config.num_hidden_layers * kv_heads * head_width * dtype.itemsize


def count_fitting_tokens(model: PreTrainedModel, written: bool) -> int | None:
    """How many tokens, padding and answers included, a batch may have at once on the GPUs that a model lies on.

    It follows from the size of these GPUs and of the model, not from what is free right now: the same machine makes the
    same batches. None where the model lies on no CUDA device, whose memory alone is known.
    """
    devices = {one.device for one in model.parameters() if one.device.type == "cuda"}
    if not devices:
        return None
    total = sum(torch.cuda.mem_get_info(device)[1] for device in devices)
    room = SHARE * max(0, total - count_weight_bytes(model, devices))
    return int(room / count_token_bytes(model.config.get_text_config(decoder=True), model.dtype, written))


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
