"""Where the weights of a language model go: onto one device, over several, in parts to processes, quantised."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers

from datamodules.language.adapter import WITHOUT_ADAPTER, apply_adapter, require_mergeable
from datamodules.language.device_memory import empty_caches, measure_free_bytes
from datamodules.stream.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from datamodules.language.checkpoint import Checkpoint

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
    if named == "cuda":  # processes on the CPU share the GPUs of their machine
        return torch.device(named, int(os.environ.get("LOCAL_RANK", 0)) % max(1, torch.cuda.device_count()))
    return torch.device(named)


def require_equal_parts(config: PretrainedConfig, n_processes: int) -> None:
    """Refuse attention heads that cannot be dealt evenly to the processes of `model.tp_plan`.

    Raises:
        ValueError: names the number of heads.
    """
    names = "num_attention_heads", "num_key_value_heads"
    counts = {name: heads for name in names if (heads := getattr(config, name, None))}
    for name, heads in counts.items():
        if heads % n_processes:
            fitting = [n for n in range(2, n_processes) if not any(one % n for one in counts.values())]
            raise ValueError(
                f"model.tp_plan: expected a number of processes that divides the {heads} heads ({name}), got "
                f"{n_processes}; start {' or '.join(map(str, fitting)) or 'one'}, or set model.device_map=auto"
            )


@dataclass(frozen=True)
class Weights:
    """The weights of a model, and how they are laid out.

    Attributes:
        checkpoint: the files.
        adapter: folder of the adapter that is merged into them; None: none is.
        name: of the model, shown to people.
        dtype: of weights and computation.
        device_map, tp_plan, quantisation, random_weights: as in `LanguageModel`.
    """

    checkpoint: Checkpoint
    adapter: Path | None
    name: str
    dtype: torch.dtype
    device_map: str | dict[str, Any] | None
    tp_plan: str | None
    quantisation: dict[str, Any] | None
    random_weights: bool = False

    def load(self, device: torch.device, head: bool) -> PreTrainedModel:
        """Load them, ready for inference, onto `device` or where `device_map`, `tp_plan` or quantisation say.

        Raises:
            ValueError: there are no such weights, the adapter does not fit them, or the memory does not hold them.
        """
        if self.tp_plan:
            if "WORLD_SIZE" not in os.environ:
                raise ValueError(
                    "model.tp_plan: expected torchrun, which starts the processes, got one started by itself; start "
                    "the command with torchrun --standalone --nproc-per-node=2"
                )
            require_equal_parts(self.checkpoint.load_config(), int(os.environ["WORLD_SIZE"]))
        if self.adapter is not None:
            require_mergeable(self.adapter)  # before minutes of loading
        try:
            return self._load(device, head)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        empty_caches()  # behind the handler, which would keep the weights that were loaded
        spread = self.device_map or self.tp_plan
        cures = [] if spread or self.random_weights else ["model.device_map=auto, which spreads them over all devices"]
        whole = self.quantisation or self.checkpoint.gguf or self.random_weights
        cures += [] if whole else ["model.quantisation={load_in_4bit: true}"]
        cures += ["model.dtype=bfloat16"] if self.dtype.itemsize > 2 else []
        raise ValueError(
            f"model: expected memory for the weights of {self.name}{self._say_size(head)}, got "
            f"{_say_free(device, bool(spread or self.quantisation))}; choose {', '.join([*cures, 'a smaller model'])}, "
            "or free the device"
        )

    def _load(self, device: torch.device, head: bool) -> PreTrainedModel:
        if self.random_weights:
            return self.checkpoint.init_network(self.dtype, head).to(device)  # type: ignore[arg-type]
        placement: dict[str, Any] = {"device_map": self.device_map, "tp_plan": self.tp_plan}
        if self.quantisation:
            placement["quantization_config"] = transformers.BitsAndBytesConfig(**self.quantisation)
        placement = {key: value for key, value in placement.items() if value}
        network = self.checkpoint.load_network(self.dtype, head, {**placement, **WITHOUT_ADAPTER})
        if self.adapter is not None:
            network = apply_adapter(network, self.adapter, self.name)
        return network if placement else network.to(device)  # type: ignore[arg-type]

    def _say_size(self, head: bool) -> str:
        """Bytes in words, from the shapes alone; nothing where the configuration does not tell."""
        given = [size for key, size in QUANTISED.items() if (self.quantisation or {}).get(key)]
        try:
            n = self.checkpoint.count_weights(head)
        except Exception:  # it is a number for a message; code of others may fail in any way
            return ""
        kind = "quantised" if given else f"in {str(self.dtype).removeprefix('torch.')}"
        return f", about {n * (given or [self.dtype.itemsize])[0] / 1e9:,.1f} GB {kind}"


def _say_free(device: torch.device, spread: bool) -> str:
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())] if spread else []
    return " and ".join(map(_say_free_on, devices or [device]))


def _say_free_on(device: torch.device) -> str:
    try:
        return f"{measure_free_bytes(device) / 1e9:,.1f} GB free on {device}"
    except RuntimeError:  # a device so full that it has no room for a context, which tells
        return f"no room at all on {device}"
