"""A running model that keeps its weights, and what a model that is loaded already must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers

from datamodules.language.generation import require_embeddings
from datamodules.language.identity import TEXT
from datamodules.language.running_model import RunningModel

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from datamodules.language.language_model import LanguageModel


def require_loaded(network: Any, tokenizer: Any) -> None:
    """Check that a loaded model and a tokenizer can be used together.

    Args:
        network: a model of transformers, loaded by others.
        tokenizer: of this model.

    Raises:
        ValueError: there is no tokenizer; it writes tokens that the model lacks; the model has no weights in memory,
            or is in training mode.

    Example:
        >>> require_loaded(AutoModelForCausalLM.from_pretrained("gpt2"), None)  # doctest: +SKIP
        ValueError: tokenizer: expected the tokenizer of the loaded model, got none; give tokenizer=...
    """
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
        got = "none" if tokenizer is None else type(tokenizer).__name__
        raise ValueError(
            f"tokenizer: expected the tokenizer of the loaded model, got {got}; give "
            "tokenizer=AutoTokenizer.from_pretrained(...)"
        )
    if any(weight.is_meta for weight in network.parameters()) and not getattr(network, "hf_device_map", None):
        raise ValueError(
            f"model: expected weights in memory, got {type(network).__name__} on the meta device, which holds none; "
            "load it with from_pretrained"
        )
    if network.training:
        raise ValueError(
            f"model: expected a model ready for inference, got {type(network).__name__} in training mode, where "
            "dropout changes what is read; call model.eval()"
        )
    require_embeddings(network, tokenizer, [tokenizer(TEXT).input_ids])


class KeptModel(RunningModel):
    """A running model that keeps its weights from one use to the next.

    Args:
        model: which model, with its prompt and generation settings.
        device: where it runs, unless `model.device` names another.
        head: whether its head is loaded, which writes answers.
        network: the loaded model, if it is loaded; `model` then gives the settings alone.
        tokenizer: of a loaded model.
        memory: as that of `RunningModel`.

    Raises:
        ValueError: see `require_loaded` and `RunningModel`.
    """

    def __init__(
        self,
        model: LanguageModel,
        device: torch.device,
        head: bool,
        network: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        memory: Path | None = None,
    ) -> None:
        self._given: Any = None  # generation settings of a loaded model, while ours are in their place
        if network is None:
            super().__init__(model, device, head, True, memory)
            return
        require_loaded(network, tokenizer)
        assert tokenizer is not None
        self.model, self.device, self.head, self.quiet = model, network.device, head, True
        self.tokenizer = tokenizer
        self._agreed, self._entry = {}, None
        self.__dict__ |= {"network": network, "config": network.config.get_text_config(decoder=True)}

    def __enter__(self) -> KeptModel:
        super().__enter__()
        network = self.__dict__.get("network")
        self._given = getattr(network, "generation_config", None)
        if network is not None and self._given is not None:
            # As `Checkpoint.load_network` leaves it: with beams, penalties or minimum lengths answers are not greedy.
            network.generation_config = transformers.GenerationConfig(eos_token_id=self._given.eos_token_id)
        return self

    def __exit__(self, *_: object) -> None:
        if self._given is not None:
            self.network.generation_config = self._given
            self._given = None
        super().__exit__()

    def free(self) -> None:
        """Keep the weights."""
