"""The sets of the hub on small folders in the hub's own layout: columns as published, Parquet, a card with configs."""

import json
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

from datamodules import hub
from datamodules.cache import CacheEntry
from datamodules.hub import HubQuestions
from tests.test_configs import composed
from train import build

ANSWERED: Any = SimpleNamespace(headers={}, request=None)
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))


def publish(folder, config, parts):
    """Write a data set as the hub keeps it."""
    card = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, rows in parts.items():
        (folder / config).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / config / f"{split}-00000-of-00001.parquet")
        card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", "# A set", ""]))
    return str(folder)


def trivia(question, *aliases):
    return {
        "question": question, "question_id": "tc_1", "question_source": "x", "entity_pages": {"title": ["t"]},
        "search_results": {"rank": [1]},
        "answer": {"aliases": list(aliases), "normalized_aliases": [], "type": "WikipediaEntity", "value": aliases[-1]},
    }  # fmt: skip


def hotpot(question, answer, title):
    return {
        "id": "5a", "question": question, "answer": answer, "type": "bridge", "level": "hard",
        "supporting_facts": {"title": [title], "sent_id": [0]},
        "context": {"title": [title, "B"], "sentences": [[f"{title} is.", " It was."], ["B is."]]},
    }  # fmt: skip


MNLI_TEXT = 'For the statement "{}", does the hypothesis "{}" represent entailment, contradiction, or neutrality?'
IMDB_TEXT = "{}\n\nIs this movie review positive or negative?"
SETS: dict[str, Any] = {
    "triviaqa": (
        "unfiltered.nocontext",
        {"train": [trivia("Who?", "Ann", "Anna"), trivia("Which?", "(B) b", "B")], "validation": [trivia("who", "C")]},
        [("Which?", ("B", "(B) b"), "train"), ("who", ("C",), "test")],
    ),
    "hotpotqa": (
        "distractor",
        {"train": [hotpot("Who?", "Ann", "A")], "validation": [hotpot("Where?", "yes", "C")]},
        [("Who?", ("Ann",), "train"), ("Where?", ("yes",), "test")],
    ),
    "hotpotqa_context": (
        "distractor",
        {"train": [hotpot("Who?", "Ann", "A")], "validation": [hotpot("Where?", "yes", "C")]},
        [("A is. It was.\nB is.\nWho?", ("Ann",), "train"), ("C is. It was.\nB is.\nWhere?", ("yes",), "test")],
    ),
    "natural_questions": (
        "nq_open",
        {"train": [{"question": "who", "answer": ["A", "B"]}], "validation": [{"question": "where", "answer": ["C"]}]},
        [("who", ("A", "B"), "train"), ("where", ("C",), "test")],
    ),
    "winogrande_hub": (
        "winogrande_xl",
        {
            "train": [{"sentence": "_ left.", "option1": "Ann", "option2": "Bob", "answer": "2"}],
            "test": [{"sentence": "_ stayed.", "option1": "Ann", "option2": "Bob", "answer": ""}],
            "validation": [{"sentence": "_ came.", "option1": "Ann", "option2": "Bob", "answer": "1"}],
        },
        [
            ("_ left. What does the blank refer to in the sentence?", ("Bob",), "train"),
            ("_ came. What does the blank refer to in the sentence?", ("Ann",), "test"),
        ],
    ),
    "mnli_hub": (
        "mnli",
        {
            "train": [{"premise": "a", "hypothesis": "b", "label": 1, "idx": 0}],
            "validation_matched": [{"premise": "c", "hypothesis": "d", "label": 2, "idx": 0}],
        },
        [(MNLI_TEXT.format("a", "b"), ("neutral",), "train"), (MNLI_TEXT.format("c", "d"), ("contradiction",), "test")],
    ),
    "imdb": (
        "plain_text",
        {
            "train": [{"text": "Fine {it} was.", "label": 1}],
            "test": [{"text": "Bad.", "label": 0}],
            "unsupervised": [{"text": "?", "label": -1}],
        },
        [(IMDB_TEXT.format("Fine {{it}} was.").replace("{{", "{").replace("}}", "}"), ("positive",), "train"),
         (IMDB_TEXT.format("Bad."), ("negative",), "test")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_the_sets_of_the_hub_as_published(name, tmp_path):
    config, parts, expected = SETS[name]
    folder = publish(tmp_path / "set", config, parts)
    dataset = build(composed(tmp_path, f"dataset={name}", f"dataset.id={folder}").dataset)
    dataset.fetch()
    assert [(q.text, q.answers, q.split) for q in dataset.load(lambda line: None)] == expected
    assert dataset.identity() == {"hub": folder, "config": config, "commit": None}


def test_the_type_of_a_column_says_which_numbers_are_short(tmp_path):
    rows = {
        "question": ["a"], "double": [3.14159265], "single": pa.array([0.1], pa.float32()),
        "nested": pa.array([{"x": [0.2]}], pa.struct({"x": pa.list_(pa.float32())})),
        "day": pa.array([datetime(2020, 1, 2)], pa.timestamp("us")),
    }  # fmt: skip
    folder = publish(tmp_path / "set", "default", {"train": [{"question": "a", "answer": "b"}]})
    pq.write_table(pa.table(rows), tmp_path / "set" / "default" / "train-00000-of-00001.parquet")
    (asked,) = HubQuestions(id=folder, answer=["double", "single", "nested.x", "day"]).load()
    assert asked.answers == ("3.14159265", "0.1", "0.2", "2020-01-02")


def test_twins_of_the_sets_of_the_hub_are_held_together(tmp_path):
    """A premise of MNLI with its hypotheses; the two sentences of Winogrande that differ in one word."""
    said = "The trophy does not fit into the suitcase because the _ is too {}."
    for name, rows in (
        ("mnli_hub", [{"premise": "p", "hypothesis": f"h{i}", "label": i, "idx": i} for i in range(3)]),
        (
            "winogrande_hub",
            [
                {"sentence": said.format(word), "option1": "trophy", "option2": "suitcase", "answer": answer}
                for word, answer in (("big", "1"), ("small", "2"))
            ],
        ),
    ):
        config, parts, _ = SETS[name]
        parts = {**parts, "train": parts["train"] + rows}
        folder = publish(tmp_path / name, config, parts)
        dataset = build(composed(tmp_path, f"dataset={name}", f"dataset.id={folder}").dataset)
        groups = [q.group for q in dataset.load(lambda line: None) if q.split == "train"]
        assert len(groups) == 1 + len(rows)
        assert len(set(groups)) == 2


def test_without_a_test_part_the_split_is_dealt(tmp_path):
    folder = publish(tmp_path / "set", "default", {"train": [{"question": "a", "answer": "b"}]})
    (question,) = HubQuestions(id=folder).load()
    assert (question.id, question.split) == ("set-00000", "")


@pytest.fixture
def moving_hub(monkeypatch):
    """A hub whose newest commit can be set; loads are written down."""
    state = SimpleNamespace(newest=OLD, loads=[], asked=[])

    def snapshot(id_, repo_type, revision, allow_patterns):
        state.asked.append((id_, repo_type, revision))
        return f"/hub/datasets--org--set/snapshots/{revision if revision and len(revision) == 40 else state.newest}"

    def load(id_, config, revision=None):
        state.loads.append((id_, config, revision))
        return datasets.DatasetDict({"train": datasets.Dataset.from_list([{"question": "a", "answer": "b"}])})

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.setattr(hub, "load_dataset", load)
    return state


def test_the_commit_that_a_revision_resolves_to_is_loaded_and_told(moving_hub):
    dataset = HubQuestions(id="org/set", config="c", revision="main")
    assert dataset.identity() == {"hub": "org/set", "config": "c", "commit": OLD}
    assert dataset.about() == {"dataset": "set", "revision": "main"}
    assert len(dataset.load()) == 1
    assert moving_hub.loads == [("org/set", "c", OLD)]
    assert moving_hub.asked == [("org/set", "dataset", "main")]  # once


def test_a_revision_that_moved_is_refused_and_a_commit_is_not(moving_hub, tmp_path):
    def cache(dataset):
        CacheEntry(tmp_path, "answers", {"dataset": dataset.identity()}, 1, dataset.about())

    cache(HubQuestions(id="org/set", revision="main"))
    HubQuestions(id="org/set", revision="main").check_unmoved(str(tmp_path))
    moving_hub.newest = NEW
    with pytest.raises(
        ValueError, match=rf"dataset.revision: expected main of org/set to be the commit {OLD}, .*got {NEW}"
    ):
        HubQuestions(id="org/set", revision="main").check_unmoved(str(tmp_path))
    for other in (
        HubQuestions(id="org/set", revision=NEW),
        HubQuestions(id="org/set", revision=OLD),
        HubQuestions(id="org/set"),
        HubQuestions(id="org/set", config="other", revision="main"),
        HubQuestions(id="org/other", revision="main"),
    ):
        other.check_unmoved(str(tmp_path))
    (tmp_path / "answers" / "broken").mkdir()
    for content in ("", "[]", json.dumps({"about": None}), json.dumps({"about": {"revision": "v"}, "dataset": None})):
        (tmp_path / "answers" / "broken" / "manifest.json").write_text(content)
        HubQuestions(id="org/set", revision="v").check_unmoved(str(tmp_path))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            RevisionNotFoundError("no\nlong", response=ANSWERED),
            "dataset.revision: .*'v9'",
        ),  # type: ignore[arg-type]
        (LocalEntryNotFoundError("nothing\nlong"), "expected a network, or a data set fetched before, got neither"),
    ],
)
def test_what_a_hub_refuses_is_told_with_what_to_do(monkeypatch, error, text):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=text) as told:
        HubQuestions(id="some/set", revision="v9").fetch()
    assert "\n" not in str(told.value)


def test_a_part_or_a_config_that_is_not_there_is_named(tmp_path):
    folder = publish(tmp_path / "set", "one", {"train": [{"question": "a", "answer": "b"}]})
    with pytest.raises(ValueError, match=r"dataset: expected a part 'test' of .*set, got train"):
        HubQuestions(id=folder, config="one", test_split="test").load()
    with pytest.raises(ValueError, match=r"expected a data set that loads, got .*two.*; check dataset.config") as told:
        HubQuestions(id=folder, config="two").load()
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=r"expected column gold in set, got question; set the option of dataset"):
        HubQuestions(id=folder, answer="gold").load()
