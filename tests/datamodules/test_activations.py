"""The datamodule of activations: its grid, its labels and exact answers, and what it refuses."""

import json
import re
from dataclasses import replace

import pytest
import torch

from datamodules.card import Card
from datamodules.examples import Span
from datamodules.labels.rules import judge_by_gold
from datamodules.labels.spans import ModelSpans
from datamodules.language.capture import capture
from datamodules.language.positions import Positions, Rule
from datamodules.language.running_model import RunningModel
from datamodules.questions.files import FileQuestions
from datamodules.split import GroupSplit
from tests.support.activations import counts, make, table_of
from tests.support.positions import shipped
from tests.support.trainers import stand_in


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def datamodule(language_model, questions_csv, cache_root, tmp_path_factory):
    built = make(language_model, questions_csv, cache_root, folder=tmp_path_factory.mktemp("run"))
    built.setup()
    return built


def test_blocks_hold_what_the_model_computes(datamodule, language_model, questions_csv):
    """Oracle: each test question answered alone, its hidden states read off `output_hidden_states`."""
    network = language_model.load("cpu")
    table = table_of(datamodule)
    asked = {q.text: q for q in FileQuestions(path=str(questions_csv)).load()}
    blocks = list(datamodule.test_dataloader())
    rows = datamodule.targets.rows("test")
    acts = torch.cat([block["acts"] for block in blocks]).unflatten(0, (3, 15))
    valid = torch.cat([block["valid"] for block in blocks], 1).squeeze(0).unflatten(0, (3, 15))
    for i in (0, 7, len(rows) - 1):
        row = table[rows[i]]
        assert blocks[0]["examples"][i] == rows[i]
        assert blocks[0]["labels"][0, i] == judge_by_gold(row["answer"], asked[row["question"]]).right == row["label"]
        states = network.model(
            torch.tensor([row["prompt_ids"] + row["answer_ids"]]), output_hidden_states=True
        ).hidden_states
        for position in range(15):
            assert valid[0, position, i] == row["valid"][position]
            if row["valid"][position]:
                for layer in (0, 1):  # the last entry of hidden_states is after the final norm
                    expected = states[layer + 1][0, row["first_token"][position]]
                    torch.testing.assert_close(acts[layer, position, i].float(), expected, rtol=2**-7, atol=1e-3)


def test_the_card_describes_the_grid(datamodule):
    card = datamodule.card
    assert Card.from_json(json.loads(json.dumps(card.to_json(), allow_nan=False))) == card
    assert card.layers == (0, 1, 2)
    assert card.positions == tuple(rule["name"] for rule in shipped("paper"))
    assert card.shape == (1, 3, 15, 32)
    (target,) = card.targets
    assert (target.name, target.label, target.seed) == ("correctness", "correctness", 0)
    table = table_of(datamodule)
    assert len(table) == 300
    table = [row for row in table if row["exact_answer"] is not None]
    assert sum(count.n for count in counts(datamodule)) == len(table)
    assert sum(count.n_positive for count in counts(datamodule)) == sum(row["label"] for row in table)
    assert card.n_valid == tuple(sum(row["valid"][t] for row in table) for t in range(15))
    shards = datamodule._shards[0][0]
    assert shards.parents[1].name == card.cache["activations"]
    assert (shards.parents[3] / "answers" / card.cache["answers"]).is_dir()


def test_a_second_run_loads_no_model(datamodule, language_model, questions_csv, cache_root, monkeypatch, caplog):
    monkeypatch.setattr(RunningModel, "network", property(lambda _: pytest.fail("the model was loaded")))
    again = make(language_model, questions_csv, cache_root)
    with caplog.at_level("INFO"):
        again.setup()
    assert again.card == datamodule.card
    assert "answers: 300 reused from" in caplog.text
    assert "resid_post: 300 reused from" in caplog.text


def test_another_site_reuses_the_answers(datamodule, language_model, questions_csv, cache_root, caplog):
    with caplog.at_level("INFO"):
        make(language_model, questions_csv, cache_root, site="mlp_out", layers=[2]).setup()
    assert "answers: 300 reused from" in caplog.text
    assert "mlp_out: 300 of 300 to make" in caplog.text


def test_activations_that_are_not_finite_are_named_and_not_stored(language_model, questions_csv, tmp_path, monkeypatch):
    def broken(network, sequences, tokens, sites, layers):
        acts = capture(network, sequences, tokens, sites, layers)["resid_post"].clone()
        acts[0, 1, 2, 3] = torch.inf
        return {"resid_post": acts}

    monkeypatch.setattr("datamodules.language.activation_stage.capture", broken)
    with pytest.raises(ValueError, match=r"got inf at layer 1, position second_answer, example colours-\d{5}"):
        make(language_model, questions_csv, tmp_path).setup()
    assert not list(tmp_path.rglob("*.safetensors*"))


def test_one_sided_labels_are_refused(language_model, tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("question,answer\n" + "".join(f"q{i}?,never said\n" for i in range(30)))
    with pytest.raises(ValueError, match="at least 10 right and 10 wrong answers, got 0 right and 30 wrong of 30"):
        make(language_model, path, tmp_path).setup()


def test_a_layer_outside_the_model_is_refused(language_model, questions_csv, cache_root):
    with pytest.raises(ValueError, match=r"expected layers of the model, 0 to 2, got \[7\]"):
        make(language_model, questions_csv, cache_root, layers=[7]).setup()


def test_an_unknown_site_is_refused_before_any_work(language_model, questions_csv, cache_root):
    with pytest.raises(ValueError, match="expected one of resid_pre"):
        make(language_model, questions_csv, cache_root, site="residual")


def test_ranks_get_their_own_cells(datamodule):
    seen = []
    for rank in range(2):
        datamodule.trainer = stand_in(rank, 2)
        seen += [cell for block in datamodule.train_dataloader() for cell in block["cells"].tolist()]
    datamodule.trainer = None
    assert sorted(seen) == list(range(45))


def test_a_model_that_computes_nonsense_is_named_before_anything_is_stored(language_model, questions_csv, tmp_path):
    network = language_model.load("cpu")
    network.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    network.save_pretrained(tmp_path / "model")
    language_model.load_tokenizer().save_pretrained(tmp_path / "model")
    broken = replace(language_model, id=str(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"got nan at layer 1, position last_q, example colours-\d{5}"):
        make(broken, questions_csv, tmp_path / "cache").setup()
    assert not list((tmp_path / "cache").rglob("*.parquet*"))


def test_positions_that_are_absent_are_stored_as_zeros(datamodule):
    for block in datamodule.test_dataloader():
        assert not block["acts"][~block["valid"][0]].any()
        assert block["acts"][block["valid"][0]].any(-1).all()


def test_a_split_short_of_a_class_is_told(language_model, questions_csv, cache_root, caplog):
    few = make(language_model, questions_csv, cache_root, split=GroupSplit(val=0.05, test=0.25))
    few.setup()
    assert "split: val has" in caplog.text
    assert "split: test has" not in caplog.text


def test_a_mean_is_cached_as_a_mean(language_model, questions_csv, cache_root, tmp_path):
    rules = [Rule("answer_mean", "answer", "mean"), Rule("-1", "answer", -1)]
    built = make(language_model, questions_csv, cache_root, positions=Positions(rules), layers=[1], folder=tmp_path)
    built.setup()
    table = table_of(built)
    assert {path.name for path in tmp_path.iterdir()} == {"examples.parquet", "labels.md"}
    acts = torch.cat([block["acts"] for block in built.test_dataloader()])
    network = language_model.load("cpu")
    for i in (0, 5):
        row = table[built.targets.rows("test")[i]]
        ids = row["prompt_ids"] + row["answer_ids"]
        states = network.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
        expected = states[len(row["prompt_ids"]) :].mean(0)
        torch.testing.assert_close(acts[0, i].float(), expected, rtol=2**-7, atol=1e-3)
        assert row["exact_answer_by"] == "not looked for"


def test_no_exact_answer_in_over_half_of_the_rows_stops_and_shows_five(language_model, questions_csv, cache_root):
    data = FileQuestions(path=str(questions_csv), pattern="never said")
    with pytest.raises(ValueError, match="expected exact answers in over half of 300 answers, got 0 ") as error:
        make(language_model, questions_csv, cache_root, dataset=data).setup()
    assert str(error.value).count("colours-") == 5
    assert "\n" not in str(error.value)


def test_a_model_is_asked_for_exact_answers_once_and_remembered(
    language_model, questions_csv, cache_root, monkeypatch, caplog
):
    asked = make(language_model, questions_csv, cache_root, spans=ModelSpans(tries=2))
    for attempt in (1, 2):
        with pytest.raises(ValueError, match=r"are empty: ask another model with \+model@"):
            asked.setup()
        if attempt == 1:
            monkeypatch.setattr(RunningModel, "network", property(lambda _: pytest.fail("the model was loaded")))


def test_the_page_and_the_table_stand_in_the_run_folder(datamodule):
    assert {path.name for path in datamodule.folder.iterdir()} == {
        "exact_answers.html", "examples.parquet", "labels.md",
    }  # fmt: skip
    page = (datamodule.folder / "exact_answers.html").read_text()
    table = table_of(datamodule)
    assert "<td>pattern</td><td>right</td>" in page
    for row in table:
        match = re.search(r"\w+", row["answer"])
        assert row["exact_answer"] == (match.group() if match else None)


def test_a_class_without_exact_answers_stops(language_model, questions_csv, cache_root):
    """Without a pattern only right answers have one; here they are made the most."""
    rows = [line for line in questions_csv.read_text().splitlines()[1:] if not line.endswith(",nothing")]
    path = cache_root / "right.csv"
    others = [line for line in questions_csv.read_text().splitlines()[1:] if line.endswith(",nothing")][:30]
    path.write_text("\n".join(["question,answer", *rows, *others]))
    with pytest.raises(
        ValueError,
        match=r"expected exact answers in at least 10 right and 10 wrong answers, got \d+ of \d+ right and \d of "
        r"\d+ wrong; \d+ of \d+ without one are cut off at model.max_new_tokens=14: raise it, or positions=answer",
    ):
        make(language_model, path, cache_root, dataset=FileQuestions(path=str(path))).setup()


def test_answers_without_an_exact_answer_are_named(language_model, questions_csv, cache_root, caplog):
    def find_in_two_of_three(questions, answers, labels, ask):
        return [Span((0, 1) if i % 3 else None, "mine") for i in range(len(questions))]

    with caplog.at_level("INFO"):
        make(language_model, questions_csv, cache_root, spans=find_in_two_of_three).setup()
    listed = next(r.message for r in caplog.records if r.message.startswith("exact answers: none in"))
    assert re.findall(r"colours-(\d+)", listed) == [f"{i:05}" for i in range(0, 60, 3)]
    assert listed.endswith(" and 80 more, see examples.parquet; their exact-answer positions are invalid")


def test_sites_that_lie_in_parts_are_refused(language_model, questions_csv, cache_root):
    split = replace(language_model, tp_plan="auto")
    with pytest.raises(ValueError, match=r"expected a site of the width of the stream, .* got z; choose"):
        make(split, questions_csv, cache_root, also=["z"]).setup()


def test_a_test_part_that_is_left_out_is_never_asked(language_model, questions_csv, tmp_path):
    lines = questions_csv.read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join(lines[:201]))
    (tmp_path / "test.csv").write_text("\n".join([lines[0], *lines[201:]]))
    dataset = FileQuestions(
        path=str(tmp_path / "train.csv"), test_path=str(tmp_path / "test.csv"), pattern=r"\w+", limit=60
    )
    split = GroupSplit(val=0, test=0.5, own_test=False)
    run = tmp_path / "run"
    built = make(language_model, questions_csv, tmp_path, dataset=dataset, split=split, layers=[1], folder=run)
    built.setup()
    table = table_of(built)
    assert len(table) == 60
    assert {row["question"] for row in table} <= {line.split(",")[0] for line in lines[1:201]}
    said = sum(row["exact_answer"] is not None for row in table)
    assert [count.n for count in counts(built)] == [said - said // 2, 0, said // 2]
    assert built.val_dataloader() == []
