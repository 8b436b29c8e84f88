"""Comparisons against differences and errors by hand, a bootstrap, and direct DeLong covariances."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from probes.analysis.auroc import auroc
from probes.analysis.differences import subtract_maps
from probes.analysis.matching import Matched, Side, join_groups, match
from probes.analysis.scores import Scores
from probes.report.compare_runs import choose_targets, compare_runs
from probes.report.run_folder import read_record
from tests.support.cards import make_card

N = 400
QUESTIONS = [f"question {i}" for i in range(N)]


def write_run(
    folder: Path,
    seed=0,
    strength=1.0,
    tested: Any = range(N),
    order: Any = None,
    groups=None,
    labels: Any = None,
    **more,
):
    """A run of N examples in an order of its own, of which some are test rows; strength of the signal at a cell."""
    layers, positions = more.pop("layers", (0, 4)), more.pop("positions", ("a", "b", "-1"))
    names, table = more.pop("names", ("correctness",)), more.pop("table", {})
    generator = torch.Generator().manual_seed(seed)
    order = np.arange(N) if order is None else order
    labels = (torch.arange(N) % 2 if labels is None else labels).to(torch.uint8)
    groups = torch.arange(N) if groups is None else groups
    noise = torch.randn(len(names), len(layers), len(positions), N, generator=generator)
    scores = strength * labels * torch.rand(len(layers), len(positions), 1, generator=generator) + noise
    part = torch.ones(len(names), N, dtype=torch.uint8)
    part[:, list(tested)] = 2
    for cell in more.pop("missing", ()):
        scores[:, cell[0], cell[1], cell[2]] = torch.nan
    chosen = torch.from_numpy(order)
    card = make_card(layers, positions, names=names, **more)
    shown = Scores(
        scores[..., chosen],
        torch.arange(N),
        part[:, chosen],
        labels[chosen].expand(len(names), N),
        groups[chosen],
        card,
    )
    folder.mkdir()
    (folder / "scores.safetensors").write_bytes(shown.to_bytes())
    ids = [f"q{i}" for i in order]
    pd.DataFrame(table or {"id": ids, "question": [QUESTIONS[i] for i in order]}).to_parquet(
        folder / "examples.parquet"
    )
    (folder / "summary.json").write_text(json.dumps({"described": "logistic"}))
    return scores, labels, groups


def read(folder: Path, name="difference.csv") -> Any:
    return pd.read_csv(folder / name, dtype={"position": str})


def sum_influences(scores, labels, groups):
    """Placements less the mean of their class, scaled as in `influences`, summed by group: brute force."""
    positive, negative = (np.flatnonzero(labels == value) for value in (1, 0))
    wins = (scores[positive][:, None] > scores[negative]) + 0.5 * (scores[positive][:, None] == scores[negative])
    sums = np.zeros(groups.max() + 1)
    for members, placement in ((positive, wins.mean(1)), (negative, wins.mean(0))):
        for i, value in zip(members, placement - placement.mean(), strict=True):
            n, own = len(members), (groups[members] == groups[i]).sum()
            sums[groups[i]] += value / np.sqrt(n * (n - own))
    return sums


def test_two_runs_are_compared_question_by_question(tmp_path, capsys):
    rng = np.random.default_rng(0)
    tested = sorted(rng.choice(N, 300, replace=False)), sorted(rng.choice(N, 330, replace=False))
    groups = torch.arange(N) // 2, torch.arange(N) // 2 % 180
    other = torch.where(torch.arange(N) % 7 == 0, 1 - torch.arange(N) % 2, torch.arange(N) % 2)
    first = write_run(tmp_path / "A", 1, 2.0, tested[0], rng.permutation(N), groups[0], missing=[(0, 1, slice(50))])
    second = write_run(
        tmp_path / "B", 2, 0.3, tested[1], rng.permutation(N), groups[1], other, layers=(4, 7), positions=("b", "a"),
        missing=[(0, 0, slice(10, 60))], site="attn_out",
    )  # fmt: skip
    compare_runs([tmp_path / "A", tmp_path / "B"], tmp_path / "out", cells=["4:a"], columns=["a", "b"])

    table = read(tmp_path / "out")
    assert list(zip(table.layer, table.position, strict=True)) == [(4, "a"), (4, "b")]
    common = np.intersect1d(*tested)
    joined = groups[1].numpy()  # 180 groups and more hold those of the first
    for row, columns, missing in zip(table.itertuples(), ((0, 1), (1, 0)), ([], range(10, 60)), strict=True):
        rows = np.setdiff1d(common, missing)
        sides = [
            (run[0][0, layer, column].numpy()[rows], run[1].numpy()[rows])
            for run, layer, column in zip((first, second), (1, 0), columns, strict=True)
        ]
        areas = [roc_auc_score(labels, scores) for scores, labels in sides]
        assert (row.auc_a, row.auc_b) == pytest.approx(areas, abs=1e-8)
        assert row.difference == pytest.approx(areas[0] - areas[1], abs=1e-8)
        paired = np.subtract(*(sum_influences(scores, labels, joined[rows]) for scores, labels in sides))
        assert row.error == pytest.approx(np.sqrt((paired**2).sum()), abs=1e-8)
        assert row.n == len(rows)
        assert row.low < row.difference < row.high
        assert row.p <= row.p_holm
    pairs = read(tmp_path / "out", "pairs.csv")
    assert list(pairs["first"]) == ["layer 4, a", "a", "b"]
    assert list(pairs.difference[1:]) == pytest.approx(list(table.difference), abs=1e-8)  # columns of one layer
    said = " ".join(capsys.readouterr().out.split())
    assert "AUC of resid_post less AUC of attn_out: questions" in said
    assert f"{len(common)} of 300 and 330 test questions are in both" in said
    above, below = int((table.low > 0).sum()), int((table.high < 0).sum())
    assert f"resid_post is higher in {above} of 2 cells and attn_out in {below}; the other {2 - above - below}" in said
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert (tmp_path / "out" / f"difference.{kind}").read_bytes().startswith(start)


def test_the_error_is_that_of_a_bootstrap():
    """Of groups; the two share noise, so that the errors of each by itself would be far too large."""
    generator = torch.Generator().manual_seed(0)
    groups, labels = torch.arange(N) // 4, (torch.rand(2, N, generator=generator) < 0.4).long()
    labels[1, 50:] = labels[0, 50:]
    of_group = torch.randn(N // 4, generator=generator)[groups]
    noise = torch.randn(3, N, generator=generator)
    pair = labels + of_group + noise[0] + 0.5 * noise[1:]
    found = subtract_maps(Matched((0,), ("a",), pair[:, None, None], labels, groups, (N, N)))
    rows = (torch.randint(N // 4, (4_000, N // 4, 1), generator=generator) * 4 + torch.arange(4)).flatten(1)
    first, second = (auroc(scores[rows], own[rows]) for scores, own in zip(pair, labels, strict=True))
    error = float(found.cells.error)
    assert float((first - second).std()) / error == pytest.approx(1, abs=0.07)
    assert float(torch.stack([first.std(), second.std()]).norm()) > 1.5 * error


def test_cells_and_columns_of_one_run_on_equal_rows_and_by_holm(tmp_path, capsys):
    scores, labels, _ = write_run(tmp_path / "A", 3, 1.0, missing=[(0, 0, slice(80)), (0, 1, slice(60, 120))])
    compare_runs([tmp_path / "A"], tmp_path / "out", cells=["0:a", "0:b", "4:-1"], columns=["a", -1])
    pairs = read(tmp_path / "out", "pairs.csv")
    cells = {"layer 0, a": scores[0, 0, 0], "layer 0, b": scores[0, 0, 1], "layer 4, -1": scores[0, 1, 2]}
    for row, (one, other) in zip(pairs.itertuples(), combinations(cells, 2), strict=False):
        both = ~(cells[one].isnan() | cells[other].isnan())
        assert (row[1], row[2], row.n) == (one, other, int(both.sum()))
        areas = [roc_auc_score(labels[both], cells[name][both]) for name in (one, other)]
        assert (row.auc_a, row.auc_b) == pytest.approx(areas, abs=1e-8)
    means = [
        np.mean([roc_auc_score(labels[80:], scores[0, layer, column, 80:]) for layer in (0, 1)]) for column in (0, 2)
    ]
    assert list(pairs.iloc[3][["first", "second"]]) == ["a", "-1"]
    assert pairs.difference[3] == pytest.approx(means[0] - means[1], abs=1e-8)
    ranked = pairs.sort_values("p")
    holm = np.minimum(np.maximum.accumulate(ranked.p.to_numpy() * [4, 3, 2, 1]), 1)
    assert list(ranked.p_holm) == pytest.approx(list(holm), abs=1e-8)
    assert not (tmp_path / "out" / "difference.csv").exists()
    assert "p by Holm over 4 comparisons" in capsys.readouterr().out


def test_one_run_is_compared_with_its_control_labels(tmp_path, capsys):
    scores, labels, _ = write_run(tmp_path / "A", 4, 1.0, names=("correctness", "control"), tested=range(40, N))
    compare_runs([tmp_path / "A"], tmp_path / "out")
    row = next(read(tmp_path / "out").itertuples())
    areas = [roc_auc_score(labels[40:], scores[k, 0, 0, 40:]) for k in (0, 1)]
    assert (row.auc_a, row.auc_b) == pytest.approx(areas, abs=1e-8)
    said = " ".join(capsys.readouterr().out.split())
    assert "AUC of correctness less AUC of control: questions" in said
    assert "Best cell, chosen on validation rows" in said


def test_a_run_less_itself_is_zero_and_says_so(tmp_path, capsys):
    write_run(tmp_path / "A", 5)
    compare_runs([tmp_path / "A", tmp_path / "A"], tmp_path / "out")
    table = read(tmp_path / "out")
    assert not table[["difference", "error", "low", "high"]].to_numpy().any()
    assert (table.p == 1).all()
    said = " ".join(capsys.readouterr().out.split())
    assert "Both folders are the same run. - The AUC of both is the same in all 6 cells: every difference is 0." in said


def test_rows_of_files_go_together_by_number(tmp_path):
    rows = {"row": range(N), "group": range(N)}
    scores = write_run(tmp_path / "A", 6, tested=range(300), table=rows)[0]
    other = write_run(tmp_path / "B", 7, tested=range(100, N), table=rows)[0]
    records = [read_record(tmp_path / name) for name in "AB"]
    matched = match(*(Side(record.scores, record.examples, 0) for record in records))
    assert matched.n_tested == (300, 300)
    assert torch.equal(matched.scores, torch.stack([scores[0], other[0]])[..., 100:300])


def test_targets_are_paired_by_name_and_controls_are_none():
    first, second = (
        make_card(names=names) for names in (("a, seed 1", "a, seed 2", "control"), ("control", "b", "a, seed 2"))
    )
    assert choose_targets(first, second) == (1, 2)
    assert choose_targets(make_card(names=("x",)), second) == (0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_joined_groups_are_connected(seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(0, 12, (2, 20), generator=generator)
    linked = (first[:, None] == first) | (second[:, None] == second)
    for _ in range(5):  # paths of length 32
        linked = (linked.long() @ linked.long()) > 0
    joined = join_groups(first, second)
    assert torch.equal(joined[:, None] == joined, linked)


FEW = torch.cat([torch.ones(9), torch.zeros(N - 9)])
MISTAKES = {
    "no scores": ({}, {}, r"expected .*C/examples.parquet, got none", {"runs": "AC"}),
    "nothing to compare": ({}, {}, "got one without control labels; name a second run", {"runs": "A"}),
    "three": ({}, {}, "expected one or two folders of runs", {"runs": "ABA"}),
    "other ids": ({}, {"table": {"id": range(N, 2 * N)}}, "got 400 and 400 and none in both", {}),
    "other questions": ({}, {"table": {"id": [f"q{i}" for i in range(N)], "question": "?"}}, "none in both", {}),
    "a file and questions": ({}, {"table": {"row": range(N)}}, "a run of questions and one of activations", {}),
    "files of other lengths": (
        {"table": {"row": range(N)}}, {"table": {"row": range(N + 1)}}, "got 400 and 401 rows", {},
    ),
    "no test question in common": ({"tested": range(200)}, {"tested": range(200, N)}, "200 and 200 and none", {}),
    "few of a class": ({}, {"labels": FEW}, "got 391 wrong and 9 right", {}),
    "no layer in common": ({}, {"layers": (1, 2)}, "expected a layer that both have, got 0, 4 and 1, 2", {}),
    "no position in common": ({}, {"positions": ("x",)}, "expected a position that both have, got a, b, -1 and x", {}),
    "no cell": (
        {"missing": [(slice(None), slice(None), slice(200))]},
        {"missing": [(slice(None), slice(None), slice(205, N))]},
        "expected a cell with 10 common test questions of each class, got at most 2",
        {},
    ),
    "no such layer": ({}, {}, "one of the layers 0, 4 and of the positions a, b, -1; got 9:a", {"cells": ["9:a"]}),
    "no such cell": ({}, {}, "expected LAYER:POSITION .*; got a", {"cells": ["a"]}),
    "no such column": ({}, {}, "columns: expected the positions a, b, -1; got c", {"columns": ["a", "c"]}),
    "no list": ({}, {}, r"columns: expected a list, got a; put it in brackets, as in columns=\[a\]", {"columns": "a"}),
    "one cell of one run": ({}, {}, "or more of a kind in one run, got layer 0, a", {"runs": "A", "cells": ["0:a"]}),
    "cells without common rows": (
        {"missing": [(0, 0, slice(200)), (0, 1, slice(200, N))]}, {},
        "10 examples of each class with layer 0, a and layer 0, b, got 0", {"runs": "A", "cells": ["0:a", "0:b"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case, tmp_path):
    first, second, message, asked = MISTAKES[case]
    write_run(tmp_path / "A", **first)
    write_run(tmp_path / "B", **second)
    (tmp_path / "C").mkdir()
    given = {"runs": "AB"} | asked
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        compare_runs(folder=tmp_path / "out", **given | {"runs": [tmp_path / name for name in given["runs"]]})
    assert "\n" not in str(caught.value)


def test_a_run_without_test_scores_is_refused(tmp_path):
    write_run(tmp_path / "A", tested=())
    with pytest.raises(ValueError, match=r"runs: expected test scores in .*A, got none"):
        compare_runs([tmp_path / "A"], tmp_path / "out")


def test_examples_that_are_twice_in_a_table_pair_off(tmp_path):
    scores = write_run(tmp_path / "A", 8, table={"id": ["q"] * N})[0][0]
    record = read_record(tmp_path / "A")
    matched = match(*[Side(record.scores, record.examples, 0)] * 2)
    assert torch.equal(matched.scores, torch.stack([scores, scores]))
