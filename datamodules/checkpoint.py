"""The files of a language model on this machine, and what is loaded from them: configuration, tokenizer, weights.

A checkpoint is a folder in the layout of transformers, or one GGUF file, whose weights are unpacked while they load.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.import_utils import is_gguf_available

GGUF_MAGIC = b"GGUF"
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files are.

    Attributes:
        folder: holds the files.
        named: how a message names it: the option of the configuration with its value.
        gguf: name of the GGUF file in the folder; None: the folder holds `config.json` and weights.
        trust_remote_code: run code that comes with the weights.
    """

    folder: Path
    named: str
    gguf: str | None = None
    trust_remote_code: bool = False

    @property
    def path(self) -> Path:
        """The folder, or the one file."""
        return self.folder / self.gguf if self.gguf else self.folder

    def load_config(self) -> PretrainedConfig:
        """Configuration of the language part.

        Raises:
            ValueError: the files describe no model that transformers knows.
        """
        config = self._load("a configuration that transformers reads", AutoConfig.from_pretrained)
        return config.get_text_config(decoder=True)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer.

        Raises:
            ValueError: there is none.
        """
        expected = "a tokenizer beside the weights" if self.gguf is None else "a tokenizer in the file"
        cure = "save one there with tokenizer.save_pretrained" if self.gguf is None else "choose another file"
        return self._load(expected, AutoTokenizer.from_pretrained, cure)

    def load_network(self, dtype: torch.dtype, head: bool, placement: dict[str, Any]) -> PreTrainedModel:
        """Load the weights, ready for inference, on the CPU or where `placement` says.

        Args:
            dtype: of weights and computation.
            head: with the head that gives the next token; without it, an encoder can be loaded too.
            placement: `device_map`, `tp_plan`, `quantization_config` of `from_pretrained`, those that are given.

        Raises:
            ValueError: the files hold no such model, or not all of its weights.
        """
        auto: Any = AutoModelForCausalLM if head else AutoModel
        unpacked = {"quantization_config": GgufConfig(dequantize=True)} if self.gguf else {}
        model, told = self._load(
            f"the weights of a {'causal ' * head}language model",
            auto.from_pretrained,
            dtype=dtype,
            output_loading_info=True,
            **unpacked,
            **placement,
        )
        # Weights that are missing would be drawn at random. A pooler stands behind every block.
        missing = sorted(name for name in told["missing_keys"] if head or "pooler" not in name)
        if missing:
            raise ValueError(
                f"{self.named}: expected every weight, got none for {len(missing)}, such as {missing[0]}; fetch or "
                "save the model again"
            )
        if head:  # of its settings only the stop tokens: beams, penalties and least lengths are not greedy answers
            model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
        return model.eval().requires_grad_(False)

    def check_gguf(self) -> None:
        """Refuse a GGUF file that is not there, is none, or cannot be read here.

        Raises:
            ValueError: says what to do.
        """
        if not self.path.is_file():
            raise ValueError(f"{self.named}: expected a GGUF file, got {self.path}: no such file")
        with self.path.open("rb") as file:
            begins = file.read(len(GGUF_MAGIC))
        if begins != GGUF_MAGIC:
            raise ValueError(f"{self.named}: expected a GGUF file, got one that begins with {begins!r}")
        if not is_gguf_available():
            raise ValueError(
                f"{self.named}: expected the package gguf, which reads such files, got none of the version that "
                'transformers needs; pip install -c constraints.txt -e ".[gguf]"'
            )

    def _load(self, expected: str, load: Callable[..., Loaded], cure: str = "", **settings: Any) -> Loaded:
        if self.gguf:
            settings["gguf_file"] = self.gguf
        with self._one_line(expected, cure):
            return load(str(self.folder), trust_remote_code=self.trust_remote_code, **settings)

    @contextmanager
    def _one_line(self, expected: str, cure: str) -> Iterator[None]:
        """Turn what transformers says of broken files into one line."""
        behind = f"; {cure}" if cure else ""
        try:
            yield
        except ImportError as error:
            raise ValueError(
                f"model: expected the packages that device_map and quantisation need, got "
                f"{' '.join(str(error).split())[:120]}; pip install -c constraints.txt -e '.[quantisation]'"
            ) from error
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # readers of damaged files raise nearly anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise ValueError(f"{self.named}: expected {expected}, got none that loads ({reason}){behind}") from error
