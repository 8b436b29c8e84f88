"""The language model and its settings: its files, its identity for the cache key, and its prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from datamodules.language.adapter import CONFIG as ADAPTER_CONFIG
from datamodules.language.adapter import WEIGHTS as ADAPTER_WEIGHTS
from datamodules.language.adapter import find_adapter, list_adapter_files
from datamodules.language.chat import NOT_OF_TEMPLATES, find_turn_end, reads_clock
from datamodules.language.checkpoint import Checkpoint, fetch_checkpoint, find_checkpoint, is_hub_id, require_checkpoint
from datamodules.language.device_settings import check_layout
from datamodules.language.digests import digest_files
from datamodules.language.prompts import Asked, encode_chats, encode_texts, unescape
from datamodules.questions.snapshot import fetch_snapshot, find_snapshot
from datamodules.stream.ranges import Count, Dtype, NotNegative, Prompt, Text

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Day = date  # a setting of the model has the name as well
DTYPES = get_args(Dtype)
TEXTS = ("prompt", "chat_prompt", "base_prompt", "stop")  # in which \n and \t are a line break and a tab


@dataclass
class LanguageModel:
    """A causal language model from a hub id, a folder or a GGUF file, with its prompt and generation settings.

    Attributes:
        id: hub id, or a folder holding configuration, weights and tokenizer; null beside `gguf`.
        gguf: a GGUF file with the weights and the tokenizer, in place of those of `id`; needs the extra of this name.
        adapter: folder or hub id of an adapter that is merged into the weights; `auto` uses the one in the model's
            folder, if any; null uses none. Needs the extra of this name.
        prompt: what the model reads, whether it chats or not; `{question}` is replaced.
        chat_prompt: the same for models that chat, where `prompt` is null; by default the question alone. Data sets
            set it to a request that fits their questions, such as one for a short answer.
        base_prompt: the same for base models, where `prompt` is null; by default `Q: {question}`, `A:`.
            Data sets set it likewise.
        name: shown to people; the id, or the name of the GGUF file, by default.
        revision: branch, tag or commit on the hub.
        dtype: torch dtype of weights and computation, such as `bfloat16`.
        chat: wrap the prompt as a user turn in the tokenizer's chat template; `auto` does so where there is one.
        template: arguments of the chat template, such as `enable_thinking`.
        date: the date for chat templates that write it, fixed so that prompts do not change from day to day.
        stop: text that ends an answer, in addition to the stop tokens of the model; `auto` is the end of the line for a
            base model, nothing for a chat.
        max_new_tokens: longest answer, in tokens.
        thinking_tokens: longest thought before the answer, in tokens; comes on top of `max_new_tokens`.
        batch_size: examples in one forward, fewer where memory runs out.
        answer_batch_size: answers written at once, fewer where memory runs out; `auto` is `batch_size`, and on a CUDA
            device as many as memory is found to hold, 256 at most.
        device: `cpu`, `cuda` or `mps`, where it runs; null is the device of the trainer.
        device_map: spreads the weights over devices, as in transformers: `auto`, or module to device.
        tp_plan: splits them over processes, as in transformers: `auto`, under torchrun.
        quantisation: arguments of transformers' `BitsAndBytesConfig`, such as `load_in_4bit`; needs the extra of this
            name.
        trust_remote_code: run code that comes with the weights.
        random_weights: read activations from this architecture with random weights, without an adapter; answers are
            still those of the trained model (see `trained`). A control: what needs no training to be read.

    `\\n` and `\\t` in prompts and `stop` are a line break and a tab, and two backslashes are one: a command line cannot
    give them otherwise.

    Example:
        >>> model = LanguageModel(id="gpt2", base_prompt="{question} Answer:", max_new_tokens=20)
        >>> model.name, model.token_limit
        ('gpt2', 20)
    """

    id: str | None = None
    prompt: Prompt | None = None
    chat_prompt: Prompt | None = None
    base_prompt: Prompt | None = None
    name: Text | None = None
    revision: Text | None = None
    gguf: str | None = None
    adapter: str | None = "auto"
    dtype: Dtype = "bfloat16"
    chat: bool | Literal["auto"] = False
    template: dict[str, Any] | None = None
    date: Text = "2024-07-26"
    stop: str | None = None
    max_new_tokens: Count = 100
    thinking_tokens: NotNegative = 0
    batch_size: Count = 32
    answer_batch_size: Count | Literal["auto"] = "auto"
    device: Literal["cpu", "cuda", "mps"] | None = None
    device_map: Text | dict[str, Any] | None = None
    tp_plan: Text | None = None
    quantisation: dict[str, Any] | None = None
    trust_remote_code: bool = False
    random_weights: bool = False

    def __post_init__(self) -> None:
        for key in (*TEXTS, "id", "gguf", "adapter", "revision", "tp_plan"):
            if not isinstance(getattr(self, key), str | None):
                raise ValueError(f"model.{key}: expected a text or null, got {getattr(self, key)!r}; quote it")
        given = self.gguf or self.id
        if not given:
            raise ValueError(
                f"model.id: expected a folder, a hub id such as org/name, or model.gguf=FILE, got {self.id!r}; set one"
            )
        for key, example in (("quantisation", "load_in_4bit: true"), ("template", "enable_thinking: false")):
            value = getattr(self, key)
            if not isinstance(value, dict | None) or NOT_OF_TEMPLATES & set(value or ()):
                raise ValueError(f"model.{key}: expected arguments such as {{{example}}}, got {value!r}")
        for key in TEXTS:
            text = getattr(self, key)
            if text is not None and key != "stop" and "{question}" not in text:
                raise ValueError(f"model.{key}: expected a text with {{question}} in it, got {text!r}; add it")
        for key in ("trust_remote_code", "random_weights"):
            if type(getattr(self, key)) is not bool:
                raise ValueError(f"model.{key}: expected true or false, got {getattr(self, key)!r}")
        if not isinstance(self.chat, bool) and self.chat != "auto":
            raise ValueError(f"model.chat: expected true, false or auto, got {self.chat!r}")
        if self.adapter not in (None, "auto") and (self.quantisation or self.tp_plan):
            raise ValueError(
                "model.adapter: expected whole weights that are not quantised, got model.quantisation or model.tp_plan "
                "too; merge the adapter first and save the model"
            )
        if self.gguf and self.quantisation:
            raise ValueError("model: expected gguf, which is unpacked, or quantisation, got both; leave one null")
        for key in ("max_new_tokens", "batch_size", "answer_batch_size"):
            value, auto = getattr(self, key), " or auto" * (key == "answer_batch_size")
            if not (auto and value == "auto") and (type(value) is not int or value < 1):
                raise ValueError(f"model.{key}: expected a whole number above 0{auto}, got {value!r}")
        if type(self.thinking_tokens) is not int or self.thinking_tokens < 0:
            raise ValueError(
                f"model.thinking_tokens: expected a whole number, 0 or above, got {self.thinking_tokens!r}; set one"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"model.dtype: expected float32, bfloat16 or float16, got {self.dtype!r}; choose one")
        check_layout(self.device, self.device_map, self.tp_plan, self.quantisation, self.random_weights)
        _parse_day(self.date)
        self.name = self.name or (Path(self.gguf).stem if self.gguf else given)
        require_checkpoint(self.id, self.gguf)

    @property
    def token_limit(self) -> int:
        """Highest number of tokens that it writes, thought and answer together."""
        return self.max_new_tokens + self.thinking_tokens

    @property
    def trained(self) -> LanguageModel:
        """The same model with its own weights, which writes the answers."""
        return replace(self, random_weights=False)

    @property
    def title(self) -> str:
        """What people are shown: the name, and whether the weights are random."""
        return f"{self.name}, random weights" if self.random_weights else str(self.name)

    def fetch(self) -> None:
        """Download a hub model, or an adapter, that is not on this machine yet; a folder or a file needs nothing."""
        if self.gguf is None:
            fetch_checkpoint(str(self.id), self.revision)
        if self._adapter_is_on_hub:
            fetch_snapshot("model", str(self.adapter), None, [ADAPTER_CONFIG, *ADAPTER_WEIGHTS], key="model.adapter")

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's files on this machine; those of the hub were fetched before."""
        return find_checkpoint(self.id, self.revision, self.gguf, self.trust_remote_code)

    @cached_property
    def adapter_folder(self) -> Path | None:
        """Folder of the adapter that is merged into the weights; None if there is none."""
        adapter = self.adapter
        if self._adapter_is_on_hub:
            adapter = str(find_snapshot("model", str(adapter), None, key="model.adapter"))
        return find_adapter(adapter, self.checkpoint.folder)

    def load_config(self, memory: Path | None = None) -> PretrainedConfig:
        """Configuration of the language part; `memory` is that of `identify`."""
        return self.checkpoint.load_config(memory)

    def load_tokenizer(self, memory: Path | None = None) -> PreTrainedTokenizerBase:
        """Load the tokenizer; `memory` is that of `identify`.

        Raises:
            ValueError: the model has none.
        """
        return self.checkpoint.load_tokenizer(memory)

    def load(self, device: torch.device | str, head: bool = True) -> PreTrainedModel:
        """Load the weights, ready for inference, onto `device` or where `device_map`, `tp_plan` or quantisation say.

        Args:
            device: device of the weights.
            head: load the head that predicts the next token; without it, an encoder can be loaded too.

        Raises:
            ValueError: there are no such weights, the adapter does not fit them, or the memory does not hold them.
        """
        import torch

        from datamodules.language.placement import Weights

        layout = self.device_map, self.tp_plan, self.quantisation
        adapter = None if self.random_weights else self.adapter_folder
        dtype = getattr(torch, self.dtype)
        weights = Weights(self.checkpoint, adapter, str(self.name), dtype, *layout, self.random_weights)
        return weights.load(torch.device(device), head)

    def identify(self, memory: Path | None = None) -> dict[str, Any]:
        """Return the identity of the model for the cache key: digests of its files, or the hub commit.

        Args:
            memory: folder in which digests of large files, and what was read of a GGUF file, are remembered; or None.
        """
        identity = {"source": self.checkpoint.identify(memory), "dtype": self.dtype}
        if self.random_weights:
            return identity | {"random_weights": True}
        if self.quantisation:
            identity["quantisation"] = self.quantisation
        if self.adapter_folder is not None:
            adapter = digest_files(list_adapter_files(self.adapter_folder), memory)
            identity["adapter"] = {path.name: digest for path, digest in adapter.items()}
        return identity

    def chats(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether prompts are wrapped in the chat template.

        Raises:
            ValueError: `chat` is true and the tokenizer has no template.
        """
        if self.chat is True and not tokenizer.chat_template:
            raise ValueError(
                f"model.chat: expected a tokenizer with a chat template, got {self.name} without one; "
                "set model.chat=false, or auto"
            )
        return bool(self.chat and tokenizer.chat_template)

    def find_stop_text(self, tokenizer: PreTrainedTokenizerBase) -> str | None:
        """The text that ends an answer, if any."""
        if self.stop != "auto":
            return self.stop and unescape(self.stop)
        return None if self.chats(tokenizer) else "\n"

    def find_stop_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Return tokens that end an answer, in addition to those in the settings of the model; ascending.

        Fine-tuned models often leave one out: the tokenizer's end of text, or the end of a turn in the template.
        """
        ends: list[Any] = [tokenizer.eos_token_id, find_turn_end(tokenizer) if self.chats(tokenizer) else None]
        return sorted({token for token in ends if token is not None})

    def find_end(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """Return the token with which the model ends an answer: the end of a turn in a chat, else of the text."""
        end = find_turn_end(tokenizer) if self.chats(tokenizer) else None
        return tokenizer.eos_token_id if end is None else end  # pyright: ignore[reportReturnType]

    def encode(self, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Asked]) -> list[list[int]]:
        """Return token ids of the prompts for N questions, or for the turns of N chats before the answer.

        Raises:
            ValueError: the chat template fails or leaves a text out, or there is none for a chat.
        """
        if self.chats(tokenizer):
            return encode_chats(tokenizer, self.find_prompt(tokenizer), asked, self.template or {}, self.day)
        return encode_texts(tokenizer, self.find_prompt(tokenizer), asked)

    def find_prompt(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The text with `{question}` that the model reads: `prompt`, or the one for models that chat or do not."""
        if self.chats(tokenizer):
            return unescape(self.prompt or self.chat_prompt or "{question}")
        return unescape(self.prompt or self.base_prompt or "Q: {question}\nA:")

    @property
    def day(self) -> Day:
        """The date that chat templates see."""
        return _parse_day(self.date)

    def writes_date(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether prompts contain the current date; `date` is then used for it."""
        return self.chats(tokenizer) and reads_clock(tokenizer, self.template or {}, self.day)

    @property
    def _adapter_is_on_hub(self) -> bool:
        return self.adapter not in (None, "auto") and is_hub_id(str(self.adapter))


def _parse_day(text: object) -> date:
    try:
        return date.fromisoformat(str(text))
    except ValueError:
        raise ValueError(f"model.date: expected a day such as 2024-07-26, got {text!r}") from None
