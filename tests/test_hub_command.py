"""The command as people type it, on a hand-made hub cache, without a network: `model=mistral_7b_instruct`."""

import re
import shutil
import socket
from pathlib import Path

import pytest

from datamodules.language.generation import generate_answers
from datamodules.language.language_model import LanguageModel
from datamodules.questions import snapshot
from tests.support.hub_cache import publish_dataset, publish_model
from tests.support.hub_models import DEPTH, small_model
from tests.support.hub_questions import SCRIPTS, training_texts
from tests.support.runs import run, run_here, table

MODEL, SET, N, TOKENS = "mistralai/Mistral-7B-Instruct-v0.2", "mandarjoshi/trivia_qa", 60, 6
COMMAND = ["model=mistral_7b_instruct", "dataset=triviaqa"]
# What the small model says has no exact answer that it could copy.
SMALL = [f"model.max_new_tokens={TOKENS}", "spans=rule", r"dataset.pattern='\w+'", "trainer=cpu"]
NO_NETWORK = """
import socket

def getaddrinfo(*_, **__):
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

socket.getaddrinfo = getaddrinfo
"""


def find_no_host(*_: object, **__: object) -> None:
    """The same in this process."""
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory) -> Path:
    """A model, and questions to which half of the gold answers are a word of what it says."""
    cache = tmp_path_factory.mktemp("hub")
    commit = publish_model(cache, MODEL, small_model(MODEL, training_texts()))
    folder = cache / "models--mistralai--Mistral-7B-Instruct-v0.2" / "snapshots" / commit
    model = LanguageModel(str(folder), chat=True, max_new_tokens=TOKENS)
    tokenizer, network = model.load_tokenizer(), model.load("cpu")
    rows = [SCRIPTS["triviaqa"].row(i) for i in range(2 * N)]
    prompts = model.encode(tokenizer, [row["question"] for row in rows])
    for i, (row, said) in enumerate(zip(rows, generate_answers(network, tokenizer, prompts, TOKENS), strict=True)):
        words = re.findall(r"\w{3,}", said.text)
        if i % 2 and words:
            row["answer"] |= {"value": max(words, key=len), "aliases": [max(words, key=len)]}
    publish_dataset(cache, SET, "unfiltered.nocontext", {"train": rows[:N], "validation": rows[N:]})
    return cache


@pytest.fixture
def machine(tmp_path, monkeypatch, hub_cache):
    """Environment of processes that cannot look up any host."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_CACHE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache))


@pytest.fixture
def no_network(monkeypatch):
    """This process cannot look up any host."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(snapshot, "_unreachable", [])
    monkeypatch.setattr(snapshot, "_logged", set())
    monkeypatch.setattr(socket, "getaddrinfo", find_no_host)


@pytest.mark.slow
@pytest.mark.usefixtures("machine")
def test_the_command_offline_and_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, out, err = run(tmp_path / "own", *COMMAND, *SMALL)
    assert status == 0, err
    assert f"answers: {2 * N} of {2 * N} to make" in err
    assert "hub" not in err
    assert (tmp_path / "own" / "run" / "heatmap.png").is_file()
    rows = table(tmp_path / "own")
    assert len(rows) == 2 * DEPTH * 15
    assert {row["n"] for row in rows if row["split"] == "test" and row["position"] == "last_q"} == {str(N)}
    monkeypatch.delenv("HF_HUB_OFFLINE")
    before = shutil.move(tmp_path / "own" / "run", tmp_path / "before")
    status, out, err = run(tmp_path / "own", *COMMAND, *SMALL)
    assert status == 0, err
    assert len(re.findall("the hub does not answer; going on with what was fetched before", err)) == 2
    assert f"answers: {2 * N} reused from" in err
    assert f"resid_post: {2 * N} reused from" in err
    after = (tmp_path / "own" / "run" / "heatmap.csv").read_bytes()
    assert after == (Path(before) / "heatmap.csv").read_bytes()
    assert "Traceback" not in out + err


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("missing", "line"),
    [
        (MODEL, f"error: model.id={MODEL}: expected a network, or weights fetched before, got neither; connect once, "),
        (SET, f"error: dataset.id={SET}: expected a network, or a data set fetched before, got neither; connect once,"),
    ],
)
def test_the_command_without_a_network_and_without_the_files_is_one_line(
    missing, line, hub_cache, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "part"))
    for repository in hub_cache.iterdir():
        if missing.replace("/", "--") not in repository.name:
            (tmp_path / "part").mkdir(exist_ok=True)
            (tmp_path / "part" / repository.name).symlink_to(repository)
    status, out, err = run_here(tmp_path, *COMMAND)
    assert status == 1
    assert err.splitlines()[-1].startswith(line)
    assert err.count("error: ") == 1
    assert "Traceback" not in out + err
