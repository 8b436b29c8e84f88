"""The files of a language model on this machine; loads configuration, tokenizer and weights from them.

A checkpoint is a folder in the layout of transformers, or one GGUF file, whose weights are unpacked while they load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import transformers
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from datamodules.language import misfits
from datamodules.language.adapter import require_full_model
from datamodules.language.digests import digest_files
from datamodules.language.gguf_header import require_gguf
from datamodules.language.gguf_memory import GgufMemory
from datamodules.questions.snapshot import fetch_snapshot, find_snapshot
from datamodules.stream.local_paths import expand_user
from datamodules.stream.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

RANDOM_SEED = 1  # of random weights; a change of it needs another `LanguageModel.identify`
PACKED, UNPACKED = 8, 2  # most numbers that a byte of weights holds
# Kinds of files that determine the results.
CONTENT = (".safetensors", ".bin", ".json", ".model", ".jinja", ".txt", ".tiktoken", ".py")
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files are.

    Attributes:
        folder: folder of the files.
        named: its name in messages: the option of the configuration with its value.
        gguf: name of the GGUF file in the folder; None: the folder holds `config.json` and weights.
        trust_remote_code: run code that comes with the weights.
        hub_id: of the repository whose snapshot the folder is; None: the files are the user's own.

    Example:
        >>> checkpoint = find_checkpoint("gpt2", revision=None, gguf=None, trust_remote_code=False)  # doctest: +SKIP
        >>> checkpoint.load_config().num_hidden_layers  # doctest: +SKIP
        12
    """

    folder: Path
    named: str
    gguf: str | None = None
    trust_remote_code: bool = False
    hub_id: str | None = None

    @property
    def path(self) -> Path:
        """The folder, or the one file."""
        return self.folder / self.gguf if self.gguf else self.folder

    def load_config(self, memory: Path | None = None) -> PretrainedConfig:
        """Configuration of the language part; `memory` is that of `load_tokenizer`.

        Raises:
            ValueError: the files describe no model that transformers knows.
        """
        if "_config" not in self.__dict__ and (kept := self._find_kept(memory)) and (config := kept.load_config()):
            self.__dict__["_config"] = config
        return self._config.get_text_config(decoder=True)

    def load_tokenizer(self, memory: Path | None = None) -> PreTrainedTokenizerBase:
        """Load the tokenizer.

        Args:
            memory: folder that remembers what was read of a GGUF file between runs; None: it is read each time.

        Raises:
            ValueError: there is none.
        """
        if self.gguf:  # a truncated or unknown file is not a fault of its tokenizer
            self.load_config(memory)
        if kept := self._find_kept(memory):
            return kept.load_or_keep(self._config, self._read_tokenizer)
        return self._read_tokenizer()

    def _find_kept(self, memory: Path | None) -> GgufMemory | None:
        """What is kept of a GGUF file; nothing where code beside it, which may change, takes part in reading it."""
        return GgufMemory(self.path, memory) if self.gguf and memory and not self.trust_remote_code else None

    def _read_tokenizer(self) -> PreTrainedTokenizerBase:
        expected = "a tokenizer beside the weights" if self.gguf is None else "a tokenizer in the file"
        cure = "save one there with tokenizer.save_pretrained" if self.gguf is None else "choose another file"
        return self._load(expected, transformers.AutoTokenizer.from_pretrained, cure)

    def load_network(self, dtype: torch.dtype, head: bool, placement: dict[str, Any]) -> PreTrainedModel:
        """Load the weights, ready for inference, on the CPU or where `placement` says.

        Args:
            dtype: of weights and computation.
            head: load the head that predicts the next token; without it, an encoder can be loaded too.
            placement: `device_map`, `tp_plan`, `quantization_config` of `from_pretrained`, those that are given.

        Raises:
            ValueError: the files hold no such model, or not all of its weights.
        """
        auto: Any = transformers.AutoModelForCausalLM if head else transformers.AutoModel
        self._require_room(head)
        # Unpacked, because kernels for packed weights give different numbers, and only some machines have them.
        unpacked: dict[str, Any] = {"use_safetensors": True}  # pickles may hold code
        if self.gguf:
            unpacked = {"quantization_config": transformers.GgufConfig(dequantize=True), "config": self._config}
        model, loading = self._load(
            f"the weights of a {'causal ' * head}language model",
            auto.from_pretrained,
            dtype=dtype,
            output_loading_info=True,
            **unpacked,
            **placement,
        )
        # Missing weights would be random. A pooler is not needed: it comes after all blocks.
        missing = sorted(name for name in loading["missing_keys"] if head or "pooler" not in name)
        if missing:
            raise ValueError(
                f"{self.named}: expected every weight, got none for {len(missing)}, such as {missing[0]}; fetch or "
                "save the model again"
            )
        misfits.require_all_blocks(self.named, model, loading["unexpected_keys"])
        if head:  # keep only its stop tokens: with beams, penalties or minimum lengths answers are not greedy
            ends = model.generation_config.eos_token_id
            misfits.require_token_ids(self.named, ends)
            model.generation_config = transformers.GenerationConfig(eos_token_id=ends)
        return model.eval().requires_grad_(False)

    def init_network(self, dtype: torch.dtype, head: bool) -> PreTrainedModel:
        """Build the architecture with random weights, as its code initialises them; the same ones on each call.

        Args:
            dtype: of weights and computation.
            head: with the head that predicts the next token.

        Raises:
            ValueError: the configuration describes no model that transformers builds.
        """
        import torch

        auto: Any = transformers.AutoModelForCausalLM if head else transformers.AutoModel
        self._require_room(head)
        with self._one_line("an architecture that transformers builds", ""), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(RANDOM_SEED)  # that of the CPU alone, where weights are made
            network = auto.from_config(self._config, trust_remote_code=self.trust_remote_code, dtype=dtype)
        return network.eval().requires_grad_(False)

    def count_weights(self, head: bool) -> int:
        """How many numbers the weights are, from their shapes; none is loaded."""
        import torch

        auto: Any = transformers.AutoModelForCausalLM if head else transformers.AutoModel
        with self._one_line("an architecture that transformers builds", ""), torch.device("meta"):
            return auto.from_config(self._config, trust_remote_code=self.trust_remote_code).num_parameters()

    def _require_room(self, head: bool) -> None:
        """Refuse settings that do not fit the files, as far as it is known before anything is made."""
        layers = self.load_config().num_hidden_layers
        files = [self.path] if self.gguf else sorted(self.folder.glob("*.safetensors"))
        with self._one_line("files whose list of tensors can be read", "fetch the model again"):
            tensors = [name for file in files for name in misfits.list_tensors(file)]
        if self.gguf:
            misfits.require_gguf_blocks(self.named, tensors, layers)
        if tensors:  # else random weights are made of a configuration alone
            packed = self.gguf or getattr(self._config, "quantization_config", None)
            room = sum(file.stat().st_size for file in files) * (PACKED if packed else UNPACKED)
            misfits.require_room(self.named, len(tensors), room, layers, lambda: self.count_weights(head))

    @property
    def commit(self) -> str | None:
        """The hub commit of these files; None for local files."""
        return self.folder.name if self.hub_id and not self.gguf else None

    def identify(self, memory: Path | None) -> dict[str, str]:
        """Return the identity of these files: the hub commit, or the digest of each file.

        Args:
            memory: folder in which digests of large files are remembered; None: they are computed each time.
        """
        if self.gguf:
            return {"gguf": digest_files([self.path], memory)[self.path]}
        if self.hub_id:
            return {"id": self.hub_id, "commit": self.folder.name}
        files = [path for path in sorted(self.folder.rglob("*")) if path.suffix in CONTENT and path.is_file()]
        return {str(path.relative_to(self.folder)): digest for path, digest in digest_files(files, memory).items()}

    @cached_property
    def _config(self) -> PretrainedConfig:
        """Read once: a GGUF file takes seconds."""
        load = transformers.AutoConfig.from_pretrained
        if self.gguf:
            expected = "a whole GGUF file of an architecture that transformers reads"
            return self._load(expected, load, "fetch it again, or choose another file")
        return self._load("a configuration that transformers reads", load)

    def _load(self, expected: str, load: Callable[..., Loaded], cure: str = "", **settings: Any) -> Loaded:
        if self.gguf:
            settings["gguf_file"] = self.gguf
            reader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
            reader.tqdm = transformers.utils.logging.tqdm  # heeds the next line
        disable_progress_bar()  # progress bars of the library write carriage returns to the log
        set_verbosity_error()  # it tells of missing weights in tables; they are refused below, in one line
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
        except Exception as error:  # readers of damaged files raise nearly anything
            if is_out_of_memory(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise ValueError(f"{self.named}: expected {expected}, got none that loads ({reason}){behind}") from error


def is_hub_id(given: str) -> bool:
    """Whether a text is a hub id: it is not a folder, and does not look like one.

    >>> is_hub_id("org/name"), is_hub_id("./folder")
    (True, False)
    """
    return not (given.startswith((".", "/", "~")) or given.count("/") > 1 or Path(given).is_dir())


def require_checkpoint(id_: str | None, gguf: str | None) -> None:
    """Check that local files of a model exist, before anything is computed; hub ids are not looked up.

    Raises:
        ValueError: the files are missing, or are not those of a model.
    """
    if gguf:
        require_gguf(expand_user(gguf, "model.gguf"), f"model.gguf={gguf}")
    elif not is_hub_id(str(id_)):
        folder = expand_user(str(id_), "model.id")
        if not folder.is_dir():
            raise ValueError(f"model.id: expected a folder or a hub id such as org/name, got {id_!r}: no such folder")
        require_full_model(folder)
        if not (folder / "config.json").is_file():
            raise ValueError(f"model.id: expected a folder with config.json, weights and tokenizer, got {id_!r}")
        _refuse_pickles(folder, str(id_))


def fetch_checkpoint(id_: str, revision: str | None) -> None:
    """Download the files of a hub model that are not on this machine yet; a folder needs nothing."""
    if is_hub_id(id_):
        patterns = [f"*{suffix}" for suffix in CONTENT if suffix != ".bin"]
        found = fetch_snapshot("model", id_, revision, patterns, "consolidated*")
        _refuse_pickles(found, id_)
        if not any(found.glob("*.safetensors")):
            raise ValueError(
                f"model.id={id_}: expected weights as safetensors, got none in {found}; connect and run again, or "
                "choose another repository. One of pickles (*.bin), which may hold code, has to be converted with "
                "model.save_pretrained"
            )


def find_checkpoint(id_: str | None, revision: str | None, gguf: str | None, trust_remote_code: bool) -> Checkpoint:
    """Find the files of a model on this machine; `fetch_checkpoint` must have fetched a hub model."""
    if gguf:
        file = expand_user(gguf, "model.gguf")
        return Checkpoint(file.parent, f"model.gguf={gguf}", file.name, trust_remote_code)
    named = f"model.id={id_}"
    if is_hub_id(str(id_)):
        folder = find_snapshot("model", str(id_), revision)
        require_full_model(folder, str(id_))
        _refuse_pickles(folder, str(id_))
        return Checkpoint(folder, named, trust_remote_code=trust_remote_code, hub_id=id_)
    return Checkpoint(expand_user(str(id_), "model.id"), named, trust_remote_code=trust_remote_code)


def _refuse_pickles(folder: Path, id_: str) -> None:
    """Refuse the weights of a folder, or of a snapshot of the hub, that are pickles alone."""
    pickles = sorted(path.name for path in folder.glob("*.bin") if path.name.startswith(("pytorch_model", "model")))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"model.id: expected weights as safetensors, got {pickles[0]} in {id_!r}, a pickle, which may hold code; "
            "convert it with model.save_pretrained"
        )
