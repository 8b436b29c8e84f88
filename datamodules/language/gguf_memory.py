"""Keeps the configuration and the tokenizer of a GGUF file as the files that transformers saves, which load at once.

transformers makes an object of every word of the header, for each of the two, which takes seconds. What it made is kept
in the cache under a name that tells the content of the GGUF file, the files beside it, and the versions of the
packages. Each of the two is kept only if it loads from its files as it was read.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import transformers
from transformers.utils.logging import set_verbosity_error

from datamodules.language.cache.checksums import check_files
from datamodules.language.cache.entry import compute_key
from datamodules.language.digests import digest_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

VERSION = 1  # of what is kept
PACKAGES = ("gguf", "tokenizers", "transformers")  # that read a file and what was kept of it
# Files in the folder of a GGUF file that transformers takes for its tokenizer, before what the file itself holds.
BESIDE = ("*.json", "*.jinja", "*.model", "*.spm", "*.tiktoken", "vocab*", "merges*", "additional_chat_templates/*")
RECORD, SEAL, MANIFEST = "record.json", ".seal", "manifest.json"
SETTINGS = (
    *("special_tokens_map", "all_special_ids", "extra_special_tokens", "chat_template", "model_max_length"),
    *("padding_side", "truncation_side", "model_input_names", "split_special_tokens", "clean_up_tokenization_spaces"),
)
# Texts on which tokenizers differ: case, accents, digits, blanks, scripts, code, emoji, words like special tokens.
TEXTS = (
    *("", " ", "a", " leading, trailing ", "\n\n\ttabs\r\n   blanks", "\x00\ufffd"),
    "In 1999, was  Zoë's café\nin Zürich or in 北京?",
    "I'm, you'll, WE'VE: 3.14159, 1,000,000 and 1e-9",
    "def f(x):\n    return x**2  # π",
    "👩\u200d🚀🏳️\u200d🌈 e\u0301 ﬁ \u200b",
    "Привет, мир! שלום مرحبا नमस्ते こんにちは",
    "<s>a</s> <|im_start|>user\nb<|im_end|> [INST] <unk> <pad>",
)


@dataclass(frozen=True)
class GgufMemory:
    """What is kept of one GGUF file.

    Attributes:
        path: the GGUF file.
        memory: folder in which things are remembered of large files, as that of `digest_files`.

    Example:
        >>> kept = GgufMemory(Path("model.gguf"), Path("cache/digests"))  # doctest: +SKIP
        >>> kept.keep(config, tokenizer)  # doctest: +SKIP
        >>> kept.load_config().num_hidden_layers  # doctest: +SKIP
        30
    """

    path: Path
    memory: Path

    @cached_property
    def content(self) -> dict[str, Any]:
        """All that what is kept depends on."""
        beside = sorted({file for pattern in BESIDE for file in self.path.parent.glob(pattern) if file.is_file()})
        digests = digest_files([self.path, *(file for file in beside if file != self.path)], self.memory)
        file = digests.pop(self.path)
        others = {file.relative_to(self.path.parent).as_posix(): digest for file, digest in digests.items()}
        return {"kept": VERSION, "file": file, "beside": others, "packages": {name: version(name) for name in PACKAGES}}

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.memory / "gguf" / compute_key(self.content)

    def load_config(self) -> PretrainedConfig | None:
        """The whole configuration; None where none is kept, or its files are damaged."""
        return self._load("config")

    def load_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer; None where none is kept, or its files are damaged."""
        return self._load("tokenizer")

    def load_or_keep(
        self, config: PretrainedConfig, read: Callable[[], PreTrainedTokenizerBase]
    ) -> PreTrainedTokenizerBase:
        """The tokenizer that is kept; else the one that `read` gives, kept for the next time with its configuration."""
        tokenizer = self.load_tokenizer()
        if tokenizer is None:
            tokenizer = read()
            self.keep(config, tokenizer)
        return tokenizer

    def keep(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Keep what was read of the file, whole or not at all, unless it is kept already.

        What cannot be kept only makes the next run slower.
        """
        with suppress(Exception):  # code of others may fail in any way
            if self._list_files():
                return
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(".tmp", ".", self.folder.parent, ignore_cleanup_errors=True) as temporary:
                made = Path(temporary) / "made"  # a folder within, as nobody else may open the outer one
                made.mkdir()
                self._save(made, {"config": config, "tokenizer": tokenizer})
                if GgufMemory(self.path, self.memory).content != self.content:
                    return  # a file was changed while it was read
                with suppress(FileNotFoundError):
                    self.folder.rename(Path(temporary) / "damaged")
                made.rename(self.folder)  # fails where another process was faster

    def _save(self, folder: Path, parts: dict[str, Any]) -> None:
        """Write the parts that load as they were, and the record of their files, whose checksums tell damage."""
        before = {name: DESCRIBE[name](part) for name, part in parts.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, part in parts.items():
                parts["config"].save_pretrained(folder / name)  # says which tokenizer it is
                part.save_pretrained(folder / name)
                if not self._restores(folder / name, before[name]):
                    shutil.rmtree(folder / name)
        (folder / MANIFEST).write_text(json.dumps({"name": self.path.name, **self.content}, indent=1))
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        record = {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in digest_files(files, None).items()
        }
        (folder / RECORD).write_text(json.dumps(record, indent=1))

    def _restores(self, folder: Path, before: Any) -> bool:
        """Whether the files of a part give what was read of the GGUF file."""
        with suppress(Exception):
            return DESCRIBE[folder.name](self._read(folder)) == before
        return False

    def _load(self, name: str) -> Any:
        if any(file.startswith(f"{name}/") for file in self._list_files()):
            with suppress(Exception):  # as another process may replace the files
                return self._read(self.folder / name)
        return None

    def _read(self, folder: Path) -> Any:
        """Load one part, with the place of the GGUF file in it."""
        set_verbosity_error()
        auto: Any = transformers.AutoConfig if folder.name == "config" else transformers.AutoTokenizer
        part = auto.from_pretrained(folder)
        part.name_or_path = str(self.path.parent)
        return part

    def _list_files(self) -> list[str]:
        """Names of the files that are kept; none where one is missing or altered."""
        with suppress(OSError, ValueError, ImportError):  # as for a package whose version is not known
            return list(check_files(self.folder / RECORD, self.folder / SEAL))
        return []


def _describe_config(config: PretrainedConfig) -> tuple[Any, ...]:
    return type(config), config.to_dict()


def _describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    """All that decides the ids of texts and the texts of ids."""
    texts = [*TEXTS, "x".join(map(str, tokenizer.all_special_tokens))]
    ids = [tokenizer(text, add_special_tokens=special).input_ids for text in texts for special in (False, True)]
    back = [tokenizer.decode(one, skip_special_tokens=skip) for one in ids for skip in (False, True)]
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend else None  # words, merges, added tokens, normaliser, splits
    settings = [getattr(tokenizer, name, None) for name in SETTINGS]
    return type(tokenizer), ids, back, rules, tokenizer.get_vocab(), settings


DESCRIBE: dict[str, Callable[[Any], tuple[Any, ...]]] = {"config": _describe_config, "tokenizer": _describe_tokenizer}
