"""Where the weights of a language model go: onto one device, over several, in parts to processes, quantised."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
import transformers

from datamodules.language.adapter import WITHOUT_ADAPTER, apply_adapter, require_mergeable
from datamodules.language.device_memory import empty_caches, measure_free_bytes
from datamodules.stream.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from datamodules.language.language_model import LanguageModel

QUANTISED = {"load_in_4bit": 0.5, "load_in_8bit": 1.0}  # bytes a weight


def choose_device(named: str | None, trainers: torch.device) -> torch.device:
    """The device that a language model runs on.

    Args:
        named: `cpu`, `mps` or `cuda`; None: that of the trainer.
        trainers: on which the trainer puts the probes.

    Raises:
        ValueError: this machine has no such device.
    """
    if named is None or named == trainers.type:
        return trainers
    there = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    if not there[named]:
        raise ValueError(
            f"model.device: expected a device of this machine, got {named}, which torch does not find; choose "
            f"{' or '.join(name for name, found in there.items() if found)}"
        )
    return torch.device(named, 0) if named == "cuda" else torch.device(named)


def require_equal_parts(config: PretrainedConfig, n_processes: int) -> None:
    """Refuse attention heads that cannot be dealt evenly to the processes of `model.tp_plan`.

    Raises:
        ValueError: names the number of heads.
    """
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None)
        if heads and heads % n_processes:
            fitting = [n for n in range(2, n_processes) if heads % n == 0]
            raise ValueError(
                f"model.tp_plan: expected a number of processes that divides the {heads} heads ({name}), got "
                f"{n_processes}; start {' or '.join(map(str, fitting)) or 'one'}, or set model.device_map=auto"
            )


def load_onto(model: LanguageModel, device: torch.device, head: bool) -> PreTrainedModel:
    """Load the weights, ready for inference, onto `device` or where `device_map`, `tp_plan` or quantisation say.

    Raises:
        ValueError: there are no such weights, the adapter does not fit them, or the memory does not hold them.
    """
    if model.tp_plan:
        if "WORLD_SIZE" not in os.environ:
            raise ValueError(
                "model.tp_plan: expected torchrun, which starts the processes, got one started by itself; begin the "
                "command with torchrun --standalone --nproc-per-node=2"
            )
        require_equal_parts(model.load_config(), int(os.environ["WORLD_SIZE"]))
    if model.adapter_folder is not None:
        require_mergeable(model.adapter_folder)  # before minutes of loading
    try:
        return _load(model, device, head)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    empty_caches()  # behind the handler, which would keep the weights that were loaded
    spread = model.device_map or model.quantisation or model.tp_plan
    cures = [] if model.device_map or model.tp_plan else ["model.device_map=auto, which spreads them over all devices"]
    cures += [] if model.quantisation or model.gguf else ["model.quantisation={load_in_4bit: true}"]
    cures += ["model.dtype=bfloat16"] if getattr(torch, model.dtype).itemsize > 2 else []
    raise ValueError(
        f"model: expected memory for the weights of {model.name}{_say_size(model, head)}, got "
        f"{_say_free(device, bool(spread))}; choose {', '.join([*cures, 'a smaller model'])}, or free the device"
    )


def _load(model: LanguageModel, device: torch.device, head: bool) -> PreTrainedModel:
    placement: dict[str, Any] = {"device_map": model.device_map, "tp_plan": model.tp_plan}
    if model.quantisation:
        placement["quantization_config"] = transformers.BitsAndBytesConfig(**model.quantisation)
    placement = {key: value for key, value in placement.items() if value}
    dtype = getattr(torch, model.dtype)
    network = model.checkpoint.load_network(dtype, head, {**placement, **WITHOUT_ADAPTER})
    if model.adapter_folder is not None:
        network = apply_adapter(network, model.adapter_folder, str(model.name))
    return network if placement else network.to(device)  # type: ignore[arg-type]


def _say_size(model: LanguageModel, head: bool) -> str:
    """Bytes of the weights in words, from their shapes alone; nothing where the configuration does not tell."""
    itemsize = getattr(torch, model.dtype).itemsize
    given = [size for key, size in QUANTISED.items() if (model.quantisation or {}).get(key)]
    try:
        n = model.checkpoint.count_weights(head)
    except Exception:  # it is a number for a message; code of others may fail in any way
        return ""
    return f", about {n * (given or [itemsize])[0] / 1e9:,.1f} GB in {'quantised form' if given else model.dtype}"


def _say_free(device: torch.device, spread: bool) -> str:
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())] if spread else []
    return " and ".join(f"{measure_free_bytes(one) / 1e9:,.1f} GB free on {one}" for one in devices or [device])
