"""Which answers and activations a later run finds in the cache, and which it makes again."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from datamodules.labels.rules import TextRule, judge_by_substring
from datamodules.language.cache.entry import CacheEntry
from datamodules.language.capture import capture
from datamodules.language.stages import LanguageModelStages
from datamodules.questions.files import FileQuestions
from tests.support.activations import COLOURS, counts, make, table_of


def entries(root, kind):
    return sorted(path.name for path in (root / kind).iterdir())


def test_another_batch_size_gives_the_same_answers(language_model, questions_csv, tmp_path):
    asked = [(q.id, q.text) for q in FileQuestions(path=str(questions_csv), limit=40).load()]
    answers = []
    for batch_size in (8, 1):
        model = replace(language_model, batch_size=batch_size)
        with LanguageModelStages(model, COLOURS, str(tmp_path / str(batch_size)), torch.device("cpu")) as stages:
            ids, texts = zip(*asked, strict=True)
            answers.append(stages.answer(ids, stages.encode(texts)))
    assert [a.answer_ids for a in answers[0]] == [a.answer_ids for a in answers[1]]
    assert [a.text for a in answers[0]] == [a.text for a in answers[1]]


def test_a_run_that_failed_goes_on_where_it_stopped(language_model, questions_csv, tmp_path, monkeypatch):
    """The first shard of activations is kept, and what follows has the bytes of a run left alone."""
    alone = make(language_model, questions_csv, tmp_path / "alone")
    alone.setup()
    calls = []

    def fails_late(network, sequences, *rest):
        calls.append(len(sequences))
        if sum(calls) > 256:
            raise RuntimeError("power cut")
        return capture(network, sequences, *rest)

    monkeypatch.setattr("datamodules.language.activation_stage.capture", fails_late)
    with pytest.raises(RuntimeError, match="power cut"):
        make(language_model, questions_csv, tmp_path / "cut").setup()
    monkeypatch.undo()
    calls.clear()
    monkeypatch.setattr(
        "datamodules.language.activation_stage.capture", lambda n, s, *r: calls.append(len(s)) or capture(n, s, *r)
    )
    resumed = make(language_model, questions_csv, tmp_path / "cut")
    resumed.setup()
    assert sum(calls) == 300 - 256
    for one, other in zip(alone._shards, resumed._shards, strict=True):
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_sites_read_along_are_those_read_alone(language_model, questions_csv, tmp_path, monkeypatch, caplog):
    forwards = []

    def counted(*arguments):
        forwards.append(arguments[3])
        return capture(*arguments)

    monkeypatch.setattr("datamodules.language.activation_stage.capture", counted)
    together = {"site": "z", "also": ["mlp_post", "z", "resid_pre"]}
    make(language_model, questions_csv, tmp_path / "together", **together).setup()
    assert {tuple(sorted(sites)) for sites in forwards} == {("mlp_post", "resid_pre", "z")}
    for site in ("z", "mlp_post", "resid_pre"):
        alone = make(language_model, questions_csv, tmp_path / "alone", site=site)
        alone.setup()
        forwards.clear()
        reused = make(language_model, questions_csv, tmp_path / "together", site=site)
        reused.setup()
        assert not forwards
        for one, other in zip(alone._shards, reused._shards, strict=True):
            assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_layers_read_along_are_those_read_alone(language_model, questions_csv, tmp_path, monkeypatch):
    forwards = []
    monkeypatch.setattr(
        "datamodules.language.activation_stage.capture", lambda *given: forwards.append(given[4]) or capture(*given)
    )
    made = make(language_model, questions_csv, tmp_path / "together", layers=[1], also_layers=[0, 99])
    made.setup()
    assert made.card
    assert made.card.layers == (1,)
    assert {tuple(layers) for layers in forwards} == {(0, 1)}
    for layer, known in ((0, None), (1, made)):
        alone = make(language_model, questions_csv, tmp_path / f"alone-{layer}", layers=[layer])
        alone.setup()
        forwards.clear()
        reused = known or make(language_model, questions_csv, tmp_path / "together", layers=[layer])
        reused.setup()
        assert not forwards
        for one, other in zip(alone._shards, reused._shards, strict=True):
            assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_answers_are_known_by_model_prompts_and_decoding(language_model, tiny_model, tmp_path):
    network = language_model.load("cpu")
    network.lm_head.weight[0, 0] += 1
    network.save_pretrained(tmp_path / "other")
    language_model.load_tokenizer().save_pretrained(tmp_path / "other")
    ways = [
        {},
        {"id": str(tmp_path / "other")},
        {"dtype": "bfloat16"},
        {"stop": "red"},
        {"max_new_tokens": 3},
        {"prompt": "{question}"},
    ]
    for count, way in enumerate([*ways, {"batch_size": 2}, {"name": "other name"}], 1):
        model = replace(language_model, **way)
        with LanguageModelStages(model, COLOURS, str(tmp_path / "cache"), torch.device("cpu"), quiet=True) as stages:
            stages.answer(["a", "b"], stages.encode(["red?", "blue?"]))
        assert len(entries(tmp_path / "cache", "answers")) == min(count, len(ways))


def test_activations_are_known_by_sequences_tokens_sites_and_layers(language_model, tmp_path):
    with LanguageModelStages(language_model, COLOURS, str(tmp_path), torch.device("cpu"), quiet=True) as stages:
        answers = stages.answer(["a", "b"], stages.encode(["red?", "blue?"]))
        usual: dict[str, Any] = {
            "ids": ["a", "b"], "answers": answers, "names": ["x"], "tokens": torch.tensor([[[3, 3]], [[2, 2]]]),
            "valid": torch.ones(2, 1, dtype=torch.bool), "sites": ["z"], "layers": [0, 1],
        }  # fmt: skip
        ways: list[dict[str, Any]] = [
            {},
            {"answers": answers[::-1]},
            {"tokens": torch.tensor([[[3, 3]], [[1, 2]]])},
            {"valid": torch.tensor([[True], [False]])},
            {"sites": ["mlp_out"]},
            {"layers": [0, 2]},
            {"ids": ["c", "d"]},  # names that no content depends on
            {"names": ["y"]},  # the same tokens under another name
            {"layers": [0]},  # which another entry holds
        ]
        for count, way in enumerate(ways, 1):
            stages.capture(**usual | way)
            assert len(entries(tmp_path, "activations")) == min(count, len(ways) - 3)


def test_a_whole_cache_that_cannot_be_written_serves_another_rule(
    language_model, questions_csv, tmp_path, tmp_path_factory, monkeypatch, caplog
):
    first = make(language_model, questions_csv, tmp_path)
    first.setup()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(*_):
        raise OSError("cache.root: expected a folder that can be written")

    monkeypatch.setattr(CacheEntry, "write", refuse)
    run = tmp_path_factory.mktemp("run")
    other = make(language_model, questions_csv, tmp_path, rule=TextRule(judge_by_substring), folder=run)
    other.setup()
    assert sum(count.n for count in counts(other)) == sum(row["exact_answer"] is not None for row in table_of(other))
    assert {row["label_by"] for row in table_of(other)} == {"found", "not found"}
    assert not [record for record in caplog.records if "cache.root" in record.message]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
