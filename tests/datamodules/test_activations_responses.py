"""Answers of a run, given as responses: the same labels, positions and activations as where the model wrote them."""

import json

import pytest
import torch

from datamodules.labels.rules import TextRule, judge_as_given
from datamodules.language.positions import Positions
from datamodules.questions.responses import FileResponses
from datamodules.split import GroupSplit
from tests.support.activations import counts, make, table_of
from tests.support.positions import shipped
from tests.support.runs import run_here, table

SAME = [
    "question",
    "answer",
    "finish",
    "prompt_ids",
    "thought_ids",
    "answer_ids",
    "exact_answer",
    "exact_answer_tokens",
]
SAME += ["first_token", "last_token", "valid", "label", "split", "group"]


@pytest.fixture(scope="module")
def written(language_model, questions_csv, tmp_path_factory):
    """A run whose model has answered, and what it has written as a table of responses."""
    folder = tmp_path_factory.mktemp("written")
    built = make(language_model, questions_csv, folder / "cache", folder=folder)
    built.setup()
    rows = [
        {
            "question": row["question"], "response": row["answer"], "answer": row["gold"], "finish": row["finish"],
            "prompt_ids": row["prompt_ids"], "response_ids": row["answer_ids"], "logprobs": row["logprobs"],
        }
        for row in table_of(built)
    ]  # fmt: skip
    return built, rows


def give(language_model, questions_csv, tmp_path, rows, **changes):
    path = tmp_path / "said.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = FileResponses(path=str(path), pattern=r"\w+")
    given = make(language_model, questions_csv, tmp_path / "cache", folder=tmp_path, dataset=dataset, **changes)
    given.setup()
    return given


def test_responses_with_ids_give_what_the_run_gave_bit_by_bit(
    written, language_model, questions_csv, tmp_path, monkeypatch
):
    """The model writes nothing, and the activations have the key and the bytes of those of its own answers."""
    monkeypatch.setattr("datamodules.language.answer_stage.generate_answers", None)
    built, rows = written
    given = give(language_model, questions_csv, tmp_path, rows)
    for one, other in zip(table_of(built), table_of(given), strict=True):
        assert {key: one[key] for key in [*SAME, "logprobs"]} == {key: other[key] for key in [*SAME, "logprobs"]}
    assert counts(given) == counts(built)
    assert given.card
    assert built.card
    assert given.card.cache["activations"] == built.card.cache["activations"]
    assert not (tmp_path / "cache" / "answers").exists()
    for one, other in zip(built._shards, given._shards, strict=True):
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_another_id_is_another_entry_of_the_cache(written, language_model, questions_csv, tmp_path):
    built, rows = written
    changed = [rows[0] | {"prompt_ids": [*rows[0]["prompt_ids"], 7]}, *rows[1:]]
    given = give(language_model, questions_csv, tmp_path, changed)
    assert given.card
    assert given.card.cache["activations"] != built.card.cache["activations"]


def test_labels_that_came_with_responses_overrule_the_rule(written, language_model, questions_csv, tmp_path, caplog):
    _, rows = written
    flipped = [row | {"label": i % 2} for i, row in enumerate(rows[:120])] + rows[120:]
    with caplog.at_level("INFO"):
        given = give(language_model, questions_csv, tmp_path, flipped)
    assert [row["label"] for row in table_of(given)][:120] == [i % 2 for i in range(120)]
    assert "labels: 120 of 300 responses keep the label that they came with" in caplog.text
    with pytest.raises(
        ValueError, match=r"^rule=given: expected a label of every response, got none for said-00120; ch"
    ):
        give(language_model, questions_csv, tmp_path, flipped, rule=TextRule(judge_as_given))
    without = [{key: cell for key, cell in row.items() if key != "answer"} for row in flipped[:120]]
    given = give(language_model, questions_csv, tmp_path, without, rule=TextRule(judge_as_given))
    assert {tuple(row["gold"]) for row in table_of(given)} == {()}
    with pytest.raises(
        ValueError, match=r"^split.by: expected gold answers beside 'gold', got none in 120 responses wi"
    ):
        give(language_model, questions_csv, tmp_path, without, split=GroupSplit(by="gold"))


def test_pooled_positions_over_roles_are_means_over_the_tokens_of_the_question(
    written, language_model, questions_csv, tmp_path
):
    """Oracle: the hidden states of one prompt and answer, over the tokens that decode to the question."""
    _, rows = written
    rules = [{"name": "user", "over": "user", "at": "mean"}, {"name": "said", "over": "assistant", "at": "max"}]
    given = give(language_model, questions_csv, tmp_path, rows[:80], positions=Positions([*shipped("exact"), *rules]))
    tokenizer, network, kept = language_model.load_tokenizer(), language_model.load("cpu"), table_of(given)
    blocks = list(given.test_dataloader())
    acts = torch.cat([block["acts"] for block in blocks]).unflatten(0, (3, 6))
    for i, n in list(enumerate(given.targets.rows("test").tolist()))[:5]:
        row = kept[n]
        (first, last), (begin, end) = ((row["first_token"][t], row["last_token"][t]) for t in (4, 5))
        assert row["question"] in tokenizer.decode(row["prompt_ids"][first : last + 1])
        assert last - first < len(row["prompt_ids"]) - 3
        special = row["answer_ids"][-1] in tokenizer.all_special_ids
        assert (begin, end + 1 + special) == (n_prompt := len(row["prompt_ids"]), n_prompt + len(row["answer_ids"]))
        ids = torch.tensor([row["prompt_ids"] + row["answer_ids"]])
        states = network.model(ids, output_hidden_states=True).hidden_states[1][0]
        torch.testing.assert_close(acts[0, 4, i].float(), states[first : last + 1].mean(0), rtol=2**-7, atol=5e-3)
        torch.testing.assert_close(acts[0, 5, i].float(), states[begin : end + 1].amax(0), rtol=2**-7, atol=5e-3)


@pytest.mark.usefixtures("_without_pictures")
def test_the_command_draws_the_map_of_the_run_from_its_responses(tmp_path):
    """The demo model's answers by `dataset=responses`, retokenised: the map of the run that wrote them."""
    rules = (
        "positions.rules=[{name: q, over: prompt, at: mean},{name: a, over: answer, at: max},{name: end, of: answer}]"
    )
    more = [rules, "site.layers=[5]", "logger=null", "trainer=cpu", "report.terminal=line"]
    status, _, err = run_here(tmp_path / "a", "dataset.limit=100", "dataset=demo_words", *more)
    assert status == 0, err
    path = tmp_path / "a" / "run" / "examples.parquet"
    given = ["dataset=responses", f"dataset.path={path}", "dataset.response=answer", "dataset.answer=gold"]
    given += ["dataset.label=null", "dataset.group=group", "dataset.prompt_ids=null", "dataset.logprobs=null"]
    status, _, err = run_here(tmp_path / "b", *given, *more)
    assert status == 0, err
    assert "responses: 0 of 100 with their token ids, the others tokenised; the token that ends an answer is put" in err
    keys = ["layer", "position", "split", "auc", "auc_se", "n", "n_positive"]
    one, other = ([[row[key] for key in keys] for row in table(tmp_path / name)] for name in ("a", "b"))
    assert one == other
