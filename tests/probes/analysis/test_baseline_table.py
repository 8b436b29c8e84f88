"""The table of baselines: same rows, clustered errors, the best chosen without test rows, paired differences."""

from dataclasses import replace

import pytest
import torch

from probes.analysis.auroc import auroc_with_variance
from probes.analysis.baseline_table import tabulate_baselines
from probes.analysis.baselines import Baselines
from probes.analysis.clusters import measure_areas
from probes.analysis.scores import Scores
from tests.support.cards import make_card

N, L, T = 400, 2, 3
CELL = (1, 2)


def make_world(seed=0, n_val=120):
    """Scores of a record whose first rows are train rows, and four baselines of known quality."""
    random = torch.Generator().manual_seed(seed)
    labels = (torch.rand(N, generator=random) < 0.5).to(torch.uint8)
    noise = torch.randn(5, N, generator=random, dtype=torch.float64)
    groups = torch.arange(N) // 4
    shared = torch.randn(N // 4, generator=random, dtype=torch.float64)[groups]
    part = torch.zeros(N, dtype=torch.uint8)
    part[100 : 100 + n_val], part[220:] = 1, 2
    examples = part.nonzero()[:, 0]
    scores = (1.5 * labels + noise[0] + shared)[examples].expand(1, L, T, -1).float().clone()
    scores[0, 1, 2, ::5] = torch.nan
    record = Scores(scores, examples, part[None, examples], labels[None, examples], groups[examples], make_card())
    baselines = {
        "good": 2.0 * labels + noise[1],
        "fair": 1.0 * labels + noise[2],
        "misleading": torch.where(part == 2, 9.0 * labels, noise[3]),
        "seldom": torch.where(torch.arange(N) % 2 == 0, 9.0 * labels + noise[4], torch.nan),
    }
    return record, Baselines(baselines, (), {"fair": "a note"}, ("a reason",), labels, part == 0)


def test_every_number_on_the_rows_of_the_cell():
    record, baselines = make_world()
    table = tabulate_baselines(baselines, record, CELL)
    rows = record.examples[(record.part[0] == 2) & ~record.scores[0, 1, 2].isnan()]
    assert [row.name for row in table.rows] == list(baselines.scores)
    for row in table.rows:
        score = baselines.scores[row.name][rows]
        there = ~score.isnan()
        auc, variance = auroc_with_variance(score[there], baselines.labels[rows][there], None, rows[there] // 4)
        assert row.auc == pytest.approx(float(auc), abs=1e-12)
        assert row.error == pytest.approx(float(variance) ** 0.5, abs=1e-12)
        assert (row.n, row.n_positive) == (int(there.sum()), int(baselines.labels[rows][there].sum()))
    assert {row.name: row.n for row in table.rows} == {"good": 144, "fair": 144, "misleading": 144, "seldom": 72}
    assert [row.note for row in table.rows] == ["", "a note", "", ""]
    assert (table.probe.name, table.probe.n, table.missing) == ("c, layer 4", 144, ("a reason",))
    assert table.probe.error == pytest.approx(float(record.maps("test")[0].auc_se[1, 2]), abs=1e-12)
    plain = tabulate_baselines(baselines, replace(record, groups=torch.arange(300)), CELL)
    assert abs(plain.probe.error - table.probe.error) > 1e-3


def test_the_best_is_chosen_on_validation_rows_among_those_that_cover_them():
    """`misleading` is perfect on test rows and `seldom` on half of all rows; neither is chosen."""
    record, baselines = make_world()
    table = tabulate_baselines(baselines, record, CELL)
    assert (table.best, table.chosen_on) == ("good", "val")
    assert max(row.auc for row in table.rows) == table.rows[2].auc == 1
    assert table.rows[3].auc_chosen > table.rows[0].auc_chosen
    assert [row.n_chosen for row in table.rows] == [96, 96, 96, 48]


@pytest.mark.parametrize("number", [1, 2])
def test_a_baseline_that_half_the_rows_of_a_split_lack_is_not_chosen(number):
    record, baselines = make_world()
    part = torch.zeros(N, dtype=torch.uint8).index_copy(0, record.examples, record.part[0])
    gaps = (part == number) & (torch.arange(N) % 2 == 0)
    perfect = (9.0 * baselines.labels).double().masked_fill(gaps, torch.nan)
    table = tabulate_baselines(replace(baselines, scores=baselines.scores | {"perfect": perfect}), record, CELL)
    assert table.rows[-1].auc_chosen == 1
    assert table.best == "good"


@pytest.mark.parametrize("n_val", [0, 1])
def test_without_validation_rows_of_both_classes_train_rows_choose(n_val):
    record, baselines = make_world(n_val=n_val)
    table = tabulate_baselines(baselines, record, CELL)
    assert (table.best, table.chosen_on) == ("good", "train")
    assert [row.n_chosen for row in table.rows] == [220 - n_val, 220 - n_val, 220 - n_val, 110 - (n_val + 1) // 2]
    assert table.probe.auc_chosen != table.probe.auc_chosen


def test_what_the_probe_adds_is_paired_on_rows_that_both_score():
    record, baselines = make_world()
    good = baselines.scores["good"].clone()
    good[399] = torch.nan
    table = tabulate_baselines(replace(baselines, scores=baselines.scores | {"good": good}), record, CELL)
    rows = (record.part[0] == 2) & ~record.scores[0, 1, 2].isnan() & ~good[record.examples].isnan()
    probe, best = (
        measure_areas(score[rows], record.labels[0, rows], None, record.groups[rows])
        for score in (record.scores[0, 1, 2], good[record.examples])
    )
    assert table.gain is not None
    assert table.n_gain == 143
    assert float(table.gain.difference) == pytest.approx(float(probe.auc - best.auc), abs=1e-12)
    paired = (probe.influence - best.influence).square().sum().sqrt()
    assert float(table.gain.error) == pytest.approx(float(paired), abs=1e-12)


def test_the_difference_in_a_sentence():
    record, baselines = make_world()
    table = tabulate_baselines(baselines, record, CELL)
    assert table.gain is not None
    assert float(table.gain.difference) < 0
    auc, error = (f"{x:.3f}"[1:] for x in (table.rows[0].auc, table.rows[0].error))
    far, off = (f"{abs(float(x)):.3f}"[1:] for x in (table.gain.difference, table.gain.error))
    assert table.describe().startswith(
        f"Best baseline, chosen on val: good, AUC {auc} ± {error}; the probe (c, layer 4) is {far} ± {off} below it (p "
    )
    assert table.describe().endswith(", 144 test rows).")


def test_without_a_baseline_there_is_nothing_to_hold_against():
    record, baselines = make_world()
    table = tabulate_baselines(replace(baselines, scores={}), record, CELL)
    assert (table.rows, table.best, table.gain, table.n_gain) == ((), None, None, 0)
    assert table.describe() == "No baseline can be held against the probe."


def test_examples_of_another_run_are_refused():
    record, baselines = make_world()
    with pytest.raises(ValueError, match=r"expected at least 400 rows in examples\.parquet, got 399; take the file"):
        tabulate_baselines(replace(baselines, labels=baselines.labels[:-1]), record, CELL)
