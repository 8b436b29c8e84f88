"""Memory of the devices that a language model lies on: what it needs, and how many tokens fit beside it."""

import gc
import re
from collections import Counter
from collections.abc import Collection, Sequence

import torch
from transformers import PretrainedConfig, PreTrainedModel

from datamodules.stream.memory import measure_free_memory

SHARE = 0.5  # of what the weights leave; the rest is for logits, copies and fragments


def count_weight_bytes(model: torch.nn.Module, devices: Collection[torch.device]) -> int:
    """Bytes of weights and buffers on some devices; those of this process where a model is split over several."""
    parts = [getattr(one, "to_local", lambda one=one: one)() for one in (*model.parameters(), *model.buffers())]
    return sum(one.numel() * one.element_size() for one in parts if one.device in devices)


def count_token_bytes(config: PretrainedConfig, dtype: torch.dtype, written: bool) -> int:
    """Bytes that one token of a batch takes, about: while it is read, the states within one block.

    Where answers are written, its keys and values of all blocks come on top. Tokens of the answer are read one by one
    and take less; which part of a batch they are is not known here.

    Args:
        config: of the language part.
        dtype: of the states.
        written: whether answers are written.
    """
    width = config.hidden_size
    states = (4 * width + 3 * (getattr(config, "intermediate_size", None) or 4 * width)) * dtype.itemsize
    if not written:
        return states
    heads = getattr(config, "num_attention_heads", None) or 1
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_width = getattr(config, "head_dim", None) or width // heads
    return states + 2 * config.num_hidden_layers * kv_heads * head_width * dtype.itemsize


def count_fitting_tokens(model: PreTrainedModel, written: bool) -> int | None:
    """How many tokens, padding and answers included, surely fit at once on the GPUs that a model lies on.

    It follows from the size of these GPUs and of the model, not from what is free right now: the same machine starts
    with the same batches. None where the model lies on no CUDA device, whose memory alone is known.
    """
    devices = list_cuda_devices(model)
    if not devices:
        return None
    total = sum(torch.cuda.mem_get_info(device)[1] for device in devices)
    room = SHARE * max(0, total - count_weight_bytes(model, devices))
    return int(room / count_token_bytes(model.config.get_text_config(decoder=True), model.dtype, written))


def list_cuda_devices(model: torch.nn.Module) -> list[torch.device]:
    """The CUDA devices that hold weights of a model, in order."""
    found = {one.device for one in model.parameters() if one.device.type == "cuda"}
    return sorted(found, key=lambda device: device.index or 0)


def name_devices(devices: Sequence[torch.device]) -> str:
    """Name CUDA devices by kind and memory, so that a file name can hold it: equal devices have one name."""
    kinds = Counter(
        f"{torch.cuda.get_device_name(device)} {torch.cuda.mem_get_info(device)[1] / 2**30:.0f}GiB"
        for device in devices
    )
    return "+".join(f"{n}x-" * (n > 1) + re.sub(r"\W+", "-", kind) for kind, n in sorted(kinds.items()))


class MemoryGauge:
    """Measures which share of the free memory of CUDA devices a computation takes.

    Args:
        devices: on which it runs; one at least.

    Example:
        >>> gauge = MemoryGauge([torch.device("cuda")])  # doctest: +SKIP
        >>> gauge.start()  # doctest: +SKIP
        >>> answers = generate_answers(model, tokenizer, prompts, 20)  # doctest: +SKIP
        >>> gauge.measure_share()  # doctest: +SKIP
        0.31
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = devices
        self._before: list[tuple[int, int]] = []  # of each device, bytes that were taken and free

    def start(self) -> None:
        """Begin to measure."""
        self._before = []
        for device in self.devices:
            torch.cuda.reset_peak_memory_stats(device)
            taken = torch.cuda.memory_allocated(device)
            kept = torch.cuda.memory_reserved(device) - taken  # by the allocator, for the next tensors
            self._before.append((taken, torch.cuda.mem_get_info(device)[0] + kept))

    def measure_share(self) -> float:
        """Most of what was free at the start that was taken at once since then, on the device that was fullest."""
        return max(
            (torch.cuda.max_memory_allocated(device) - taken) / max(1, free)
            for device, (taken, free) in zip(self.devices, self._before, strict=True)
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
