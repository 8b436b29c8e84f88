"""A small language model with random weights, made from its real configuration class, and questions to ask it."""

import csv
import gc
import os
import random
import re
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from datamodules.language.generation import generate_answers
from datamodules.language.language_model import LanguageModel
from tests.support.runs import without_pictures

WORDS = ["red", "blue", "green", "stone", "river", "cloud", "lamp", "key", "bird", "café", "naïve", "élan"]
WORDS += ["北京", "東京", "🦜", "🗝️", "ship's", "co-op", "1999", "42"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores for `-n logical`: tests that wait for processes leave a core idle."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, which would keep one core busy at the end: those of this folder, and of the solver."""
    here = Path(__file__).parent
    first = [here, here / "probes" / "solver"]
    items.sort(key=lambda item: first.index(item.path.parent) if item.path.parent in first else len(first))


def pytest_collection_finish() -> None:
    """Leave what is imported out of garbage collections: each run has some, and they would look at all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # Tiny tensors: more threads only wait for each other.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _without_hydra_config():
    """A run in this process leaves Hydra's configuration behind, which a notebook has not."""
    yield
    HydraConfig.instance().cfg = None


@pytest.fixture
def _without_pictures():
    """Runs in this process draw no pictures."""
    with without_pictures():
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder with a Llama of 3 layers and width 32, and a byte-level BPE of 400 pieces."""
    folder = tmp_path_factory.mktemp("tiny_model")
    rng = random.Random(0)
    bpe = ByteLevelBPETokenizer()
    texts = [" ".join(rng.choices(WORDS, k=8)) for _ in range(200)] + ["Q: Where is the?\nA:"] * 50
    bpe.train_from_iterator(texts, vocab_size=400, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def language_model(tiny_model) -> LanguageModel:
    """The small model as the pipeline is told of it."""
    return LanguageModel(str(tiny_model), prompt="Q: {question}\nA:", dtype="float32", max_new_tokens=14, batch_size=32)


@pytest.fixture(scope="session")
def questions_csv(language_model, tmp_path_factory) -> Path:
    """300 questions; the gold answer is in the model's just where the question says `red`: probes can tell."""
    rng = random.Random(1)
    questions = [f"{rng.choice(['red', 'blue'])} " + " ".join(rng.sample(WORDS[3:], 4)) + "?" for _ in range(300)]
    tokenizer, network = language_model.load_tokenizer(), language_model.load("cpu")
    prompts = language_model.encode(tokenizer, questions)
    batches = [prompts[i : i + 30] for i in range(0, len(prompts), 30)]
    said = [
        one for batch in batches for one in generate_answers(network, tokenizer, batch, language_model.max_new_tokens)
    ]
    path = tmp_path_factory.mktemp("questions") / "colours.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        for question, answer in zip(questions, said, strict=True):
            words = re.findall(r"\w+", answer.text)
            writer.writerow([question, max(words, key=len) if words and question.startswith("red") else "nothing"])
    return path
