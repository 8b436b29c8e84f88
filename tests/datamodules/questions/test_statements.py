import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import BertWordPieceTokenizer
from transformers import AutoModel, BertConfig, BertModel, BertTokenizer

from datamodules.activations import ActivationDataModule
from datamodules.labels.rules import TextRule, judge_as_given, judge_by_substring
from datamodules.labels.spans import RuleSpans
from datamodules.language.generation import make_given_answers
from datamodules.language.language_model import LanguageModel
from datamodules.language.positions import Positions
from datamodules.language.stages import LanguageModelStages
from datamodules.language.tokens import decode
from datamodules.questions.statements import FileStatements
from datamodules.split import GroupSplit
from tests.support.positions import shipped

CITIES = ["Paris", "Rome", "Café Réal", "St. Paul's", "New York"]


def write(tmp_path, *rows):
    path = tmp_path / "facts.csv"
    path.write_text("\n".join(["statement,label", *rows]) + "\n")
    return FileStatements(path=str(path))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Folder with a BERT of 2 layers and width 32, and a WordPiece tokenizer that drops case and accents."""
    folder = tmp_path_factory.mktemp("encoder")
    pieces = BertWordPieceTokenizer()
    texts = [f"In {city} it is {city} that the river runs by, 0 1 2 3 4 5 6 7 8 9." for city in CITIES]
    pieces.train_from_iterator(texts, vocab_size=120, show_progress=False)
    pieces.save_model(str(folder))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.3, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def test_rows_become_statements(tmp_path):
    rows = ["[[Rome]] is here.,1", "Rome is there.,FALSE", '"Rome, too",0.0', ",1", "Where?,"]
    told = []
    statements = write(tmp_path, *rows).load(told.append)
    assert [(s.id, s.text, s.label) for s in statements] == [
        ("facts-00000", "Rome is here.", True), ("facts-00001", "Rome is there.", False),
        ("facts-00002", "Rome, too", False),
    ]  # fmt: skip
    assert told == [
        "facts: skipped 1 of 5 rows with no statement: facts-00003",
        "facts: skipped 1 of 5 rows with no label: facts-00004",
    ]


@pytest.mark.parametrize("label", ["2", "-1", "yes", "0.5", "nan"])
def test_another_label_is_refused_with_its_statement(tmp_path, label):
    with pytest.raises(
        ValueError, match=rf"dataset.label: expected 0 or 1 in column label, got '{label}'; .*row facts-00000"
    ):
        write(tmp_path, f"It is.,{label}").load()


@pytest.mark.parametrize(
    ("marked", "said", "phrase"),
    [
        ("In [[Rome]] it is.", "In Rome it is.", "Rome"),
        ("Rome, or [[Rome]], or Rome", "rome , or rome , or rome", "rome"),
        ("Rome: it is [[Rome]]", "Rome: it is Rome", "Rome"),
        ("by [[St. Paul's Café]]!", "by st . paul ' s cafe !", "st . paul ' s cafe"),
        ("no mark\nat all ", "no mark\nat all", "no mark\nat all"),
        ("[[a]] b [[c]]", "a b c", "a"),
        ("in [[New\nYork]] it is", "in New York it is", "New York"),
        ("ROME, or [[Rome]]", "rome , or rome", "rome"),
    ],
)
def test_a_marked_phrase_is_found_in_what_a_tokenizer_gives_back(tmp_path, marked, said, phrase):
    question = write(tmp_path, f'"{marked}",1').load()[0]
    assert "[" not in question.text
    (exact,) = RuleSpans()([question], [said], [True], lambda *_: [])
    assert exact.characters
    assert said[slice(*exact.characters)] == phrase
    before = marked.replace("]]", "").split("[[")[0]
    assert len("".join(said[: exact.characters[0]].split())) == len("".join(before.split())) or "[[" not in marked


def made(model, tmp_path, **changes):
    path = tmp_path / "rivers"
    path.mkdir(exist_ok=True)
    lines = [
        f'"Row {i} of {CITIES[i % 5]}: in [[{CITIES[i % 3]}]] the river runs, {i % 7}.",{i % 2}' for i in range(120)
    ]
    settings = {
        "model": model,
        "dataset": write(path, *lines),
        "rule": TextRule(judge_as_given),
        "spans": RuleSpans(),
        "positions": Positions(shipped("statements")),
        "site": "resid_post",
        "split": GroupSplit(),
        "cache_root": str(tmp_path / "cache"),
        "folder": tmp_path / "run",
    }
    datamodule = ActivationDataModule(**(settings | changes))
    datamodule.setup()
    return datamodule


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_activations_of_statements_against_the_model_alone(kind, encoder, tiny_model, tmp_path):
    """Oracle: each statement through transformers by itself, hidden states averaged over the phrase's own tokens."""
    folder = encoder if kind == "encoder" else tiny_model
    model = LanguageModel(str(folder), dtype="float32", batch_size=8)
    datamodule = made(model, tmp_path)
    table = pq.read_table(tmp_path / "run" / "examples.parquet").to_pylist()
    blocks = list(datamodule.test_dataloader())
    acts = torch.cat([block["acts"] for block in blocks]).unflatten(0, (-1, 10))
    tokenizer, network = model.load_tokenizer(), AutoModel.from_pretrained(folder)
    rows = datamodule.targets.rows("test")
    names = datamodule.positions.names
    assert [row["label"] for row in table] == [i % 2 for i in range(120)]
    assert {row["finish"] for row in table} == {"given"}
    for i in (0, 5, len(rows) - 1):
        row = table[rows[i]]
        assert blocks[0]["labels"][0, i] == row["label"]
        assert blocks[0]["examples"][i] == rows[i]
        assert row["split"] == "test"
        ids = tokenizer(row["question"]).input_ids
        assert row["prompt_ids"] + row["answer_ids"] == ids
        states = network(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        last = len(ids) - 1 - (ids[-1] in tokenizer.all_special_ids)
        tokens = range(row["first_token"][1], row["last_token"][1] + 1)
        said = decode(tokenizer, ids[tokens[0] : tokens[-1] + 1]).replace(" ", "")
        assert said == (
            CITIES[rows[i] % 3].lower().replace("é", "e") if kind == "encoder" else CITIES[rows[i] % 3]
        ).replace(" ", "")
        for name, expected in {
            "last": states[last], "phrase": states[list(tokens)].mean(0), "-1": states[-1], "-8": states[-8],
        }.items():  # fmt: skip
            torch.testing.assert_close(acts[0, names.index(name), i].float(), expected, rtol=2**-7, atol=5e-3)
    last, end = names.index("last"), names.index("-1")
    assert datamodule.card
    assert datamodule.card.coincidence
    assert datamodule.card.coincidence[last][end] == (0 if kind == "encoder" else 1)
    (target,) = datamodule.card.targets
    assert (target.name, target.label) == ("label", "label")
    # Statements have no labels of ours to report on.
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"examples.parquet", "exact_answers.html"}


def test_a_rule_that_overrules_the_labels_of_statements_is_refused(encoder, tmp_path):
    with pytest.raises(ValueError, match=r"^rule: expected rule=given for facts, .*; set rule=given$"):
        made(LanguageModel(str(encoder), dtype="float32", batch_size=8), tmp_path, rule=TextRule(judge_by_substring))


def test_statements_need_no_head_and_no_answers(encoder, tmp_path, caplog):
    with caplog.at_level("INFO"):
        made(LanguageModel(str(encoder), dtype="float32", batch_size=8), tmp_path)
    assert "labels: 50.0% of 120 statements are labelled 1" in caplog.text
    assert "30 test questions differ from one that trains or validates by at most one letter in 12" in caplog.text
    assert not (tmp_path / "cache" / "answers").exists()


def test_statements_longer_than_the_model_holds_are_left_out(encoder, tmp_path, caplog):
    model = LanguageModel(str(encoder), dtype="float32", batch_size=8)
    dataset = write(tmp_path, *(f"it is {i} {'9 ' * (100 * (i == 7))},{i % 2}" for i in range(60)))
    with caplog.at_level("INFO"):
        made(model, tmp_path, dataset=dataset)
    assert "skipped 1 of 60 texts, longer than the 64 tokens of context (a model with" in caplog.text
    assert "would keep them): facts-00007" in caplog.text
    with LanguageModelStages(model, dataset, str(tmp_path), torch.device("cpu"), quiet=True) as stages:
        (one,) = make_given_answers(stages.tokenizer, ["It is."])
    assert one.text.replace(" ", "") == "itis."
    assert len(one.prompt_ids) == 1
