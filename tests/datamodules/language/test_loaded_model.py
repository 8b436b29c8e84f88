"""A model that is loaded once gives `ask` and `capture` the numbers that its name gives."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel, GenerationConfig

from datamodules import LanguageModel, ask, capture, load_model
from datamodules.language.checkpoint import Checkpoint

RULES = [{"name": "last_q", "of": "prompt", "at": "last"}, {"name": "mean", "of": "answer", "at": "mean"}]
QUESTIONS = ["red stone?", "blue river lamp?", "green?", "北京 or 東京?"]
ODD: Any = 3


@pytest.fixture(scope="module")
def network(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32").eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def loads(monkeypatch):
    """Which models were loaded, with or without a head."""
    seen, load = [], Checkpoint.load_network
    monkeypatch.setattr(Checkpoint, "load_network", lambda *given: seen.append(given[2]) or load(*given))
    return seen


def test_a_model_is_loaded_once_and_gives_the_same(tiny_model, network, tokenizer, loads):
    few: dict[str, Any] = {"max_new_tokens": 9}
    by_name = ask(str(tiny_model), QUESTIONS, dtype="float32", **few)
    read_by_name = capture(str(tiny_model), by_name, RULES, dtype="float32")
    assert loads == [True, False]
    loaded = load_model(str(tiny_model), dtype="float32")
    assert loads == [True, False, True]
    assert repr(loaded) == f"LoadedModel('{tiny_model}', float32, on cpu)"
    for given, more in ((loaded, few), (network, few | {"tokenizer": tokenizer})):
        for _ in range(2):
            answers = ask(given, QUESTIONS, **more)
            assert answers == by_name
            read = capture(given, answers, RULES, **(more | few))
            assert torch.equal(read.acts, read_by_name.acts)
            assert torch.equal(read.valid, read_by_name.valid)
    assert loads == [True, False, True]
    assert {len(one.answer_ids) for one in ask(loaded, QUESTIONS, max_new_tokens=3)} == {3}
    asked = ask(loaded, ["red?"], prompt="{question} is")
    assert list(asked[0].prompt_ids) == tokenizer("red? is").input_ids
    assert asked != ask(loaded, ["red?"])


def test_a_language_model_is_loaded_with_its_settings(language_model, network, tokenizer):
    loaded = load_model(language_model, max_new_tokens=5)
    assert (loaded.model.max_new_tokens, loaded.model.prompt) == (5, language_model.prompt)
    assert ask(loaded, QUESTIONS) == ask(language_model, QUESTIONS, max_new_tokens=5)
    assert load_model(loaded, max_new_tokens=4).network is loaded.network
    assert load_model(network, tokenizer).model.name == network.config.name_or_path.split("/")[-1]
    statements = ["red [[stone]] river", "blue key"]
    assert torch.equal(capture(loaded, statements).acts, capture(language_model, statements).acts)


def test_answers_are_greedy_whatever_the_model_is_set_to(network, tokenizer):
    other = deepcopy(network)
    other.requires_grad_(True)
    own = GenerationConfig(
        eos_token_id=2, do_sample=True, temperature=3.0, repetition_penalty=5.0, min_length=40, num_beams=2
    )
    other.generation_config = own
    found = ask(other, QUESTIONS, tokenizer=tokenizer, max_new_tokens=9)
    assert found == ask(network, QUESTIONS, tokenizer=tokenizer, max_new_tokens=9)
    assert other.generation_config is own
    assert not capture(other, found, RULES, tokenizer=tokenizer).acts.requires_grad
    with pytest.raises(ValueError, match="questions: expected at most 128 tokens"):
        ask(other, QUESTIONS, tokenizer=tokenizer, max_new_tokens=500)
    assert other.generation_config is own


def test_a_model_without_a_head_reads(tiny_model, network, tokenizer):
    body = AutoModel.from_pretrained(tiny_model, dtype="float32").eval()
    texts = ["red stone", "blue"]
    read = capture(body, texts, tokenizer=tokenizer)
    assert torch.equal(read.acts, capture(network, texts, tokenizer=tokenizer).acts)
    with pytest.raises(
        ValueError, match=r"^model: expected a model that writes answers, got LlamaModel without a head"
    ):
        ask(body, ["red?"], tokenizer=tokenizer)
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    encoder = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).eval()
    end = [{"name": "end", "of": "text", "at": "last"}]
    found = capture(encoder, texts, end, tokenizer=tokenizer)
    with torch.no_grad():
        states = encoder(**tokenizer(texts[:1], return_tensors="pt"), output_hidden_states=True).hidden_states
    torch.testing.assert_close(found.acts[0, :, 0].float(), torch.stack(states[1:])[:, 0, -1], rtol=0.01, atol=0.01)


def make_small(network, rows):
    """The model with embeddings for fewer tokens than its tokenizer knows."""
    other = deepcopy(network)
    other.resize_token_embeddings(rows)
    return other


@pytest.mark.parametrize(
    ("make", "settings", "line"),
    [
        (lambda m: m, {"tokenizer": None}, "tokenizer: expected the tokenizer of the loaded model, got none; give"),
        (lambda m: m, {"tokenizer": "gpt2"}, "tokenizer: expected the tokenizer of the loaded model, got str; give"),
        (
            lambda m: deepcopy(m).to("meta"),
            {},
            "model: expected weights in memory, got LlamaForCausalLM on the meta device, which holds none; load it",
        ),
        (
            lambda m: deepcopy(m).train(),
            {},
            "model: expected a model ready for inference, got LlamaForCausalLM in training mode, where dropout",
        ),
        (
            lambda m: make_small(m, 60),
            {},
            "model: expected tokens below 60, for which there are embeddings, got",
        ),
        (
            lambda m: m,
            {"dtype": "bfloat16"},
            "dtype: expected settings of prompts and answers for a loaded model, got one of its weights; load the mo",
        ),
        (lambda m: m, {"tokens": 3}, "tokens: expected a setting of LanguageModel, one of id, prompt"),
        (
            lambda m: m.config.name_or_path,
            {},
            "tokenizer: expected one beside a model of transformers alone, got one beside a model that brings its own",
        ),
        (
            lambda m: LanguageModel(m.config.name_or_path),
            {},
            "tokenizer: expected one beside a model of transformers alone, got one beside a model that brings its own",
        ),
        (
            lambda m: m.lm_head,
            {"tokenizer": None},
            "model: expected a LanguageModel, a hub id, a folder, a GGUF file or a loaded model of transformers, got L",
        ),
    ],
)
def test_what_is_no_loaded_model_is_told_in_one_line(make, settings, line, network, tokenizer):
    model = make(network)
    for call in (
        lambda **more: ask(model, ["red?"], **more),
        lambda **more: capture(model, ["red"], **more),
        lambda **more: load_model(model, **more),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]*$") as told:
            call(**{"tokenizer": tokenizer} | settings)
        assert line in str(told.value)


def test_a_loaded_model_that_has_changed_is_told_too(tiny_model):
    loaded = load_model(str(tiny_model))
    loaded.network.train()
    with pytest.raises(ValueError, match="in training mode"):
        capture(loaded, ["red"])
    with pytest.raises(ValueError, match=r"^random_weights: expected a model that answers, got random weights; "):
        load_model(str(tiny_model), random_weights=True)
    with pytest.raises(ValueError, match=r"^model: expected a LanguageModel, .* got int; give one of these$"):
        load_model(ODD)
