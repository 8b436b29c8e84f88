"""`experiment=score` end to end where it refuses: other models, damaged runs, and questions that hold nothing."""

import json
import shutil

import pytest
import torch

from probes import LinearProbes, Scorer
from probes.analysis.sealed import read_sealed, seal
from tests.support.hub_cache import publish_model
from tests.support.hub_models import small_model
from tests.support.runs import run_here, without_pictures

pytestmark = pytest.mark.usefixtures("_without_pictures")

MODEL = "HuggingFaceTB/SmolLM2-tiny-Instruct"
TEXTS = [f"Question {i}: which town is it? It is Oslo, or Rome." for i in range(40)]


def refuse(place, *overrides):
    """The one line of a command that has to be refused."""
    status, out, err = run_here(place, "experiment=score", *overrides)
    assert (status, out.strip()) == (1, ""), err
    (line,) = err.strip().splitlines()
    assert not [path.name for path in (place / "run").glob("*") if path.name.startswith("score")]
    return line.removeprefix("error: ")


def copy_run(folder, target, **changes):
    """Copy a run; `probes` and `scores` change the tensors, and the card, of these files in place."""
    shutil.copytree(folder, target)
    for name, change in changes.items():
        path = target / f"{name}.safetensors"
        content, tensors = read_sealed(path, name, "")
        tensors = {key: tensor.clone() for key, tensor in tensors.items()}
        change(tensors, content)
        path.write_bytes(seal(tensors, content))
    return target


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub cache, and a run on responses, which it labels by a word, of a chat model in there."""
    cache, home = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("hub_run")
    commit = publish_model(cache, MODEL, small_model(MODEL, TEXTS))
    with pytest.MonkeyPatch.context() as patch, without_pictures():
        use(patch, cache)
        fit(home, MODEL)
    return cache, home, commit


def fit(home, model):
    rows = [
        {"question": f"Question {i}: which town is it?", "response": ("Oslo", "Rome")[i % 2], "label": i % 2}
        for i in range(200)
    ]
    (home / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, err = run_here(
        home, "model=hf", f"model.id={model}", "dataset=responses", f"dataset.path={home}/responses.jsonl",
        "positions.rules=[{name: '-1', of: answer, at: -1}]", "site.layers=[1]", "split.val=0.4", "spans=rule",
        "report.terminal=line", "trainer=cpu",
    )  # fmt: skip
    assert status == 0, err


def use(monkeypatch, cache):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def choose(home):
    return f"run={home}/run", "dataset=responses", f"dataset.path={home}/responses.jsonl", "dataset.limit=10"


def test_another_revision_or_chat_template_of_a_hub_model_is_refused(hub, tmp_path, monkeypatch):
    cache, home, commit = hub
    use(monkeypatch, cache)
    assert LinearProbes.load(home / "run").card.revision == commit
    status, _, err = run_here(tmp_path / "same", "experiment=score", *choose(home))
    assert status == 0, err
    assert len((tmp_path / "same/run/scores.jsonl").read_text().splitlines()) == 10
    moved = tmp_path / "moved"
    shutil.copytree(cache, moved, symlinks=True)
    use(monkeypatch, moved)

    def write_other(folder):
        small_model(MODEL, TEXTS)(folder)
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text().replace("helpful", "careful"))

    other = publish_model(moved, MODEL, write_other)  # where main leads from now on
    named = ("model=hf", f"model.id={MODEL}")
    for overrides in ((), named, (*named, f"model.revision={other}")):
        line = refuse(tmp_path / "other", *choose(home), *overrides)
        assert line.startswith("model: expected ")
        assert f" as the run read it, got another revision ({other} instead of {commit}); leave model out" in line
    pinned = (*choose(home), *named, f"model.revision={commit}")
    status, _, err = run_here(tmp_path / "pinned", "experiment=score", *pinned)
    assert status == 0, err
    local = tmp_path / "local"  # the same files without a commit
    shutil.copytree(cache / f"models--{MODEL.replace('/', '--')}/snapshots/{commit}", local)
    line = refuse(tmp_path / "files", *choose(home), "model=hf", f"model.id={local}")
    assert f"got another revision (local files instead of {commit})" in line


def test_another_chat_template_of_local_files_is_refused(hub, tmp_path):
    cache, _, commit = hub
    local = tmp_path / "model"
    shutil.copytree(cache / f"models--{MODEL.replace('/', '--')}/snapshots/{commit}", local)
    (tmp_path / "home").mkdir()
    fit(tmp_path / "home", local)
    status, _, err = run_here(tmp_path / "same", "experiment=score", *choose(tmp_path / "home"))
    assert status == 0, err
    path = local / "chat_template.jinja"
    path.write_text(path.read_text().replace("helpful", "careful"))
    assert ") and another prompt or chat template (" in refuse(tmp_path / "template", *choose(tmp_path / "home"))


def test_another_site_is_refused(folder, tmp_path):
    line = refuse(tmp_path / "site", f"run={folder}", "dataset=demo_facts", "site=attn_out")
    assert line == "site: expected resid_post, where the probes of the run read, got attn_out; leave it out"


def test_a_run_that_is_not_there_or_not_finished(folder, tmp_path):
    words = "run: expected the folder of a finished run, got "
    for run, rest in (
        (tmp_path / "absent", ": no such folder; name one, as outputs/latest"),
        (tmp_path, " without probes.safetensors; wait for its end, or name another, as outputs/latest"),
    ):
        line = f"{words}{run}{rest}"
        assert refuse(tmp_path / "command", f"run={run}", "dataset=demo_facts") == line
        for load in (Scorer.load, LinearProbes.load):
            with pytest.raises(FileNotFoundError) as caught:
                load(run)
            assert str(caught.value) == line
    line = refuse(tmp_path / "command", f"run={folder}/probes.safetensors", "dataset=demo_facts")
    assert line.startswith(f"{words}the file {folder}/probes.safetensors; name one")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\n", ", got another (while parsing a flow sequence); name the folder of another run"),
        ("", ", got one without datamodule; name the folder of another run"),
        ("- 1\n", ", got another (Index 'datamodule' (str) is not an int); name"),
        ("datamodule: {}\nmodel: null\n", ", got one without model; name the folder of another run"),
    ],
)
def test_a_damaged_configuration_is_told(folder, tmp_path, text, words):
    run = copy_run(folder, tmp_path / "copy")
    (run / ".hydra/config.yaml").write_text(text)
    line = refuse(tmp_path / "command", f"run={run}", "dataset=demo_facts")
    assert line.startswith(f"run: expected the configuration of a run in {run}/.hydra/config.yaml")
    assert words in line


def label_one_class(tensors, _):
    tensors["labels"][tensors["part"] == 1] = 1


def make_equal(tensors, _):
    tensors["scores"] = tensors["scores"].clamp(1, 1)  # NaN stays


def make_infinite(tensors, _):
    tensors["scores"][:, 1, 2] = torch.inf


def drop_validation(tensors, _):
    tensors["part"][tensors["part"] == 1] = 0


def drop_probes(tensors, _):
    tensors["weight"][:, 1, 2], tensors["bias"][:, 1, 2] = torch.nan, torch.nan


FEW = "run: expected 1 cells with a probe and enough validation rows of both classes, got 0; take more questions"
NONE = "run: expected validation rows that have mean, got none; choose another cell, or run with split.val"


@pytest.mark.parametrize(
    ("file", "change", "automatic", "named"),
    [
        ("scores", label_one_class, FEW, "calibration: expected rows of both labels, got 0 of label 0 and 96 of 1; "),
        ("scores", drop_validation, FEW, NONE),
        ("scores", make_equal, "run: expected a cell with higher sc", "calibration: expected scores that differ, got "),
        ("scores", make_infinite, None, NONE),
        ("probes", drop_probes, None, "expected a probe at layer 7, position mean, got none"),
    ],
)
def test_cells_that_cannot_judge_are_refused_or_not_chosen(folder, tmp_path, file, change, automatic, named):
    run = copy_run(folder, tmp_path / "copy", **{file: change})
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        Scorer.load(run, cell=(7, "mean"))
    assert str(caught.value).startswith(named)
    if automatic is None:
        chosen = [cell for way in Scorer.load(run).ways for cell in way.ensemble.cells]
        assert (7, "mean") not in [(cell.layer, cell.position) for cell in chosen]
        return
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        Scorer.load(run)
    assert str(caught.value).startswith(automatic)


def test_examples_of_another_run_are_refused_before_they_are_read_again(folder, tmp_path):
    def move(tensors, _):
        tensors["examples"] += 100_000

    def forget(_, content):
        content["identity"] = {}

    run = copy_run(folder, tmp_path / "copy", scores=move, probes=forget)
    with pytest.raises(ValueError, match=r"^run: expected examples for all of its scores, got 240 and a score of row"):
        Scorer.load(run)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "dataset.path: expected questions, got "),
        ([{"question": "", "response": "A"}, {"question": "Q", "response": " "}], "dataset: expected rows with"),
        ([{"question": "Q", "response": "word " * 3000}], "dataset: expected texts that fit into the context"),
    ],
)
def test_responses_that_hold_nothing_to_score(folder, tmp_path, rows, words):
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, err = run_here(
        tmp_path / "command", "experiment=score", f"run={folder}", "dataset=responses", f"dataset.path={path}"
    )
    assert status == 1
    assert err.strip().splitlines()[-1].startswith(f"error: {words}")


def test_blank_rows_are_left_out_and_counted(folder, tmp_path):
    path = tmp_path / "responses.jsonl"
    rows = [("Where?", "Oslo."), ("  ", "Rome."), ("Who?", ""), ("你好 \u202e\u0000", "😀 e\u0301 \u2028\t=cmd()")]
    path.write_text("".join(json.dumps({"question": q, "response": a, "label": 1}) + "\n" for q, a in rows))
    status, _, err = run_here(
        tmp_path / "command", "experiment=score", f"run={folder}", "dataset=responses", f"dataset.path={path}"
    )
    assert status == 0, err
    assert "skipped 1 of 4 rows with no question" in err
    assert "skipped 1 of 4 rows with no response" in err
    lines = (tmp_path / "command/run/scores.jsonl").read_text("utf-8").split("\n")
    found = [json.loads(line) for line in lines if line]
    assert [one["id"] for one in found] == ["responses-00000", "responses-00003"]
    assert all("".join(one["tokens"]) == one["answer"] for one in found)


def test_classes_are_compared_with_the_classes_of_the_set(tmp_path):
    """Not with what is right: a set of statements has no gold answers."""
    words = {"weather": "It rains and snows in", "people": "A tall woman sings in", "places": "The old town lies near"}
    rows = [f"{words[kind]} place {i}.,{kind}" for i in range(60) for kind in words]
    path = tmp_path / "statements.csv"
    path.write_text("\n".join(["statement,kind", *rows]) + "\n")
    chosen = ("dataset=statements", f"dataset.path={path}", "dataset.target=kind")
    status, _, err = run_here(
        tmp_path, *chosen, "positions=statements", "site.layers=[7]", "split.val=0.4", "report.terminal=line"
    )
    assert status == 0, err
    for name in ("people", "places"):
        status, out, err = run_here(
            tmp_path / name, "experiment=score", f"run={tmp_path}/run", *chosen, f"score.target='kind: {name}'",
            "score.fpr=0.1",
        )  # fmt: skip
        assert status == 0, err
        found = json.loads((tmp_path / name / "run/score.json").read_text())
        assert (found["right_stands_for"], found["judged"], found["right"]) == (f"kind: {name}", 180, 60)
        assert found["auc"] > 0.9
        assert f"kind: {name}" in out
        assert "examples outside the class" in out
        assert "wrong" not in out
    line = refuse(tmp_path / "other", f"run={tmp_path}/run", *chosen, "score.target=kind")
    assert line.startswith("target: expected one of kind: people, kind: places, kind: weather; got 'kind'")


def test_a_sweep_scores_with_each_cell(folder, tmp_path):
    status, out, err = run_here(
        tmp_path, "-m", "experiment=score", f"run={folder}", "dataset=demo_facts", "dataset.limit=5",
        "score.cell=[3,last_q],[7,mean]", f"hydra.sweep.dir={tmp_path}/sweep",
    )  # fmt: skip
    assert status == 0, out + err
    cells = [json.loads(path.read_text())["judges"][0]["cells"] for path in tmp_path.glob("sweep/*/score.json")]
    assert sorted(cells) == ["3:last_q", "7:mean"]


def test_a_question_without_words_is_refused(folder):
    scorer = Scorer.load(folder)
    for text in ("", " \n\t"):
        with pytest.raises(ValueError, match=r"^questions: expected words, got .* at index 0; leave empty questions"):
            scorer(text, "Oslo.")
        with pytest.raises(ValueError, match=r"^questions: expected words, got .* at index 1; leave empty questions"):
            scorer.answer(["Where?", text])
