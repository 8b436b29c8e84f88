"""Names of jobs: unique, short, and taken by shells, Hydra and file systems as they are."""

import re
import shlex

import pytest

from probes.jobs.sweep.naming import (
    MOST_OF_NAME,
    check_names,
    find_swept,
    label_job,
    name_folder,
    parse,
    quote,
    read_values,
)

VALUES = [
    "1", "-1", "1e-05", "0.5", "mlp_out", "[0,4]", "[0,1,4]", "null", "true", "a b", "a/b", "a:b", "é", "e", "北京",
    "a'b", "{a:1}", "../x", "~/x.csv", "/data/one.csv", "/data/two.csv", "a,b", "x" * 300, "x" * 301, ".", "..", "",
]  # fmt: skip


def test_names_of_folders_differ_and_are_safe():
    names = [name_folder({"dataset.path": value}) for value in VALUES]
    assert len({name.lower() for name in names}) == len(VALUES)
    for name in names:
        assert re.fullmatch(r"path-[\w.+-]*", name, re.ASCII)
        assert len(name) <= MOST_OF_NAME
        assert shlex.quote(name) == name
        assert read_values([f"run=multirun/latest/{name}"]) == {"run": f"multirun/latest/{name}"}


def test_a_name_says_what_differs_in_the_order_of_the_command_line():
    differing = {"probe.l2": "10", "site": "mlp_out"}
    assert name_folder(differing) == "l2-10+site-mlp_out"
    assert label_job(differing) == "l2=10 site=mlp_out"
    assert name_folder({"model.name": "a", "dataset.name": "b"}) == "model.name-a+dataset.name-b"
    assert len(name_folder({f"group.key{i}": "v" * 30 for i in range(9)})) == MOST_OF_NAME
    long = [name_folder({**{f"group.key{i}": "v" * 30 for i in range(9)}, "seed": end}) for end in "01"]
    assert long[0] != long[1]


def test_what_is_swept_is_found():
    given = ["site=z,mlp_out", "seed=range(0,3)", "+probe.x=choice(a,b)", "split.val=0.1", "a.b='x,y'", "c=[1,2]"]
    assert find_swept(given) == {"site": ["z", "mlp_out"], "seed": ["0", "1", "2"], "probe.x": ["a", "b"]}
    params = {"probe.l2": "tag(log, interval(1, 10))", "site": "z,mlp_out"}
    assert find_swept(["site=z"], params) == {"probe.l2": None}


@pytest.mark.parametrize("values", [["1", "1"], ["a", "A"]])
def test_values_that_would_share_a_folder_are_refused(values):
    with pytest.raises(ValueError, match=rf"^seed: expected values that differ, got {values[0]} and {values[1]}; "):
        check_names({"seed": values})
    check_names({"seed": ["0", "1"], "probe.l2": None})


@pytest.mark.parametrize("text", ["plain", "it's", r"a\b", "ends\\", r"\'", "a=b, [c] {d}", "é#"])
def test_quoted_texts_come_back(text):
    (one,) = parse([f"key={quote(text)}"])
    assert one.value() == text
