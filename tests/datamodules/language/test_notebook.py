"""`ask` and `capture` give what the cached stages and a run give, bit by bit, and write nothing."""

import logging
import random
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from datamodules import LanguageModel, Positions, Question, ask, capture
from datamodules.language.generation import cut_thinking
from datamodules.language.loaded_model import make_model
from datamodules.language.named_choices import make_named
from datamodules.language.stages import LanguageModelStages
from datamodules.questions.files import FileQuestions
from datamodules.questions.statements import FileStatements
from tests.conftest import WORDS
from tests.datamodules.language.test_checkpoint import write_gguf
from tests.support.runs import run_here

RULES = [
    {"name": "last_q", "of": "prompt", "at": "last"},
    {"name": "second", "of": "answer", "at": 1},
    {"name": "mean", "of": "answer", "at": "mean"},
    {"name": "-8", "of": "answer", "at": -8},
]
ODD: Any = 3
UNKNOWN: Any = "x"


def read_cached(cached):
    """Activations [N, L, T, D] of a cache entry."""
    layers = []
    for of_layer in cached.files:
        shards = []
        for path in of_layer:
            with safe_open(path, "pt") as file:
                shards.append(file.get_tensor("h")[cached.positions])
        layers.append(torch.cat(shards, 1))
    return torch.stack(layers).permute(2, 0, 1, 3)


def test_two_shards_are_those_of_the_cached_stages(language_model, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    questions = [" ".join(rng.choices(WORDS, k=rng.randint(1, 5))) + "?" for _ in range(270)]
    with caplog.at_level(logging.DEBUG, "datamodules"):
        answers = ask(language_model, questions)
        found = capture(language_model, answers, RULES, layers=[0, 2], site="mlp_out")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert list(tmp_path.iterdir()) == []
    dataset, ids = FileQuestions(path="colours.csv"), [str(i) for i in range(270)]
    with LanguageModelStages(language_model, dataset, "cache", torch.device("cpu"), quiet=True) as stages:
        stored = [cut_thinking(stages.tokenizer, one) for one in stages.answer(ids, stages.encode(questions))]
        assert answers == stored
        positions = Positions(RULES)
        read = [[list(one.prompt_ids) for one in stored], [list(one.answer_ids) for one in stored], [None] * 270]
        tokens, valid = positions.resolve(stages.tokenizer, *read)
        cached = stages.capture(ids, stored, positions.names, tokens, valid, ["mlp_out"], [0, 2])
        assert torch.equal(found.acts, read_cached(cached))
    assert torch.equal(found.valid, valid)
    assert (found.layers, found.positions) == ((0, 2), ("last_q", "second", "mean", "-8"))
    assert found.acts.shape == (270, 2, 4, 32)
    assert 0 < int(valid[:, 3].sum()) <= 270


@pytest.mark.usefixtures("_without_pictures")
def test_the_demo_model_answers_as_in_a_run(tmp_path):
    few = "dataset.limit=48", "positions=exact", "site.layers=[3]", "split.test=0.4", "model.max_new_tokens=16"
    status, _, err = run_here(tmp_path, *few)
    assert status == 0, err
    rows = pq.read_table(tmp_path / "run" / "examples.parquet").to_pylist()
    answers = ask("demo", [row["question"] for row in rows], max_new_tokens=16)
    assert [list(one.answer_ids) for one in answers] == [row["answer_ids"] for row in rows]
    assert [one.text for one in answers] == [row["answer"] for row in rows]
    said = [row["exact_answer"] for row in rows]
    found = capture("demo", answers, "exact", layers=[3], exact_answers=said)
    assert found.valid.tolist() == [row["valid"] for row in rows]
    (folder,) = (tmp_path / "cache" / "activations").iterdir()
    with safe_open(folder / "layer=03" / "shard-00000.safetensors", "pt") as file:
        stored = file.get_tensor("h")  # [T, N, D]
    assert torch.equal(found.acts[:, 0], stored.transpose(0, 1))
    assert capture("demo", answers[:2], layers=[3]).positions[:2] == ("last_q", "first_answer")


def test_statements_are_read_as_those_of_a_set(language_model, tmp_path):
    texts = ["red [[stone]] river", "blue key", "stone [[stone]] lamp"]
    found = capture(language_model, texts, layers=[1])
    statements = make_named("positions", "statements")
    records = [FileStatements(path="x").read_record({"statement": text, "label": 1}) for text in texts]
    with LanguageModelStages(language_model, FileStatements(path="x"), "cache", torch.device("cpu"), True) as stages:
        ids = [stages.tokenizer(record.text).input_ids for record in records if isinstance(record, Question)]
    assert found.positions == tuple(statements.names)
    last = torch.stack([capture(language_model, [text], "statements", [1]).acts[0] for text in texts])
    assert torch.allclose(found.acts.float(), last.float(), atol=0.02)  # other batches, other last bits
    assert found.valid[:, 0].all()
    lengths = [len(one) for one in ids]
    assert found.valid[:, 2].tolist() == [length >= 8 for length in lengths]
    marked = capture(language_model, ["red stone river"], "statements", [1], exact_answers=["stone"])
    assert torch.equal(marked.acts, capture(language_model, texts[:1], "statements", [1]).acts)
    assert not torch.equal(
        marked.acts[:, :, 1], capture(language_model, ["red stone river"], "statements", [1]).acts[:, :, 1]
    )


def test_models_have_names_and_settings(tiny_model, language_model):
    assert make_model("demo", max_new_tokens=7).token_limit == 7
    assert make_model("demo").name == "probegrid demo model"
    made = make_model(str(tiny_model), dtype="float32")
    assert (made.chat, made.stop, made.dtype) == ("auto", "auto", "float32")
    assert make_model(language_model) == language_model
    short = ask(language_model, [Question("q", "g", "red?", ("x",))], max_new_tokens=3)
    assert len(short[0].answer_ids) <= 3
    assert ask(language_model, []) == []


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda model: ask(model, "red?"), "questions: expected a list of texts, got one text"),
        (lambda model: ask(model, [ODD]), "questions: expected texts, got int"),
        (
            lambda model: ask(model, ["red?"], tokens=3),
            "tokens: expected a setting of LanguageModel, one of id, prompt",
        ),
        (
            lambda model: ask(ODD, ["red?"]),
            "model: expected a LanguageModel, a hub id, a folder, a GGUF file or a loaded model of transformers, got ",
        ),
        (lambda model: ask("no/where/here", ["red?"]), "no/where/here"),
        (lambda model: ask("none.gguf", ["red?"]), "none.gguf"),
        (
            lambda model: ask(model, ["red?"], max_new_tokens=500),
            "questions: expected at most 128 tokens with the answer",
        ),
        (lambda model: capture(model, ["red"], "nothing"), "positions: expected a name of conf/positions, or a list"),
        (lambda model: capture(model, ["red"], [{"name": "x"}]), "positions.rules: expected name, of, and what"),
        (lambda model: capture(model, []), "texts: expected a list of texts, or of answers of ask, got none"),
        (lambda model: capture(model, ["red", ""]), "texts: expected words in each, got an empty one at 1"),
        (lambda model: capture(model, ["red"], site=UNKNOWN), "site.name: expected one of resid_pre"),
        (lambda model: capture(model, ["red"], layers=[7]), "7"),
        (
            lambda model: capture(model, ["red"], exact_answers=[]),
            "exact_answers: expected 1, one for each text, got 0",
        ),
        (
            lambda model: capture(model, ["red"], exact_answers=["blue"]),
            "exact_answers: expected words of the answer, got",
        ),
        (
            lambda model: capture(model, ask(model, ["red?"]), "exact"),
            "positions: expected exact answers for exact_answer_before_first, exact_answer_first",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(call, line, language_model):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as told:
        call(language_model)
    assert line in str(told.value)


def test_random_weights_read_what_the_trained_model_wrote(language_model):
    other = replace(language_model, random_weights=True)
    answers = ask(other, ["red?"])
    assert answers == ask(language_model, ["red?"])
    pair = [capture(model, answers, RULES, [1]).acts for model in (other, language_model)]
    assert not torch.equal(*pair)
    assert isinstance(language_model, LanguageModel)


def test_a_gguf_file_is_read_without_a_bar(language_model, tmp_path, capfd):
    network = language_model.load("cpu")
    file = write_gguf(tmp_path / "tiny.gguf", network, language_model.load_tokenizer())
    capfd.readouterr()
    end = [{"name": "end", "of": "text", "at": "last"}]
    found = capture(str(file), ["red stone"], end, dtype="float32")
    assert capfd.readouterr() == ("", "")
    assert found.acts.shape == (1, 3, 1, 32)
    assert found.acts.abs().sum() > 0
