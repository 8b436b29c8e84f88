import json
from dataclasses import replace
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from datamodules.activations import ActivationDataModule
from datamodules.capture import capture
from datamodules.correctness import is_correct
from datamodules.positions import NAMES, Positions
from datamodules.questions import CsvQuestions
from datamodules.split import GroupSplit
from datamodules.stages import LanguageModelStages


def make(language_model, questions_csv, cache_root, **changes):
    settings = {
        "model": language_model,
        "dataset": CsvQuestions(str(questions_csv)),
        "positions": Positions(NAMES),
        "site": "resid_post",
        "split": GroupSplit(),
        "cache_root": str(cache_root),
    }
    return ActivationDataModule(**(settings | changes))


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def datamodule(language_model, questions_csv, cache_root):
    built = make(language_model, questions_csv, cache_root)
    built.setup()
    return built


def test_blocks_hold_what_the_model_computes(datamodule, language_model, questions_csv):
    """Oracle: each test question answered alone, its hidden states read off `output_hidden_states`."""
    network = language_model.load("cpu")
    table = pq.read_table(next(iter(datamodule._shards[0])).parents[1] / "index.parquet").to_pylist()
    gold = {q.text: q.answers for q in CsvQuestions(str(questions_csv)).load()}
    blocks = list(datamodule.test_dataloader())
    rows = datamodule._rows["test"]
    acts = torch.cat([block["acts"] for block in blocks]).unflatten(0, (3, 15))
    valid = torch.cat([block["valid"] for block in blocks]).unflatten(0, (3, 15))
    for i in (0, 7, len(rows) - 1):
        row = table[rows[i]]
        assert blocks[0]["labels"][i] == is_correct(row["answer"], gold[row["question"]]) == row["label"]
        states = network.model(
            torch.tensor([row["prompt_ids"] + row["answer_ids"]]), output_hidden_states=True
        ).hidden_states
        for position in range(15):
            assert valid[0, position, i] == row["valid"][position]
            if row["valid"][position]:
                for layer in (0, 1):  # the last entry of hidden_states is after the final norm
                    expected = states[layer + 1][0, row["position"][position]]
                    torch.testing.assert_close(acts[layer, position, i].float(), expected, rtol=2**-7, atol=1e-3)


def test_the_card_describes_the_grid(datamodule):
    card = datamodule.card
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert card["layers"] == [0, 1, 2]
    assert card["positions"] == list(NAMES)
    assert card["width"] == 32
    assert sum(card["split"][name]["n"] for name in ("train", "val", "test")) == 300
    labels = datamodule._labels
    assert sum(card["split"][name]["n_positive"] for name in ("train", "val", "test")) == labels.sum()
    assert card["n_valid"] == datamodule._valid.sum(0).tolist()


def test_a_second_run_loads_no_model(datamodule, language_model, questions_csv, cache_root, monkeypatch, caplog):
    monkeypatch.setattr(LanguageModelStages, "network", property(lambda _: pytest.fail("the model was loaded")))
    again = make(language_model, questions_csv, cache_root)
    with caplog.at_level("INFO"):
        again.setup()
    assert again.card == datamodule.card
    assert "answers: 300 reused from" in caplog.text
    assert "activations: 300 reused from" in caplog.text


def test_another_site_reuses_the_answers(datamodule, language_model, questions_csv, cache_root, caplog):
    with caplog.at_level("INFO"):
        make(language_model, questions_csv, cache_root, site="mlp_out", layers=[2]).setup()
    assert "answers: 300 reused from" in caplog.text
    assert "activations: 300 of 300 to make" in caplog.text


def test_another_batch_size_gives_the_same_answers(language_model, questions_csv, tmp_path):
    asked = [(q.id, q.text) for q in CsvQuestions(str(questions_csv), limit=40).load()]
    answers = []
    for batch_size in (8, 1):
        model = replace(language_model, batch_size=batch_size)
        with LanguageModelStages(model, str(tmp_path / str(batch_size)), torch.device("cpu")) as stages:
            answers.append(stages.answers(*zip(*asked, strict=True)))
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

    monkeypatch.setattr("datamodules.stages.capture", fails_late)
    with pytest.raises(RuntimeError, match="power cut"):
        make(language_model, questions_csv, tmp_path / "cut").setup()
    monkeypatch.undo()
    calls.clear()
    monkeypatch.setattr("datamodules.stages.capture", lambda n, s, *r: calls.append(len(s)) or capture(n, s, *r))
    resumed = make(language_model, questions_csv, tmp_path / "cut")
    resumed.setup()
    assert sum(calls) == 300 - 256
    for one, other in zip(alone._shards, resumed._shards, strict=True):
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_activations_that_are_not_finite_are_named_and_not_stored(language_model, questions_csv, tmp_path, monkeypatch):
    def broken(network, sequences, index, site, layers):
        acts = capture(network, sequences, index, site, layers).clone()
        acts[0, 1, 2, 3] = torch.inf
        return acts

    monkeypatch.setattr("datamodules.stages.capture", broken)
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
        datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=2)
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
        assert not block["acts"][~block["valid"]].any()
        assert block["acts"][block["valid"]].any(-1).all()


def test_a_split_short_of_a_class_is_told(language_model, questions_csv, cache_root, caplog):
    few = make(language_model, questions_csv, cache_root, split=GroupSplit(val=0.05, test=0.25))
    few.setup()
    assert "split: val has" in caplog.text
    assert "split: test has" not in caplog.text
