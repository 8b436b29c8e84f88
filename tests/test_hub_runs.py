"""Every model and data set of the hub from start to heatmap, on a machine that has their files and no network."""

import csv
import json
import logging
import re
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from datamodules.language.language_model import LanguageModel
from datamodules.questions import snapshot
from tests.support.hub_cache import publish_dataset, publish_model
from tests.support.hub_models import DEPTH, small_model
from tests.support.hub_questions import SCRIPTS, TEST, Script, expected_labels, script, training_texts
from tests.test_configs import CONF, composed
from train import run

pytestmark = pytest.mark.usefixtures("_without_pictures")


def hub_id(group: str, name: str) -> str | None:
    """Hub id that a configuration names, itself or by those it begins with; read from the files, which is quick."""
    path = CONF / group / f"{name}.yaml"
    if not path.is_file():
        return None
    node = yaml.safe_load(path.read_text())
    own = node.get(group, node).get("id", "???")
    bases = [base for base in node.get("defaults", ()) if isinstance(base, str)]
    bases = [base.partition("@")[0].removeprefix(f"/{group}/") for base in bases]
    return own if own not in (None, "???") else next((id_ for base in bases if (id_ := hub_id(group, base))), None)


def of_the_hub(group: str) -> dict[str, str]:
    """Names of the configurations of a group that name a hub id, and the ids."""
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return {name: id_ for name in names if (id_ := hub_id(group, name))}


MODELS, SETS = of_the_hub("model"), of_the_hub("dataset")


@pytest.mark.parametrize(("group", "found"), [("model", MODELS), ("dataset", SETS)])
def test_every_configuration_of_the_hub_is_found(group, found):
    """Against Hydra's own word for each file of the group."""
    ids = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for path in (CONF / group).glob("*.yaml"):
            node = compose("config", overrides=[f"{group}={path.stem}"])[group]
            ids[path.stem] = None if OmegaConf.is_missing(node, "id") else node.get("id")
    assert {name: id_ for name, id_ in ids.items() if id_} == found


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture
def no_network(hub_cache, tmp_path, monkeypatch) -> SimpleNamespace:
    """A machine without a network: which models were fetched, which repositories the hub was asked for, and which hosts
    all else asked for.
    """
    seen, here = SimpleNamespace(asked=[], hosts=[], fetched=[]), threading.local()
    own, own_fetch = HfApi.repo_info, LanguageModel.fetch

    def repo_info(api: HfApi, id_: str, **how: Any) -> Any:
        seen.asked.append(id_)
        here.asks = True
        return own(api, id_, **how)

    def resolve(host: Any, *_: Any, **__: Any) -> None:
        if not getattr(here, "asks", False):
            seen.hosts.append(str(host))
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(snapshot, "_unreachable", [])
    monkeypatch.setattr(snapshot, "_logged", set())

    def fetch(model: LanguageModel) -> None:
        seen.fetched.append(model.id)
        own_fetch(model)

    monkeypatch.setattr(LanguageModel, "fetch", fetch)
    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.chdir(tmp_path)
    return seen


def go_offline(monkeypatch) -> None:
    """As with HF_HUB_OFFLINE=1."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(snapshot, "_unreachable", [])


def publish_script(cache: Path, name: str) -> tuple[str, Script]:
    """Publish the questions of a data set; returns the commit and what is said to them."""
    if name not in SCRIPTS:
        raise KeyError(f"no questions for dataset={name}: add its columns to SCRIPTS in tests/support/hub_questions.py")
    return publish_dataset(cache, SETS[name], SCRIPTS[name].config, SCRIPTS[name].rows()), SCRIPTS[name]


def check_run(folder: Path, asked: Script) -> None:
    """Heatmap and table are there, with a row a cell, and the counts that follow from what is said."""
    assert (folder / "heatmap.png").exists()
    rows = list(csv.DictReader((folder / "heatmap.csv").read_text().splitlines()))
    assert len(rows) == 2 * DEPTH * asked.positions
    labels = expected_labels(asked, TEST)
    (cell,) = (row for row in rows if (row["split"], row["layer"], row["position"]) == ("test", "0", "last_q"))
    assert (int(cell["n"]), int(cell["n_positive"])) == (len(labels), sum(labels))
    assert 0 <= float(cell["auc"]) <= 1
    (cell,) = (r for r in rows if (r["split"], r["layer"], r["position"]) == ("test", "0", "exact_answer_first"))
    assert (int(cell["n"]), int(cell["n_positive"])) == (len(labels), sum(labels))


def manifests(root: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in root.glob(f"{kind}/*/manifest.json")]


def start_to_heatmap(
    tmp_path: Path, caplog: Any, monkeypatch: Any, no_network: SimpleNamespace, asked: Script, *overrides: str
):
    """Run without a network, then again with HF_HUB_OFFLINE=1; returns what was logged."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    caplog.set_level(logging.INFO)
    batches = script(monkeypatch, asked)
    overrides = (*overrides, f"cache.root={tmp_path}/cache", "trainer=cpu")
    run(composed(tmp_path, *overrides, *(f"~callbacks.{name}" for name in ("progress", "coincidence", "report"))))
    check_run(tmp_path, asked)
    log = caplog.text
    assert len(no_network.fetched) == 1  # before the fit, and not again before the test
    assert len(no_network.asked) == 1
    assert no_network.hosts == []
    told = re.findall(r"(\w+\.id)=\S+: the hub does not answer; going on with what was fetched before, commit", log)
    assert told == ["model.id", "dataset.id"]
    caplog.clear()
    go_offline(monkeypatch)
    n = len(batches)
    run(composed(tmp_path, *overrides, "experiment=cache_only"))
    assert len(batches) == n
    assert "to make" not in caplog.text
    assert len(re.findall(r"(answers|resid_post): \d+ reused from", caplog.text)) >= 2
    assert "the hub" not in caplog.text
    assert no_network.hosts == []
    return log


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_hub_from_start_to_heatmap(name, hub_cache, no_network, tmp_path, monkeypatch, caplog):
    commit = publish_model(hub_cache, MODELS[name], small_model(MODELS[name], training_texts()))
    of_set, asked = publish_script(hub_cache, "triviaqa")
    log = start_to_heatmap(tmp_path, caplog, monkeypatch, no_network, asked, f"model={name}", "dataset=triviaqa")
    assert f"model.id={MODELS[name]}: the hub does not answer" in log
    assert commit in log
    for manifest in (*manifests(tmp_path / "cache", "answers"), *manifests(tmp_path / "cache", "activations")):
        assert manifest["model"]["source"] == {"id": MODELS[name], "commit": commit}
        assert manifest["dataset"]["commit"] == of_set


@pytest.mark.parametrize("name", SETS)
def test_a_data_set_of_the_hub_from_start_to_heatmap(name, hub_cache, no_network, tmp_path, monkeypatch, caplog):
    id_ = "mistralai/Mistral-7B-Instruct-v0.2"
    publish_model(hub_cache, id_, small_model(id_, training_texts()))
    commit, asked = publish_script(hub_cache, name)
    start_to_heatmap(tmp_path, caplog, monkeypatch, no_network, asked, "model=mistral_7b_instruct", f"dataset={name}")
    for manifest in (*manifests(tmp_path / "cache", "answers"), *manifests(tmp_path / "cache", "activations")):
        assert manifest["dataset"]["commit"] == commit
