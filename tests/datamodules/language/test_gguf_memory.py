"""What is kept of GGUF files: as good as reading them, whole or not at all, and made anew where anything changes."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from datamodules.language import gguf_memory
from datamodules.language.checkpoint import Checkpoint, find_checkpoint
from datamodules.language.digests import name_memory
from datamodules.language.identity import TEXT
from datamodules.language.language_model import LanguageModel
from datamodules.language.stages import LanguageModelStages
from datamodules.questions.statements import FileStatements
from tests.datamodules.language.test_checkpoint import write_gguf
from tests.support.sentencepiece_gguf import TEMPLATE, write_pieces

TEXTS = [TEXT, "", "  two  blanks", "<s>in a text</s> red", "ship's 1999 café\n\t", "🙂 北京", "the red ship " * 9]


@pytest.fixture
def memory(tmp_path):
    return tmp_path / "cache" / "digests"


@pytest.fixture
def pieces(tmp_path):
    (tmp_path / "models").mkdir()
    return write_pieces(tmp_path / "models" / "pieces.gguf", TEMPLATE)


def find(path: Path) -> Checkpoint:
    return find_checkpoint(None, None, str(path), trust_remote_code=False)


def refuse_reading(monkeypatch):
    """Let no GGUF file be read from here on."""

    def refuse(*_, **__):
        raise AssertionError("read")

    monkeypatch.setattr(Checkpoint, "_load", refuse)


def count_readings(monkeypatch) -> list[str]:
    """A list that grows by the name of what is read of a GGUF file."""
    readings, load = [], Checkpoint._load
    told = {"AutoConfig": "config", "AutoTokenizer": "tokenizer"}

    def count(self, expected, by, *more, **settings):
        readings.append(told[by.__self__.__name__])
        return load(self, expected, by, *more, **settings)

    monkeypatch.setattr(Checkpoint, "_load", count)
    return readings


def list_kept(memory: Path) -> list[str]:
    return sorted(path.relative_to(memory / "gguf").parts[1] for path in memory.glob("gguf/*/*") if path.name[0] != ".")


def assert_same(one, other):
    """Two tokenizers give the same ids, texts and prompts."""
    assert type(one) is type(other)
    for text in TEXTS:
        for special in (False, True):
            ids = one(text, add_special_tokens=special).input_ids
            assert other(text, add_special_tokens=special).input_ids == ids
            assert other.decode(ids) == one.decode(ids)
            assert other.decode(ids, skip_special_tokens=True) == one.decode(ids, skip_special_tokens=True)
    assert other.get_vocab() == one.get_vocab()
    assert other.special_tokens_map == one.special_tokens_map
    assert other.all_special_ids == one.all_special_ids
    assert (other.bos_token_id, other.eos_token_id, other.pad_token_id) == (
        *(one.bos_token_id, one.eos_token_id, one.pad_token_id),
    )
    assert other.chat_template == one.chat_template
    assert other.model_max_length == one.model_max_length
    assert other.name_or_path == one.name_or_path
    if one.chat_template:
        turns = [{"role": "user", "content": "the red ship?"}]
        assert other.apply_chat_template(turns, tokenize=False) == one.apply_chat_template(turns, tokenize=False)


@pytest.mark.parametrize("template", [None, TEMPLATE])
@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("add_eos", [False, True])
def test_what_is_kept_of_a_sentencepiece_file_is_what_is_read(
    add_eos, add_bos, template, tmp_path, memory, monkeypatch
):
    path = write_pieces(tmp_path / "a.gguf", template, add_bos, add_eos)
    read = find(path).load_tokenizer()
    config = find(path).load_config()
    assert read.chat_template == template
    assert (read("red").input_ids[0] == 1) == (add_bos is not False)
    assert (read("red").input_ids[-1] == 2) == add_eos
    assert_same(read, find(path).load_tokenizer(memory))
    assert list_kept(memory) == ["config", "manifest.json", "record.json", "tokenizer"]
    refuse_reading(monkeypatch)
    assert_same(read, find(path).load_tokenizer(memory))
    kept = find(path).load_config(memory)
    assert type(kept) is type(config)
    assert kept.to_dict() == config.to_dict()


def test_a_run_with_a_cache_reads_the_header_once(language_model, tmp_path, memory, monkeypatch):
    network = language_model.load("cpu")
    path = write_gguf(tmp_path / "tiny.gguf", network, language_model.load_tokenizer())
    read, config, identity = find(path).load_tokenizer(), find(path).load_config(), find(path).identify(None)
    logits = LanguageModel(gguf=str(path), dtype="float32").load("cpu")(torch.tensor([[5, 6, 7]])).logits
    readings = count_readings(monkeypatch)
    (tmp_path / "texts.csv").write_text("statement,label\nred,1\nblue,0\n")
    dataset = FileStatements(path=str(tmp_path / "texts.csv"))
    for _ in range(2):
        model = LanguageModel(gguf=str(path), dtype="float32")
        with LanguageModelStages(model, dataset, str(tmp_path / "cache"), torch.device("cpu"), quiet=True) as stages:
            assert_same(read, stages.tokenizer)
            assert stages.config.to_dict() == config.to_dict()
            assert stages.runner.identity["source"] == identity
        assert readings == ["config", "tokenizer"]
        assert find(path).identify(memory) == identity
    assert list_kept(name_memory(tmp_path / "cache")) == ["config", "manifest.json", "record.json", "tokenizer"]
    monkeypatch.undo()
    assert torch.equal(model.load("cpu")(torch.tensor([[5, 6, 7]])).logits, logits)  # weights beside the kept config


def test_without_a_memory_or_with_code_of_others_the_file_is_read_each_time(pieces, memory, monkeypatch):
    readings = count_readings(monkeypatch)
    for _ in range(2):
        find(pieces).load_tokenizer()
        find_checkpoint(None, None, str(pieces), trust_remote_code=True).load_tokenizer(memory)
    assert readings == ["config", "tokenizer"] * 4
    assert not memory.exists()


def test_a_changed_file_is_read_anew(pieces, memory, monkeypatch):
    find(pieces).load_tokenizer(memory)
    readings = count_readings(monkeypatch)
    write_pieces(pieces, "{{ messages }}", add_bos=False)
    for _ in range(2):
        tokenizer = find(pieces).load_tokenizer(memory)
        assert tokenizer.chat_template == "{{ messages }}"
        assert tokenizer("red").input_ids[0] != 1
    assert readings == ["config", "tokenizer"]
    write_pieces(pieces, TEMPLATE)
    assert find(pieces).load_tokenizer(memory).chat_template == TEMPLATE
    assert readings == ["config", "tokenizer"]  # the first one is kept still


def test_a_file_that_transformers_takes_from_beside_it_counts(pieces, memory, monkeypatch):
    bare = find(pieces).load_tokenizer(memory)
    assert bare("red ship").input_ids[0] == 1
    other = find(write_pieces(pieces.with_name("other.gguf"), add_bos=False)).load_tokenizer()
    other.save_pretrained(pieces.parent.parent / "other")
    pieces.with_name("other.gguf").unlink()
    shutil.copy(pieces.parent.parent / "other" / "tokenizer.json", pieces.parent)
    readings = count_readings(monkeypatch)
    with_it = find(pieces).load_tokenizer()
    for _ in range(2):
        assert find(pieces).load_tokenizer(memory)("red ship").input_ids == with_it("red ship").input_ids
    assert with_it("red ship").input_ids[0] != 1
    assert readings == ["config", "tokenizer"] * 2
    (pieces.parent / "tokenizer.json").unlink()
    assert_same(bare, find(pieces).load_tokenizer(memory))
    assert len(readings) == 4


def test_another_version_of_a_package_reads_anew(pieces, memory, monkeypatch):
    find(pieces).load_tokenizer(memory)
    readings = count_readings(monkeypatch)
    for n, name in enumerate(gguf_memory.PACKAGES, 1):
        monkeypatch.setattr(gguf_memory, "version", lambda package, name=name: f"9{package == name}{name}")
        find(pieces).load_tokenizer(memory)
        assert len(readings) == 2 * n


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize(
    "name", ["config/config.json", "tokenizer/tokenizer.json", "tokenizer/chat_template.jinja", "record.json"]
)
def test_a_damaged_folder_is_made_anew(name, damage, pieces, memory, monkeypatch):
    read = find(pieces).load_tokenizer(memory)
    (folder,) = (memory / "gguf").iterdir()
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".seal"}
    damage(folder / name)
    readings = count_readings(monkeypatch)
    for _ in range(2):
        assert_same(read, find(pieces).load_tokenizer(memory))
        assert readings == ["config", "tokenizer"]
    assert {path: path.read_bytes() for path in whole} == whole
    assert list((memory / "gguf").iterdir()) == [folder]


def test_a_write_that_fails_leaves_nothing(pieces, memory, monkeypatch):
    def fail(*_, **__):
        raise OSError("full")

    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", fail)
    read = find(pieces).load_tokenizer(memory)
    assert list((memory / "gguf").iterdir()) == []
    memory.joinpath("gguf").rmdir()
    memory.joinpath("gguf").write_text("in the way")
    monkeypatch.undo()
    assert_same(read, find(pieces).load_tokenizer(memory))


@pytest.mark.parametrize("part", ["config", "tokenizer"])
def test_a_part_that_does_not_load_as_it_was_is_not_kept(part, pieces, memory, monkeypatch):
    save = transformers.PreTrainedTokenizerBase.save_pretrained

    def change(self, folder, *_, **__):
        """Save another text in place of a word, as a flaw in what transformers saves would."""
        save(self, folder)
        path = Path(folder) / "tokenizer.json"
        saved = json.loads(path.read_text())
        vocabulary = saved["model"]["vocab"]
        vocabulary["▁red"], vocabulary["▁ship"] = vocabulary["▁ship"], vocabulary["▁red"]
        path.write_text(json.dumps(saved))

    def lose(self, folder, *_, **__):
        Path(folder).mkdir(exist_ok=True)
        content = self.to_dict() | {"rms_norm_eps": 1e-6}
        (Path(folder) / "config.json").write_text(json.dumps(content))

    classes = {"config": transformers.PretrainedConfig, "tokenizer": transformers.PreTrainedTokenizerBase}
    monkeypatch.setattr(classes[part], "save_pretrained", {"config": lose, "tokenizer": change}[part])
    read, config = find(pieces).load_tokenizer(), find(pieces).load_config()
    find(pieces).load_tokenizer(memory)
    assert list_kept(memory) == sorted({"config", "tokenizer", "manifest.json", "record.json"} - {part})
    readings = count_readings(monkeypatch)
    for n in (1, 2):
        checkpoint = find(pieces)
        assert_same(read, checkpoint.load_tokenizer(memory))
        assert checkpoint.load_config().to_dict() == config.to_dict()
        assert readings == [part] * n


def test_a_file_that_changes_while_it_is_read_is_not_kept(pieces, memory):
    kept = gguf_memory.GgufMemory(pieces, memory)
    config, tokenizer = find(pieces).load_config(), find(pieces).load_tokenizer()
    assert kept.load_config() is None  # which takes the digest
    write_pieces(pieces, add_bos=False)
    kept.keep(config, tokenizer)
    assert list((memory / "gguf").iterdir()) == []


def _load(path: Path, memory: Path, gate) -> None:
    gate.wait()
    for _ in range(3):
        checkpoint = find(path)
        if checkpoint.load_tokenizer(memory)("red").input_ids[0] != 1 or checkpoint.load_config().hidden_size != 32:
            os._exit(3)


def test_several_processes_at_once(pieces, memory):
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(4)
    started = [context.Process(target=_load, args=(pieces, memory, gate)) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4
    (folder,) = (memory / "gguf").iterdir()
    assert gguf_memory.GgufMemory(pieces, memory).folder == folder
    assert list_kept(memory) == ["config", "manifest.json", "record.json", "tokenizer"]
