import dataclasses
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from datamodules.card import Card, Count, TargetCard
from tests.support.places import ROOT

COUNTS = {"train": Count(60, 20), "val": Count(15, 5), "test": Count(25, 8)}
CARD = Card(
    model="some/model",
    dataset="facts",
    site="resid_post",
    layers=(2, 5),
    positions=("first", "last", "end"),
    width=8,
    targets=(TargetCard("correctness", "correctness", 3, COUNTS),),
    n_valid=(100, 90, 80),
    revision="abc",
    classes=("no", "yes"),
    coincidence=((1.0, 0.25, None), (0.25, 1.0, 0.5), (None, 0.5, 1.0)),
    cache={"answers": "a1", "activations": "b2"},
)


def of_targets(*names):
    return tuple(TargetCard(name, "correctness", k, COUNTS) for k, name in enumerate(names))


def test_a_card_is_frozen():
    for thing, name in ((CARD, "dataset"), (CARD.targets[0], "name"), (COUNTS["val"], "n")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, "other")


def test_nothing_but_the_standard_library_is_loaded():
    """In a process of its own; third-party packages stand in `site-packages`."""
    code = (
        "import sys; before = set(sys.modules); import datamodules.card; new = set(sys.modules) - before;"
        "own = {name for name in new if name.startswith('datamodules')};"
        "print(sorted(own), [name for name in new - own if name.split('.')[0] not in sys.stdlib_module_names],"
        " 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['datamodules', 'datamodules.card'] [] False False"


def test_the_shape_is_that_of_the_probes():
    assert CARD.shape == (1, 2, 3, 8)
    assert replace(CARD, targets=of_targets("a", "b", "c", "d")).shape == (4, 2, 3, 8)


@pytest.mark.parametrize(
    "card",
    [
        CARD,
        replace(CARD, coincidence=None, revision=None, cache={}),
        replace(CARD, targets=(*of_targets("a", "b"), TargetCard("c", "c", None, {}))),
    ],
)
def test_json_gives_the_card_back(card):
    text = json.dumps(card.to_json(), allow_nan=False)
    again = Card.from_json(json.loads(text))
    assert again == card
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert Card.from_json(card.to_json()) == card  # as it lies in a checkpoint, with tuples


def test_json_says_every_field_by_its_name():
    written = json.loads(json.dumps(CARD.to_json()))
    assert written == {
        "model": "some/model",
        "dataset": "facts",
        "site": "resid_post",
        "layers": [2, 5],
        "positions": ["first", "last", "end"],
        "width": 8,
        "targets": [
            {
                "name": "correctness",
                "label": "correctness",
                "seed": 3,
                "counts": {
                    "train": {"n": 60, "n_positive": 20, "n_groups": None},
                    "val": {"n": 15, "n_positive": 5, "n_groups": None},
                    "test": {"n": 25, "n_positive": 8, "n_groups": None},
                },
            }
        ],
        "n_valid": [100, 90, 80],
        "revision": "abc",
        "classes": ["no", "yes"],
        "coincidence": [[1.0, 0.25, None], [0.25, 1.0, 0.5], [None, 0.5, 1.0]],
        "cache": {"answers": "a1", "activations": "b2"},
        "identity": {},
    }


OLD = {
    "model": "some/model",
    "dataset": "facts",
    "site": "resid_post",
    "target": "truth",
    "layers": [2, 5],
    "positions": ["first", "last"],
    "width": 8,
    "split": {
        "seed": 3,
        "train": {"n": 60, "n_positive": 20},
        "val": {"n": 0, "n_positive": 0},
        "test": {"n": 40, "n_positive": 13},
    },
    "coincidence": [[1.0, None], [None, 1.0]],
    "n_valid": [100, 90],
}


def test_a_card_of_the_last_version_is_one_target():
    before = json.dumps(OLD)
    counts = {"train": Count(60, 20), "val": Count(0, 0), "test": Count(40, 13)}
    assert Card.from_json(OLD) == Card(
        model="some/model",
        dataset="facts",
        site="resid_post",
        layers=(2, 5),
        positions=("first", "last"),
        width=8,
        targets=(TargetCard("truth", "truth", 3, counts),),
        n_valid=(100, 90),
        coincidence=((1.0, None), (None, 1.0)),
    )
    assert json.dumps(OLD) == before  # it is read, not changed
    assert Card.from_json(OLD | {"coincidence": None}).coincidence is None


def test_choose_permutes_all_that_belongs_to_rows_and_columns():
    chosen = CARD.choose([5], ["end", "first"])
    assert chosen.layers == (5,)
    assert chosen.positions == ("end", "first")
    assert chosen.n_valid == (80, 100)
    assert chosen.coincidence == ((1.0, None), (None, 1.0))
    assert chosen.shape == (1, 1, 2, 8)
    assert CARD.choose([5, 2], ["last", "end", "first"]).coincidence == (
        (1.0, 0.5, 0.25), (0.5, 1.0, None), (0.25, None, 1.0),
    )  # fmt: skip
    same = {"layers", "positions", "n_valid", "coincidence"}
    for field in {field.name for field in dataclasses.fields(Card)} - same:
        assert getattr(chosen, field) == getattr(CARD, field)
    assert CARD.choose(CARD.layers, CARD.positions) == CARD
    assert replace(CARD, coincidence=None).choose([2], ["last"]).coincidence is None


@pytest.mark.parametrize(
    "here",
    [
        CARD,
        CARD.choose([5, 2], ["end", "first", "last"]),
        replace(CARD, layers=(9, 5, 1, 2), positions=("x", "end", "last", "first")),
        replace(CARD, targets=of_targets("other")),
        replace(CARD, model="another", site="mlp_out", dataset="movies"),
    ],
)
def test_another_order_more_and_other_names_serve(here):
    here.require(CARD)


MOVIES = replace(CARD, dataset="movies", targets=of_targets("a", "b"))


@pytest.mark.parametrize(
    ("here", "fitted", "line"),
    [
        (
            replace(MOVIES, layers=(5, 7)),
            CARD,
            "test: expected every layer of the probes that were fitted on facts, got movies without layer 2; read it "
            "there too, or fit probes without it",
        ),
        (
            replace(MOVIES, positions=("last",)),
            CARD,
            "test: expected every position of the probes that were fitted on facts, got movies without position "
            "first, end; read it there too, or fit probes without it",
        ),
        (
            replace(MOVIES, width=16, model="large/model"),
            CARD,
            "test: expected activations of width 8, that of the probes that were fitted on facts, got width 16 of "
            "large/model; take the same model and site",
        ),
        (
            MOVIES,
            replace(CARD, targets=of_targets("a", "b", "c")),
            "test: expected one target or 3, as many as the probes that were fitted on facts have, got 2; choose as "
            "many split seeds",
        ),
        (
            replace(MOVIES, targets=of_targets("b", "a")),
            replace(CARD, targets=of_targets("a", "b")),
            "test: expected targets in the order of the probes that were fitted on facts, a; b, got b; a; put them in "
            "that order",
        ),
        (
            replace(MOVIES, targets=of_targets("b", "c")),
            replace(CARD, targets=of_targets("a", "b")),
            "test: expected targets in the order of the probes that were fitted on facts, a; b, got b; c; put them in "
            "that order",
        ),
    ],
)
def test_what_is_missing_is_named_in_one_line(here, fitted, line):
    with pytest.raises(ValueError, match=r"^test: expected") as refused:
        here.require(fitted)
    assert str(refused.value) == line


@pytest.mark.parametrize(
    ("here", "fitted"),
    [
        (["a", "b", "c"], ["a"]),
        (["a"], ["a", "b", "c"]),
        (["b"], ["a", "b", "c"]),
        (["a", "b"], ["a", "b"]),
        (["a", "b"], ["c", "d"]),
    ],
)
def test_targets_that_can_be_paired(here, fitted):
    replace(CARD, targets=of_targets(*here)).require(replace(CARD, targets=of_targets(*fitted)))
