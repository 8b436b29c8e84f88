"""The sets of the hub that `conf/dataset` names, with their columns as published."""

from typing import Any

import pytest

from tests.support.hub_cache import write_dataset
from tests.test_configs import composed
from train import build

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


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
    folder = write_dataset(tmp_path / "set", config, parts)
    dataset = build(composed(tmp_path, f"dataset={name}", f"dataset.id={folder}").dataset)
    dataset.fetch()
    assert [(q.text, q.answers, q.split) for q in dataset.load(lambda line: None)] == expected
    assert dataset.identify() == {"hub": folder, "config": config, "commit": None}


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
        folder = write_dataset(tmp_path / name, config, parts)
        dataset = build(composed(tmp_path, f"dataset={name}", f"dataset.id={folder}").dataset)
        groups = [q.group for q in dataset.load(lambda line: None) if q.split == "train"]
        assert len(groups) == 1 + len(rows)
        assert len(set(groups)) == 2
