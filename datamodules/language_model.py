"""Which language model answers, and how it is asked: loading, identity for the cache, and prompts as token ids."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

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
        prompt: what the model reads; `{question}` is replaced.
        name: shown to people; the id by default.
        revision: branch, tag or commit on the hub.
        dtype: torch dtype of weights and computation, such as `bfloat16`.
        chat: wrap the prompt as a user turn in the tokenizer's chat template.
        stop: text that ends an answer beside the stop tokens of the model.
        max_new_tokens: longest answer, in tokens.
        batch_size: examples in one forward.
        trust_remote_code: run code that comes with the weights.
    """

    id: str
    prompt: str = "{question}"
    name: str | None = None
    revision: str | None = None
    dtype: str = "bfloat16"
    chat: bool = False
    stop: str | None = None
    max_new_tokens: int = 100
    batch_size: int = 32
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if "{question}" not in self.prompt:
            raise ValueError(f"model.prompt: expected a text with {{question}} in it, got {self.prompt!r}; add it")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"model.dtype: expected float32, bfloat16 or float16, got {self.dtype!r}; choose one")
        self.name = self.name or self.id
        self._require_folder()

    def fetch(self) -> None:
        """Download a hub model that is not on this machine yet; a folder needs nothing."""
        if Path(self.id).is_dir():
            return
        patterns = [f"*{suffix}" for suffix in sorted(CONTENT - {".bin"})]
        try:
            snapshot_download(self.id, revision=self.revision, allow_patterns=patterns, ignore_patterns="consolidated*")
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"model.id: expected a folder or a hub id such as org/name, got {self.id!r} ({reason})"
            ) from error

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

    def load(self, device: torch.device | str) -> PreTrainedModel:
        """Load the weights onto `device`, ready for inference.

        Raises:
            ValueError: the folder or hub entry holds no causal language model.
        """
        try:
            model = AutoModelForCausalLM.from_pretrained(self.id, dtype=getattr(torch, self.dtype), **self.source())
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"model.id={self.id}: expected the weights of a causal language model, got none that load ({reason})"
            ) from error
        return model.eval().requires_grad_(False).to(device)  # type: ignore[arg-type]

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
        return {"source": source, "dtype": self.dtype}

    def encode(self, tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
        """Token ids of the whole prompt for one question, BOS as the tokenizer or the chat template sets it."""
        text = self.prompt.replace("{question}", question)
        if self.chat:
            turns = [{"role": "user", "content": text}]
            return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False))  # type: ignore[arg-type]
        return list(tokenizer(text).input_ids)

    def source(self) -> dict[str, Any]:
        """Arguments of every `from_pretrained` beside the id."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def _require_folder(self) -> None:
        """Refuse a path that does not exist before transformers takes it for a hub id."""
        looks_local = self.id.startswith((".", "/", "~")) or self.id.count("/") > 1
        if looks_local and not Path(self.id).is_dir():
            raise ValueError(
                f"model.id: expected a folder or a hub id such as org/name, got {self.id!r}: no such folder"
            )


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
