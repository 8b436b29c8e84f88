"""What is wrong with a choice of devices, known before anything large is imported."""

from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.stream.ranges import Count, Text


def check_devices(
    accelerator: str,
    devices: int | str | Sequence[int] | None,
    num_nodes: Count = 1,
    device_map: Text | Mapping[str, Any] | None = None,
) -> None:
    """Refuse an accelerator on which probes cannot be fitted, and a model that several processes would each spread.

    Args:
        accelerator, devices, num_nodes: of the trainer.
        device_map: of the model.

    Raises:
        ValueError: says what to set instead.
    """
    if accelerator == "mps" or (accelerator in ("gpu", "auto") and _is_apples()):
        raise ValueError(
            "trainer.accelerator: expected cpu or a CUDA device, as probes are fitted in float64, got mps, which has "
            "none; choose trainer=gpu, which runs the model on it and the probes on the CPU"
        )
    if device_map:
        require_one_process(num_nodes * _count(devices))


def check_layout(
    device: str | None,
    device_map: str | Mapping[str, Any] | None,
    tp_plan: str | None,
    quantisation: Mapping[str, Any] | None,
    random_weights: bool,
) -> None:
    """Refuse settings of a model of which only one can say where its weights go.

    Args:
        device, device_map, tp_plan, quantisation, random_weights: of the model.

    Raises:
        ValueError: says which to leave out.
    """
    if device_map and tp_plan:
        raise ValueError("model: expected device_map or tp_plan, got both; leave one null")
    if device not in (None, "cpu", "cuda", "mps"):
        raise ValueError(f"model.device: expected cpu, cuda, mps or null, got {device!r}; choose one")
    if device and (device_map or tp_plan):
        raise ValueError("model: expected device, or one of device_map and tp_plan, got both; leave one null")
    if device and quantisation:
        raise ValueError("model: expected device or quantisation, which chooses a GPU, got both; leave one null")
    layouts = {"device_map": device_map, "tp_plan": tp_plan, "quantisation": quantisation}
    given = [f"model.{key}" for key, one in layouts.items() if one]
    if random_weights and given:
        raise ValueError(
            f"model.random_weights: expected weights made whole on one device, got {given[0]} too; leave it null, or "
            "choose a smaller model"
        )


def require_one_process(n: int) -> None:
    """Refuse a number of processes each of which would spread its own copy of a model over all devices.

    Raises:
        ValueError: says what to set instead.
    """
    if n > 1:
        raise ValueError(
            f"model.device_map: expected one process, as it spreads the model over all devices, got {n} of them; set "
            "trainer.devices=1, or model.device_map=null and model.tp_plan=auto under torchrun"
        )


def _count(devices: int | str | Sequence[int] | None) -> int:
    """How many devices a trainer is given; one where only the machine tells."""
    if isinstance(devices, str):
        devices = [int(one) for one in devices.split(",") if one.strip().isdigit()] if "," in devices else 1
    return devices if isinstance(devices, int) else len(devices or [0])  # Lightning refuses null by itself


def _is_apples() -> bool:
    """Whether the GPU of this machine is Apple's."""
    import torch

    return torch.backends.mps.is_available() and not torch.cuda.is_available()
