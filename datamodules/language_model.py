"""Which language model answers, and how it is asked: loading, identity for the cache, and prompts as token ids."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from datamodules.hub_errors import one_line

# Above this size a file is known by size, modification time and both ends instead of all its bytes: reading 14 GB to
# name a cache entry would take longer than reading the entry.
WHOLE_FILE_BYTES = 64 * 2**20
CONTENT = {
    ".safetensors",
    ".bin",
    ".json",
    ".model",
    ".jinja",
    ".txt",
    ".tiktoken",
    ".py",
}  # files that decide what is computed


@dataclass
class LanguageModel:
    """A causal language model from a hub id or a folder, with its prompt and generation settings.

    Attributes:
        id: hub id, or a folder holding configuration, weights and tokenizer.
        prompt: what the model reads; `{question}` is replaced. By default the question alone as a chat's user turn,
            and `Q: {question}`, `A:` for a base model.
        name: shown to people; the id by default.
        revision: branch, tag or commit on the hub.
        dtype: torch dtype of weights and computation, such as `bfloat16`.
        chat: wrap the prompt as a user turn in the tokenizer's chat template; `auto` does so where there is one.
        template: arguments of the chat template, such as `enable_thinking`.
        stop: text that ends an answer beside the stop tokens of the model; `auto` is the end of the line for a base
            model, nothing for a chat.
        max_new_tokens: longest answer, in tokens.
        thinking_tokens: longest thought before the answer, in tokens; comes on top of `max_new_tokens`.
        batch_size: examples in one forward, halved where memory runs out.
        device_map: spreads the weights over devices, as in transformers: `auto`, or module to device.
        tp_plan: splits them over processes, as in transformers: `auto`, under torchrun.
        quantisation: arguments of transformers' `BitsAndBytesConfig`, such as `load_in_4bit`; needs the extra of this
            name.
        trust_remote_code: run code that comes with the weights.
    """

    id: str
    prompt: str | None = None
    name: str | None = None
    revision: str | None = None
    dtype: str = "bfloat16"
    chat: bool | str = False
    template: dict[str, Any] | None = None
    stop: str | None = None
    max_new_tokens: int = 100
    thinking_tokens: int = 0
    batch_size: int = 32
    device_map: str | dict[str, Any] | None = None
    tp_plan: str | None = None
    quantisation: dict[str, Any] | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ValueError(f"model.id: expected a folder or a hub id such as org/name, got {self.id!r}")
        if self.quantisation is not None and not isinstance(self.quantisation, dict):
            raise ValueError(
                f"model.quantisation: expected arguments such as {{load_in_4bit: true}}, got {self.quantisation!r}"
            )
        for key in ("prompt", "revision", "stop", "tp_plan"):
            if not isinstance(getattr(self, key), str | None):
                raise ValueError(f"model.{key}: expected a text or null, got {getattr(self, key)!r}; quote it")
        if not isinstance(self.template, dict | None) or {"tokenize", "return_dict"} & set(self.template or ()):
            raise ValueError(
                f"model.template: expected arguments of the template such as {{enable_thinking: false}}, got "
                f"{self.template!r}"
            )
        if type(self.trust_remote_code) is not bool:
            raise ValueError(f"model.trust_remote_code: expected true or false, got {self.trust_remote_code!r}")
        if self.prompt is not None and "{question}" not in self.prompt:
            raise ValueError(f"model.prompt: expected a text with {{question}} in it, got {self.prompt!r}; add it")
        if not isinstance(self.chat, bool) and self.chat != "auto":
            raise ValueError(f"model.chat: expected true, false or auto, got {self.chat!r}")
        if self.device_map and self.tp_plan:
            raise ValueError("model: expected device_map or tp_plan, got both; leave one null")
        for key in ("max_new_tokens", "batch_size"):
            if type(getattr(self, key)) is not int or getattr(self, key) < 1:
                raise ValueError(f"model.{key}: expected a whole number above 0, got {getattr(self, key)!r}")
        if type(self.thinking_tokens) is not int or self.thinking_tokens < 0:
            raise ValueError(
                f"model.thinking_tokens: expected a whole number, 0 or above, got {self.thinking_tokens!r}; set one"
            )
        dtype = getattr(torch, str(self.dtype), None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"model.dtype: expected float32, bfloat16 or float16, got {self.dtype!r}; choose one")
        self.name = self.name or self.id
        self._require_folder()

    @property
    def token_limit(self) -> int:
        """Most tokens that it writes, thought and answer together."""
        return self.max_new_tokens + self.thinking_tokens

    def fetch(self) -> None:
        """Download a hub model that is not on this machine yet; a folder needs nothing."""
        if Path(self.id).is_dir():
            return
        patterns = [f"*{suffix}" for suffix in sorted(CONTENT - {".bin"})]
        with one_line("model", self.id, self.revision):
            snapshot = partial(snapshot_download, self.id, revision=self.revision, ignore_patterns="consolidated*")
            if not any(Path(snapshot(allow_patterns=patterns)).rglob("*.safetensors")):
                snapshot(allow_patterns="*.bin")  # an older repository

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer.

        Raises:
            ValueError: the folder or hub entry has none.
        """
        try:
            return AutoTokenizer.from_pretrained(self.id, **self.source())
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"model.id={self.id}: expected a tokenizer beside the weights, got none that loads ({reason}); "
                "save one there with tokenizer.save_pretrained"
            ) from error

    def load(self, device: torch.device | str, head: bool = True) -> PreTrainedModel:
        """Load the weights, ready for inference, onto `device` or where `device_map`, `tp_plan` or quantisation say.

        Args:
            device: where they go.
            head: with the head that gives the next token; without it, an encoder can be loaded too.

        Raises:
            ValueError: the folder or hub entry holds no such model.
        """
        if self.tp_plan and "WORLD_SIZE" not in os.environ:
            raise ValueError(
                "model.tp_plan: expected torchrun, which starts the processes, got one started by itself; begin the "
                "command with torchrun --standalone --nproc-per-node=2"
            )
        auto: Any = AutoModelForCausalLM if head else AutoModel
        try:
            model, told = auto.from_pretrained(
                self.id,
                dtype=getattr(torch, self.dtype),
                output_loading_info=True,
                **self._placement(),
                **self.source(),
            )
        except ImportError as error:
            raise ValueError(
                f"model: expected the packages that device_map and quantisation need, got "
                f"{' '.join(str(error).split())[:120]}; pip install -c constraints.txt -e '.[quantisation]'"
            ) from error
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"model.id={self.id}: expected the weights of a {'causal ' * head}language model, got none that load "
                f"({reason})"
            ) from error
        # Weights that are missing would be drawn at random. A pooler stands behind every block.
        missing = sorted(name for name in told["missing_keys"] if head or "pooler" not in name)
        if missing:
            raise ValueError(
                f"model.id={self.id}: expected every weight, got none for {len(missing)}, such as {missing[0]}; "
                "fetch or save the model again"
            )
        if head:  # of its settings only the stop tokens: beams, penalties and least lengths are not greedy answers
            model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
        model = model.eval().requires_grad_(False)
        placed = self.device_map or self.tp_plan or self.quantisation
        return model if placed else model.to(device)  # type: ignore[arg-type]

    def identity(self) -> dict[str, Any]:
        """What the content of activations depends on, for the cache key: files by digest, or the hub commit."""
        folder = Path(self.id)
        if folder.is_dir():
            source: Any = {
                str(path.relative_to(folder)): _digest(path)
                for path in sorted(folder.rglob("*"))
                if path.suffix in CONTENT and path.is_file()
            }
        else:
            config = AutoConfig.from_pretrained(self.id, **self.source())
            source = {"id": self.id, "commit": config._commit_hash}
        return {"source": source, "dtype": self.dtype} | (
            {"quantisation": self.quantisation} if self.quantisation else {}
        )

    def chats(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether prompts are wrapped in the chat template.

        Raises:
            ValueError: `chat` is true and the tokenizer has no template.
        """
        if self.chat is True and not tokenizer.chat_template:
            raise ValueError(
                f"model.chat: expected a tokenizer with a chat template, got {self.id} without one; "
                "set model.chat=false, or auto"
            )
        return bool(self.chat and tokenizer.chat_template)

    def stop_text(self, tokenizer: PreTrainedTokenizerBase) -> str | None:
        """The text that ends an answer, if any."""
        if self.stop != "auto":
            return self.stop
        return None if self.chats(tokenizer) else "\n"

    def encode(self, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[list[int]]:
        """Token ids of the prompts for N questions; BOS as tokenizer or chat template set it, but not twice.

        Raises:
            ValueError: the chat template fails.
        """
        chats = self.chats(tokenizer)
        prompt = self.prompt or ("{question}" if chats else "Q: {question}\nA:")
        texts = [prompt.replace("{question}", question) for question in questions]
        if chats:
            turns = [[{"role": "user", "content": text}] for text in texts]
            more = {"add_generation_prompt": True, "return_dict": False, **(self.template or {})}
            try:
                every: Any = tokenizer.apply_chat_template(turns, tokenize=True, **more)
            except (TemplateError, TypeError) as error:
                raise ValueError(
                    f"model.template: expected a chat template that takes one question, got {str(error)[:200]}; set "
                    "model.chat=false, or mend the template"
                ) from error
        else:
            every = tokenizer(texts).input_ids
        eos, bos, encoded = tokenizer.eos_token_id, tokenizer.bos_token_id, []
        for text, ids in zip(texts, every, strict=True):
            ends = 0 if chats or len(ids) < 2 or ids[-1] != eos or text.endswith(str(tokenizer.eos_token)) else 1
            begins = 0
            while begins + 1 < len(ids) and ids[begins] == ids[begins + 1] == bos:
                begins += 1
            encoded.append(list(ids[begins : len(ids) - ends]))  # a prompt is to be continued, so no EOS ends it
        return encoded

    def source(self) -> dict[str, Any]:
        """Arguments of every `from_pretrained` beside the id."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def _placement(self) -> dict[str, Any]:
        """Arguments that say on which devices, and in how many bits, weights lie; only those that are given."""
        given = {"device_map": self.device_map, "tp_plan": self.tp_plan}
        if self.quantisation:
            given["quantization_config"] = BitsAndBytesConfig(**self.quantisation)
        return {key: value for key, value in given.items() if value}

    def _require_folder(self) -> None:
        """Refuse a path that does not exist before transformers takes it for a hub id."""
        looks_local = self.id.startswith((".", "/", "~")) or self.id.count("/") > 1
        if looks_local and not Path(self.id).is_dir():
            raise ValueError(
                f"model.id: expected a folder or a hub id such as org/name, got {self.id!r}: no such folder"
            )
        if Path(self.id).is_dir() and not (Path(self.id) / "config.json").is_file():
            raise ValueError(f"model.id: expected a folder with config.json, weights and tokenizer, got {self.id!r}")


def _digest(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        ends = hashlib.sha256(f"{size} {path.stat().st_mtime_ns}".encode())
        ends.update(file.read(2**20))
        file.seek(-(2**20), 2)
        ends.update(file.read())
        return ends.hexdigest()
