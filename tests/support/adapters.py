"""Adapters of small models: how one is trained, saved, changed and compared."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch

IDS = torch.arange(3, 21).reshape(2, 9)


def lora(**settings: Any) -> peft.LoraConfig:
    """A LoRA of rank 4 on the queries and values, unless told otherwise."""
    return peft.LoraConfig(r=4, **{"lora_alpha": 12, "target_modules": ["q_proj", "v_proj"], **settings})


@contextmanager
def peft_warns() -> Iterator[None]:
    """Training warns of much; merging may not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def train(model: Any, config: peft.PeftConfig, folder: Path) -> Any:
    """Save an adapter in which every trained weight is drawn; gives the adapted model, its weights unmerged."""
    with peft_warns():
        adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    with peft_warns():
        adapted.save_pretrained(str(folder))
    return adapted.eval()


def change(adapter: Path, **settings: Any) -> None:
    """Write other settings into an adapter's folder."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def parts(model: torch.nn.Module) -> list[tuple[str, type]]:
    """Names and classes of a model's modules."""
    return [(name, type(module)) for name, module in model.named_modules()]


def difference(adapted: Any, model: Any) -> float:
    """The largest difference between the logits of two models for `IDS`."""
    with torch.no_grad():
        return (adapted(input_ids=IDS).logits - model(input_ids=IDS).logits).abs().max().item()
