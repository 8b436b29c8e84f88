"""A language model that is loaded once and used by many calls, from whatever people give as a model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from datamodules.language.kept_model import KeptModel, require_loaded
from datamodules.language.language_model import DTYPES, LanguageModel
from datamodules.language.named_choices import make_named
from datamodules.language.placement import choose_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Settings that decide which weights are loaded, and where; the others decide what the model reads and writes.
OF_WEIGHTS = (
    "id", "revision", "gguf", "adapter", "dtype", "device", "device_map", "tp_plan", "quantisation",
    "trust_remote_code", "random_weights",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A language model in memory, which `ask` and `capture` take. `load_model` makes one.

    Attributes:
        model: its prompt and generation settings.
        network: the loaded weights, a model of transformers.
        tokenizer: of the model.
    """

    model: LanguageModel
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def __repr__(self) -> str:
        dtype = str(self.network.dtype).removeprefix("torch.")
        return f"LoadedModel({self.model.title!r}, {dtype}, on {self.network.device})"

    def change(self, settings: Mapping[str, Any]) -> LoadedModel:
        """The same weights with other settings of prompts and answers.

        Raises:
            ValueError: no such setting, or one of the weights.
        """
        if late := [key for key in settings if key in OF_WEIGHTS]:
            raise ValueError(
                f"{late[0]}: expected settings of prompts and answers for a loaded model, got one of its weights; "
                "load the model with it"
            )
        return replace(self, model=change_settings(self.model, settings))

    def run(self, head: bool) -> KeptModel:
        """The model at work, for `with`; it stays loaded.

        Args:
            head: whether it writes answers.

        Raises:
            ValueError: it has no head, or is no longer ready for inference.
        """
        if head and not self.network.can_generate():
            raise ValueError(
                f"model: expected a model that writes answers, got {type(self.network).__name__} without a head; load "
                "it with AutoModelForCausalLM, or load_model"
            )
        return KeptModel(self.model, self.network.device, head, self.network, self.tokenizer)


def load_model(model: Any, tokenizer: PreTrainedTokenizerBase | None = None, **settings: Any) -> LoadedModel:
    """Load a language model once for many calls of `ask` and `capture`.

    Args:
        model: a name of conf/model, such as `demo`, a hub id, a folder or a GGUF file; a `LanguageModel`; or a model of
            transformers that is loaded already, which is used as it is.
        tokenizer: of a model that is loaded already.
        settings: attributes of `LanguageModel` in place of the model's own; of a model that is loaded already, those of
            prompts and answers.

    Returns:
        the model in memory, on the GPU where there is one, unless `device` names another.

    Raises:
        ValueError: no such model or setting; random weights, which write no answers; see also `require_loaded`.

    Example:
        >>> model = load_model("demo")  # doctest: +SKIP
        >>> read = capture(model, ask(model, ["Where was Mokena Tont born?"]))  # loads nothing  # doctest: +SKIP
    """
    if isinstance(model, LoadedModel):
        _refuse_tokenizer(tokenizer)
        return model.change(settings)
    if isinstance(model, transformers.PreTrainedModel):
        return _wrap(model, tokenizer).change(settings)
    _refuse_tokenizer(tokenizer)
    made = make_model(model, **settings)
    if made.random_weights:
        raise ValueError(
            "random_weights: expected a model that answers, got random weights; give the name to capture, which loads "
            "them"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.fetch()
        network = made.load(choose_device(made.device, find_device()))
        return LoadedModel(made, network, made.load_tokenizer())


def split_loaded(
    model: Any, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel | None, PreTrainedTokenizerBase | None]:
    """The weights and the tokenizer of a model that is loaded already; no weights where it is not.

    Args:
        model: what people gave as a model.
        tokenizer: of a model of transformers.

    Raises:
        ValueError: see `require_loaded`.

    >>> split_loaded("demo", None)
    (None, None)
    """
    if isinstance(model, LoadedModel):
        _refuse_tokenizer(tokenizer)
        model, tokenizer = model.network, model.tokenizer
    if not isinstance(model, transformers.PreTrainedModel):
        return None, tokenizer
    require_loaded(model, tokenizer)
    return model, tokenizer


def make_model(model: Any, **settings: Any) -> LanguageModel:
    """A language model, not loaded, from a name, a folder, a file or another `LanguageModel`.

    >>> make_model("demo", max_new_tokens=8).token_limit
    8
    """
    if isinstance(model, str):
        key = "gguf" if model.lower().endswith(".gguf") else "id"
        model = make_named("model", model) or make_named("model", "hf", {key: model})
    if not isinstance(model, LanguageModel):
        raise ValueError(
            "model: expected a LanguageModel, a hub id, a folder, a GGUF file or a loaded model of transformers, got "
            f"{type(model).__name__}; give one of these"
        )
    return change_settings(model, settings)


def change_settings(model: LanguageModel, settings: Mapping[str, Any]) -> LanguageModel:
    """The model with other settings.

    Raises:
        ValueError: it has no such setting.
    """
    known = [one.name for one in fields(LanguageModel)]
    if unknown := [key for key in settings if key not in known]:
        raise ValueError(
            f"{unknown[0]}: expected a setting of LanguageModel, one of {', '.join(known)}; correct the name"
        )
    return replace(model, **settings)


def find_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def _wrap(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> LoadedModel:
    """A model that others loaded, with the settings of conf/model/hf.yaml."""
    require_loaded(network, tokenizer)
    assert tokenizer is not None
    dtype = str(network.dtype).removeprefix("torch.")
    given: dict[str, Any] = {"dtype": dtype} if dtype in DTYPES else {}
    given["name"] = Path(str(network.config.name_or_path)).name or type(network).__name__
    made = make_named("model", "hf", given | {"id": "loaded/model", "adapter": None})  # its files are not looked for
    return LoadedModel(made, network, tokenizer)


def _refuse_tokenizer(tokenizer: object) -> None:
    if tokenizer is not None:
        raise ValueError(
            "tokenizer: expected one beside a model of transformers alone, got one beside a model that brings its own; "
            "leave it out"
        )
