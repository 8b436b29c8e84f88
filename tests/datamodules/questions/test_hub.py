"""Data sets of the hub in the hub's own layout: Parquet, cards with configs, commits that move."""

import json
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.language.cache.entry import CacheEntry
from datamodules.questions import snapshot
from datamodules.questions.hub import HubQuestions
from tests.support.hub_cache import publish, publish_dataset, repository, write_dataset

pytestmark = pytest.mark.usefixtures("own_datasets_cache")
ROW = {"question": "a", "answer": "b"}


def test_the_type_of_a_column_says_which_numbers_are_short(tmp_path):
    rows = {
        "question": ["a"], "double": [3.14159265], "single": pa.array([0.1], pa.float32()),
        "nested": pa.array([{"x": [0.2]}], pa.struct({"x": pa.list_(pa.float32())})),
        "day": pa.array([datetime(2020, 1, 2)], pa.timestamp("us")),
    }  # fmt: skip
    folder = write_dataset(tmp_path / "set", "default", {"train": [{"question": "a", "answer": "b"}]})
    pq.write_table(pa.table(rows), tmp_path / "set" / "default" / "train-00000-of-00001.parquet")
    (asked,) = HubQuestions(id=folder, answer=["double", "single", "nested.x", "day"]).load()
    assert asked.answers == ("3.14159265", "0.1", "0.2", "2020-01-02")


def test_without_a_test_part_the_split_is_dealt(tmp_path):
    folder = write_dataset(tmp_path / "set", "default", {"train": [{"question": "a", "answer": "b"}]})
    (question,) = HubQuestions(id=folder).load()
    assert (question.id, question.split) == ("set-00000", "")


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty hub cache on a machine without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(snapshot, "_unreachable", [])
    monkeypatch.setattr(snapshot, "_logged", set())
    return tmp_path / "hub"


def publish_files(cache, tmp_path, files, **how):
    """Publish a data set `org/set` of these texts by file name."""
    for name, text in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(text)
    return publish(cache, "dataset", "org/set", tmp_path / "set", **how)


def load(**settings):
    """Texts of the questions of `org/set`, fetched first."""
    dataset = HubQuestions(id="org/set", **settings)
    dataset.fetch()
    return [question.text for question in dataset.load(lambda line: None)]


def test_the_commit_that_a_revision_leads_to_is_loaded_and_told(hub_cache):
    commit = publish_dataset(hub_cache, "org/set", "c", {"train": [ROW]}, revision="v1")
    dataset = HubQuestions(id="org/set", config="c", revision="v1")
    dataset.fetch()
    assert dataset.identify() == {"hub": "org/set", "config": "c", "commit": commit}
    assert dataset.describe() == {"dataset": "set", "revision": "v1"}
    assert [question.id for question in dataset.load()] == ["set-00000"]
    assert dataset.folder.name == commit


def test_a_revision_that_moved_is_refused_and_a_commit_is_not(hub_cache, tmp_path):
    def cache(dataset):
        CacheEntry(tmp_path, "answers", {"dataset": dataset.identify()}, 1, dataset.describe())

    old = publish_dataset(hub_cache, "org/set", "c", {"train": [ROW]})
    publish_dataset(hub_cache, "org/other", "c", {"train": [ROW]})
    cache(HubQuestions(id="org/set", revision="main"))
    HubQuestions(id="org/set", revision="main").check_unmoved(str(tmp_path))
    new = publish_dataset(hub_cache, "org/set", "c", {"train": [ROW, {"question": "c", "answer": "d"}]})
    with pytest.raises(
        ValueError, match=rf"dataset.revision: expected main of org/set to be the commit {old}, .*got {new}"
    ):
        HubQuestions(id="org/set", revision="main").check_unmoved(str(tmp_path))
    for other in (
        HubQuestions(id="org/set", revision=new),
        HubQuestions(id="org/set", revision=old),
        HubQuestions(id="org/set"),
        HubQuestions(id="org/set", config="other", revision="main"),
        HubQuestions(id="org/other", revision="main"),
    ):
        other.check_unmoved(str(tmp_path))
    (tmp_path / "answers" / "broken").mkdir()
    (repository(hub_cache, "dataset", "org/set") / "refs" / "v").write_text(new)
    for content in ("", "[]", json.dumps({"about": None}), json.dumps({"about": {"revision": "v"}, "dataset": None})):
        (tmp_path / "answers" / "broken" / "manifest.json").write_text(content)
        HubQuestions(id="org/set", revision="v").check_unmoved(str(tmp_path))


TWO = """---
configs:
- config_name: one
  data_files:
  - split: train
    path: one.csv
- config_name: two{default}
  data_files:
  - split: train
    path: two.csv
---
"""
TEXTS = {"one.csv": "question,answer\nof one,b\n", "two.csv": "question,answer\nof two,b\n"}


@pytest.mark.parametrize(
    ("default", "config", "expected"),
    [
        ("", "one", "of one"),
        ("", "two", "of two"),
        ("\n  default: true", None, "of two"),
        ("", "three", None),
        ("", None, None),
    ],
)
def test_of_several_configurations_one_is_named_or_the_default(default, config, expected, hub_cache, tmp_path):
    publish_files(hub_cache, tmp_path, TEXTS | {"README.md": TWO.format(default=default)})
    if expected:
        assert load(config=config) == [expected]
        return
    line = rf"^dataset.config: expected one of one, two for org/set, got {config}; name one$"
    with pytest.raises(ValueError, match=line):
        load(config=config)


def test_a_card_names_what_separates_columns_and_says_what_is_no_setting(hub_cache, tmp_path):
    card = """---
configs:
- config_name: default
  description: Tabs between columns.
  data_files: some.tsv
  sep: "\\t"
---
"""
    publish_files(hub_cache, tmp_path, {"README.md": card, "some.tsv": "question\tanswer\na, and b\tc\n"})
    assert load() == ["a, and b"]


@pytest.mark.parametrize("card", [None, "", "# A set\n", "---\nlicense: mit\n---\n"])
def test_a_set_whose_card_describes_nothing_is_told_by_the_names_of_its_files(card, hub_cache, tmp_path):
    files = {"data/train.csv": "question,answer\na,b\n", "data/test.csv": "question,answer\nc,d\n"}
    publish_files(hub_cache, tmp_path, files if card is None else files | {"README.md": card})
    assert load(test_split="test") == ["a", "c"]
    with pytest.raises(ValueError, match=r"^dataset: expected a part 'validation' of org/set, got t\w+, t\w+$"):
        load(test_split="validation")


def test_only_the_files_of_the_parts_in_use_are_needed(hub_cache):
    """As a download of these parts leaves them: the list of all files, and some of them."""
    parts = {"train": [ROW], "validation": [{"question": "c", "answer": "d"}], "test": [ROW]}
    commit = publish_dataset(hub_cache, "org/set", "c", parts, listed=True)
    folder = repository(hub_cache, "dataset", "org/set") / "snapshots" / commit / "c"
    (folder / "test-00000-of-00001.parquet").unlink()
    assert load(config="c", test_split="validation") == ["a", "c"]
    with pytest.raises(
        ValueError, match=r"^dataset.id=org/set: expected a network, or a data set fetched whole before, got a download"
    ):
        load(config="c", test_split="test")


def test_files_that_are_not_there_are_told_where_no_list_names_them(hub_cache):
    commit = publish_dataset(hub_cache, "org/set", "c", {"train": [ROW]})
    (repository(hub_cache, "dataset", "org/set") / "snapshots" / commit / "c" / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"^dataset.id=org/set: expected a data set that loads, got ") as told:
        load(config="c")
    assert "\n" not in str(told.value)


def test_without_a_network_a_set_not_fetched_before_is_told(hub_cache):
    line = r"^dataset.id=org/set: expected a network, or a data set fetched before, got neither; connect once, or give"
    with pytest.raises(ValueError, match=line):
        HubQuestions(id="org/set").fetch()
    with pytest.raises(ValueError, match=line):
        HubQuestions(id="org/set").load()


def test_a_part_a_config_or_a_column_that_is_not_there_is_named(tmp_path):
    folder = write_dataset(tmp_path / "set", "one", {"train": [ROW]})
    with pytest.raises(ValueError, match=r"dataset: expected a part 'test' of .*set, got train"):
        HubQuestions(id=folder, config="one", test_split="test").load()
    with pytest.raises(ValueError, match=r"^dataset.config: expected one of one for .*set, got two; name one$"):
        HubQuestions(id=folder, config="two").load()
    with pytest.raises(ValueError, match=r"expected column gold in set, got question; set the option of dataset"):
        HubQuestions(id=folder, answer="gold").load()
