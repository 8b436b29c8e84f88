"""Finds, checks and merges adapters, such as LoRA, into the weights of a language model.

transformers applies an adapter in the model folder if peft is installed, and ignores it otherwise. `WITHOUT_ADAPTER`
disables this, and `apply_adapter` merges the adapter or raises an error with the reason.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from datamodules.stream.local_paths import expand_user
from datamodules.stream.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # in the order in which peft looks for them
# Kinds whose merge was compared with the adapter applied on the fly; see docs/decisions.md.
MERGED = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "LN_TUNING", "TRAINABLE_TOKENS")

# Makes `from_pretrained` of a model load the base weights alone; see docs/decisions.md.
WITHOUT_ADAPTER: dict[str, Any] = {"adapter_kwargs": {"subfolder": ".no-adapter"}}


def find_adapter(setting: str | None, folder: Path) -> Path | None:
    """Find the folder of the adapter that the configuration names.

    Args:
        setting: `auto` for the one in the model folder, if any; a folder; or None for no adapter.
        folder: the model folder, or the snapshot of a hub model.

    Raises:
        ValueError: the setting is not a text, or its folder has no adapter.

    Example:
        >>> find_adapter(None, Path("model")), find_adapter("auto", Path("folder-without-adapter"))
        (None, None)
    """
    if setting is None:
        return None
    if not isinstance(setting, str) or not setting:
        raise ValueError(f"model.adapter: expected null, auto or the folder of an adapter, got {setting!r}; choose one")
    if setting == "auto":
        return folder if (folder / CONFIG).is_file() else None
    adapter = expand_user(setting, "model.adapter")
    if not (adapter / CONFIG).is_file():
        raise ValueError(
            f"model.adapter: expected a folder with {CONFIG}, got {setting}; name the folder of the adapter, or "
            "its hub id"
        )
    return adapter


def require_full_model(folder: Path, named: str | None = None) -> None:
    """Raise ValueError for a folder that has an adapter but no model.

    Args:
        folder: of a model, or the snapshot of one on the hub.
        named: its name in messages, such as its hub id; the folder by default.

    Raises:
        ValueError: the folder has only an adapter; the message says how to set both options.
    """
    if (folder / "config.json").is_file() or not (folder / CONFIG).is_file():
        return
    base = str(_read_config(folder).get("base_model_name_or_path") or "its base model")
    raise ValueError(
        f"model.id: expected config.json, weights and tokenizer in {named or folder}, got an adapter of {base}; set "
        f"model.id={base if ' ' not in base else 'BASE'} model.adapter={named or folder}"
    )


def list_adapter_files(adapter: Path) -> list[Path]:
    """List the files of an adapter that determine its results, for the cache key.

    Raises:
        ValueError: it has no weights.
    """
    for name in WEIGHTS:
        if (adapter / name).is_file():
            return [adapter / CONFIG, adapter / name]
    raise ValueError(
        f"model.adapter: expected weights {' or '.join(WEIGHTS)} in {adapter}, got neither; save or download the "
        "adapter again, or set model.adapter=null"
    )


def require_mergeable(adapter: Path) -> None:
    """Check that an adapter can be merged. Reads only its configuration, not the model.

    Raises:
        ValueError: peft is not installed, a file is missing or altered, or its kind cannot be merged.
    """
    config = _read_config(adapter)
    list_adapter_files(adapter)
    kind = config.get("peft_type")
    if kind not in MERGED:
        raise ValueError(
            f"model.adapter: expected an adapter that merges into weights, such as LORA, got {kind} in {adapter}; set "
            "model.adapter=null, or train one of another kind"
        )
    if config.get("layer_replication"):
        raise ValueError(
            f"model.adapter: expected an adapter of the model's own layers, got one with layer_replication in "
            f"{adapter}; merge it with peft, save the whole model and set model.id to it"
        )
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"model.adapter: expected peft, which merges the adapter in {adapter}, got none ({error}); "
            'pip install -c constraints.txt -e ".[adapter]", or set model.adapter=null'
        ) from error


def apply_adapter(model: PreTrainedModel, adapter: Path, name: str) -> PreTrainedModel:
    """Merge an adapter into the weights of a model, in place.

    Every adapted weight becomes W + scaling * B A in the model's dtype, rounded once, and no module of peft remains.
    An adapter that was trained with the head is merged into a model without one, and the other way round.

    Args:
        model: the base model, loaded with `WITHOUT_ADAPTER`, whole and not quantised.
        adapter: folder of the adapter.
        name: what the base model is called: its hub id or folder.

    Returns:
        `model`, a plain transformers model, in evaluation mode and without gradients.

    Raises:
        ValueError: it cannot be merged, or belongs to another model; do not use `model` after this error.

    Example:
        >>> model = AutoModelForCausalLM.from_pretrained(folder, **WITHOUT_ADAPTER)  # doctest: +SKIP
        >>> model = apply_adapter(model, folder, name="org/name")  # doctest: +SKIP
    """
    require_mergeable(adapter)
    _require_plain_weights(model)
    from peft import PeftConfig, PeftModel, PeftType, load_peft_weights, set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
    from torch import Tensor

    with _explain_refusal(f"an adapter whose files load, got {adapter}", "save or download it again"):
        config = PeftConfig.from_pretrained(str(adapter))
        config.inference_mode = True
        weights = load_peft_weights(str(adapter), device="cpu")
        if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
            raise ValueError("its weights are no tensors by name")
        broken = [key for key, value in weights.items() if not value.isfinite().all()]
        if broken:
            raise ValueError(f"{len(broken)} of its weights are not finite, such as {broken[0]}")
    base = getattr(config, "base_model_name_or_path", None)
    if base and _get_last_part(base) != _get_last_part(name):
        log.warning(f"model.adapter: {adapter} was trained on {base}, and is merged into {name}")

    target, weights = _match(model, weights)
    advice = "set model.id to the model that it was trained on" + (f", {base}" if base else "")
    with _explain_refusal(f"an adapter of {name}, got {adapter}", advice), _keep_random_state(model):
        adapted = PeftModel(target, config)
        outcome = set_peft_model_state_dict(adapted, weights)
        _check_keys(
            outcome.missing_keys, outcome.unexpected_keys, PEFT_TYPE_TO_PREFIX_MAPPING[PeftType(config.peft_type)]
        )
    with _explain_refusal(f"an adapter that merges into weights, got {adapter}", "set model.adapter=null"):
        _untie(model)
        adapted.merge_and_unload()  # type: ignore[operator]
    return model.eval().requires_grad_(False)


def _read_config(adapter: Path) -> dict[str, Any]:
    try:
        config = json.loads((adapter / CONFIG).read_bytes())
        if not isinstance(config, dict):
            raise ValueError(f"{type(config).__name__} instead of an object")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.adapter: expected a JSON object in {adapter / CONFIG}, got {error}; save or download the adapter "
            "again, or set model.adapter=null"
        ) from error
    return config


def _require_plain_weights(model: PreTrainedModel) -> None:
    """Raise ValueError for weights to which nothing can be added."""
    quantiser = getattr(model, "hf_quantizer", None)
    unpacked = getattr(getattr(quantiser, "quantization_config", None), "dequantize", False)  # as from a GGUF file
    if (quantiser is not None or getattr(model, "is_quantized", False)) and not unpacked:
        raise ValueError(
            "model.adapter: expected weights that are not quantised, got quantised ones; merge the adapter into the "
            "full weights first, save the model and quantise that, or leave model.quantisation null"
        )
    if (getattr(model, "_tp_size", None) or 1) > 1:
        raise ValueError(
            "model.adapter: expected whole weights, got a model split by model.tp_plan; merge the adapter first and "
            "save the model, or use model.device_map"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            "model.adapter: expected all weights in memory, got some left on disk by model.device_map; merge the "
            "adapter first and save the model"
        )


def _match(model: PreTrainedModel, weights: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module that the adapter's names start from, and those of its weights that the model has a place for.

    An adapter is trained with a head (`model.layers...`) or without (`layers...`), and so may the model be loaded.
    """
    firsts = {key: key.removeprefix("base_model.model.").split(".")[0] for key in weights}
    names, body, prefix = set(firsts.values()), model.base_model, model.base_model_prefix
    if names <= {name for name, _ in model.named_children()}:
        return model, weights
    if body is not model and names <= {name for name, _ in body.named_children()}:
        return body, weights
    if body is model and prefix in names:
        from torch import nn

        shell = nn.Module()
        shell.add_module(prefix, model)
        shell.config, shell.is_gradient_checkpointing = model.config, False  # type: ignore[assignment]
        return shell, {key: value for key, value in weights.items() if firsts[key] == prefix}
    return model, weights


def _check_keys(missing: list[str], unexpected: list[str], prefix: str) -> None:
    """Refuse weights without a place, and places that would keep what they were drawn with."""
    lacking = [key for key in missing if prefix in key]
    if unexpected:
        raise ValueError(f"{len(unexpected)} of its weights have no place in the model, such as {unexpected[0]}")
    if lacking:
        raise ValueError(f"{len(lacking)} of its weights are missing, such as {lacking[0]}")


def _untie(model: PreTrainedModel) -> None:
    """Give the head a weight of its own where it shares one that the adapter changes in one of the two places."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper
    from torch import nn

    pair = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    if not any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in pair) or len(pair) < 2:
        return
    layers: list[Any] = [getattr(module, "base_layer", getattr(module, "original_module", module)) for module in pair]
    if layers[0].weight is layers[1].weight:
        layers[1].weight = nn.Parameter(layers[1].weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


@contextmanager
def _explain_refusal(expected: str, advice: str) -> Iterator[None]:
    """Turn what peft, torch and safetensors say into one line, and keep their warnings to themselves."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is checked
            yield
    except (
        *(ValueError, RuntimeError, KeyError, TypeError, AttributeError, OSError, EOFError, ImportError),
        *(SafetensorError, pickle.UnpicklingError),
    ) as error:
        if is_out_of_memory(error):  # no matter of the adapter
            raise
        text = re.sub(r"\x1b\[\d*m", "", str(error))  # torch prints parts of a message in bold
        if isinstance(error, KeyError):
            text = f"no {error.args[0]}"
        lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
        reason = lines[1] if lines[0].startswith("Error(s) in loading state_dict") and len(lines) > 1 else lines[0]
        raise ValueError(f"model.adapter: expected {expected} ({reason[:240].rstrip('.')}); {advice}") from error


@contextmanager
def _keep_random_state(model: PreTrainedModel) -> Iterator[None]:
    """peft draws weights before it loads them; a run with cached answers, which loads no model, draws none."""
    import torch

    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(devices)):
        yield


def _get_last_part(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
