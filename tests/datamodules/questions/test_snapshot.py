"""Fetching from the hub: without a network, from a hub that is silent or refuses, and with downloads cut short."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from datamodules.language.language_model import LanguageModel
from datamodules.questions import snapshot
from datamodules.questions.snapshot import fetch_snapshot, find_snapshot
from tests.support.hub_cache import publish, repository

ID = "some/model"
ANSWERED: Any = SimpleNamespace(headers={}, request=None, status_code=401)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache, and nothing known of the hub yet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(snapshot, "_unreachable", [])
    monkeypatch.setattr(snapshot, "_logged", set())
    return tmp_path / "hub"


@pytest.fixture
def files(tmp_path):
    """What a repository holds."""
    (tmp_path / "files" / "sub").mkdir(parents=True)
    (tmp_path / "files" / "config.json").write_text("{}")
    (tmp_path / "files" / "sub" / "weights.safetensors").write_text("w")
    return tmp_path / "files"


@pytest.fixture
def hub(monkeypatch):
    """The hub: `says` is raised, and `asked` tells which repositories it was asked for."""
    state = SimpleNamespace(says=ConnectionError("no route\nto the host"), asked=[])

    def repo_info(_: HfApi, id_: str, **how: Any) -> None:
        state.asked.append((id_, how["repo_type"], how["revision"]))
        raise state.says

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    return state


def test_without_a_network_what_was_fetched_is_used_with_one_line_and_one_question(hub, hub_cache, files, caplog):
    commits = [publish(hub_cache, "model", id_, files) for id_ in (ID, "some/other")]
    folder = fetch_snapshot("model", ID, None)
    assert folder == repository(hub_cache, "model", ID) / "snapshots" / commits[0]
    assert (folder / "sub" / "weights.safetensors").read_text() == "w"
    assert fetch_snapshot("model", ID, "main") == folder
    assert fetch_snapshot("model", "some/other", None).name == commits[1]
    assert hub.asked == [(ID, "model", None)]
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", f"model.id={id_}: the hub does not answer; going on with what was fetched before, commit {commit}")
        for id_, commit in zip((ID, "some/other"), commits, strict=True)
    ]
    assert find_snapshot("model", ID, None) == folder


@pytest.mark.parametrize(("kind", "what"), [("model", "weights"), ("dataset", "a data set")])
def test_without_a_network_and_without_files_it_ends_in_one_line(hub, hub_cache, kind, what):
    line = (
        rf"^{kind}.id={ID}: expected a network, or {what} fetched before, got neither; connect once, or give a folder$"
    )
    with pytest.raises(ValueError, match=line):
        fetch_snapshot(kind, ID, None)
    with pytest.raises(ValueError, match=line):
        find_snapshot(kind, ID, None)
    assert len(hub.asked) == 1


def test_offline_by_choice_nothing_is_said_of_the_hub(hub_cache, files, monkeypatch, caplog):
    """The hub's own client, with HF_HUB_OFFLINE=1."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="expected a network, or weights fetched before, got neither"):
        LanguageModel(ID).fetch()
    assert isinstance(snapshot._unreachable[0], OfflineModeIsEnabled)
    commit = publish(hub_cache, "model", ID, files)
    assert fetch_snapshot("model", ID, None).name == commit
    assert caplog.records == []


def test_a_silent_hub_is_waited_for_no_longer_than_told(hub_cache, files, monkeypatch, caplog):
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: time.sleep(2))
    monkeypatch.setattr(snapshot, "PATIENCE", 0.1)
    monkeypatch.setattr(snapshot, "PATIENCE_WITH_FILES", 0.05)
    with pytest.raises(ValueError, match="expected a network, or weights fetched before, got neither"):
        fetch_snapshot("model", ID, None)
    assert isinstance(snapshot._unreachable[0], TimeoutError)
    snapshot._unreachable.clear()
    commit = publish(hub_cache, "model", ID, files)
    assert fetch_snapshot("model", ID, None).name == commit
    assert isinstance(snapshot._unreachable[0], TimeoutError)
    assert "the hub does not answer" in caplog.text


REFUSALS = [
    (
        GatedRepoError("no\nlong", response=ANSWERED),
        rf"^model.id={ID}: expected weights open to you, got a gated repository; accept its terms .* hf auth login$",
    ),
    (
        RepositoryNotFoundError("no\nlong", response=ANSWERED),
        rf"^model.id: expected a folder or a hub id such as org/name, got '{ID}': the hub has none that you may see",
    ),
    (
        RevisionNotFoundError("no\nlong", response=ANSWERED),
        rf"^model.revision: expected a branch, tag or commit of {ID}, got 'v9'$",
    ),
    (
        HfHubHTTPError("Internal error\nlong", response=ANSWERED),
        rf"^model.id={ID}: expected weights from the hub, got an error \(Internal error\); run again, which goes on",
    ),
]


@pytest.mark.parametrize(("says", "line"), REFUSALS)
def test_what_the_hub_refuses_is_told_with_what_to_do(says, line, hub, hub_cache):
    hub.says = says
    with pytest.raises(ValueError, match=line) as told:
        LanguageModel(ID, revision="v9").fetch()
    assert "\n" not in str(told.value)
    assert hub.asked == [(ID, "model", "v9")]
    assert snapshot._unreachable == []  # it answers: the next repository is asked for


@pytest.mark.parametrize("says", [REFUSALS[0][0], REFUSALS[1][0], REFUSALS[3][0]])
def test_what_was_fetched_is_used_where_the_hub_refuses_now(says, hub, hub_cache, files, caplog):
    hub.says = says
    commit = publish(hub_cache, "model", ID, files)
    assert fetch_snapshot("model", ID, None).name == commit
    assert [record.message for record in caplog.records] == [
        f"model.id={ID}: the hub refuses; going on with what was fetched before, commit {commit}"
    ]


def test_a_branch_that_the_hub_has_no_longer_is_told_although_it_was_fetched(hub, hub_cache, files):
    hub.says = RevisionNotFoundError("no", response=ANSWERED)
    publish(hub_cache, "model", ID, files, revision="v9")
    with pytest.raises(ValueError, match=r"^model.revision: expected a branch, tag or commit of some/model, got 'v9'$"):
        fetch_snapshot("model", ID, "v9")


def test_a_commit_with_the_list_of_its_files_asks_nothing(hub, hub_cache, files, caplog):
    commit = publish(hub_cache, "model", ID, files, listed=True)
    assert fetch_snapshot("model", ID, commit).name == commit
    assert (hub.asked, caplog.records) == ([], [])
    assert fetch_snapshot("model", ID, "main").name == commit
    assert hub.asked == [(ID, "model", "main")]


def test_a_commit_without_that_list_may_lack_files_so_the_hub_is_asked(hub, hub_cache, files):
    commit = publish(hub_cache, "model", ID, files)
    assert fetch_snapshot("model", ID, commit).name == commit
    assert hub.asked == [(ID, "model", commit)]


@pytest.mark.parametrize("offline", [False, True])
def test_a_download_that_was_cut_short_is_told(offline, hub, hub_cache, files, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    commit = publish(hub_cache, "model", ID, files, listed=True)
    (repository(hub_cache, "model", ID) / "snapshots" / commit / "sub" / "weights.safetensors").unlink()
    with pytest.raises(
        ValueError, match=rf"^model.id={ID}: expected a network, or weights fetched whole before, got a download that"
    ) as told:
        LanguageModel(ID).fetch()
    assert "\n" not in str(told.value)
    assert fetch_snapshot("model", ID, None, allow=["*.json"]).name == commit  # what is lacking is not asked for
    assert find_snapshot("model", ID, None).name == commit


def test_a_hub_that_answers_is_asked_for_what_is_missing(hub_cache, files, monkeypatch):
    downloads = []
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: None)
    real = snapshot.snapshot_download

    def download(id_: str, **how: Any) -> str:
        if how.pop("local_files_only", False):
            return real(id_, local_files_only=True, **how)
        downloads.append(how)
        return str(repository(hub_cache, "model", id_) / "snapshots" / publish(hub_cache, "model", id_, files))

    monkeypatch.setattr(snapshot, "snapshot_download", download)
    folder = fetch_snapshot("model", ID, None, allow=["*.json"], ignore="consolidated*")
    assert (folder / "config.json").is_file()
    assert downloads == [
        {"repo_type": "model", "revision": None, "allow_patterns": ["*.json"], "ignore_patterns": "consolidated*"}
    ]


def test_an_option_of_its_own_is_named(hub, hub_cache):
    with pytest.raises(ValueError, match=r"^model.adapter=some/model: expected a network, or weights fetched before"):
        fetch_snapshot("model", ID, None, key="model.adapter")


def test_a_name_that_no_hub_has_is_told_in_one_line(hub, hub_cache):
    with pytest.raises(
        ValueError, match=r"^model.id: expected a folder or a hub id such as org/name, got 'a\.\.b' \("
    ) as told:
        LanguageModel("a..b").fetch()
    assert "\n" not in str(told.value)


def test_an_older_model_of_pickles_is_refused_as_a_folder_of_them_is(hub, hub_cache, tmp_path):
    """Whether it is asked for now or lies in the cache already."""
    (tmp_path / "old").mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / "old" / name).write_text("{}")
    publish(hub_cache, "model", ID, tmp_path / "old")
    line = "model.id: expected weights as safetensors, got pytorch_model.bin in '{}', a pickle, which may hold code; "
    line += "convert it with model.save_pretrained"
    for given, use in ((ID, LanguageModel.fetch), (ID, LanguageModel.load_config), (str(tmp_path / "old"), repr)):
        with pytest.raises(ValueError, match=r"^model.id: expected") as refused:
            use(LanguageModel(given))
        assert str(refused.value) == line.format(given)


def test_a_repository_without_weights_is_told(hub, hub_cache, tmp_path):
    """Such as one of which a configuration alone was fetched, by another program."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    publish(hub_cache, "model", ID, tmp_path / "bare")
    with pytest.raises(
        ValueError,
        match=r"^model.id=some/model: expected weights as safetensors, got none in .*; connect and run again, or",
    ):
        LanguageModel(ID).fetch()


@pytest.mark.parametrize("error", [RuntimeError("connection lost\nlong"), OSError(28, "No space left on device")])
def test_a_download_that_fails_is_one_line(error, hub_cache, monkeypatch):
    """Below the hub's own client others have errors of their own."""
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: None)
    real = snapshot.snapshot_download

    def download(id_: str, **how: Any) -> str:
        if how.get("local_files_only"):
            return real(id_, **how)
        raise error

    monkeypatch.setattr(snapshot, "snapshot_download", download)
    with pytest.raises(
        ValueError,
        match=r"^model.id=some/model: expected weights from the hub, got an error \(.*(lost|device)\); run again, wh",
    ):
        fetch_snapshot("model", ID, None)
