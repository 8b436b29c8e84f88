"""The analysis of a record, against its parts called one by one and against planted signals."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from probes.analysis.analysis import MOST_TARGETS, analyse, find_control, measure_spread
from probes.analysis.auroc import auroc
from probes.analysis.chance import null_of_best
from probes.analysis.clusters import measure_areas
from probes.analysis.scores import PARTS, Scores
from probes.report.findings import describe_best
from tests.support.cards import make_card

N, VAL = 300, 100
LAYERS, POSITIONS = (0, 4), ("first", "last", "rare")


def make_scores(names=("correctness",), signal=1.5, has_val=True) -> Scores:
    """A record of 200 test rows and, unless told otherwise, 100 validation rows; `last` in layer 4 holds the signal."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (len(names), N), generator=generator)
    scores = torch.randn(len(names), 2, 3, N, generator=generator)
    scores[0, 1, 1] += signal * labels[0]
    scores[:, :, 2, 12:] = torch.nan  # a position that hardly any example has
    part = torch.full((len(names), N), PARTS["test"], dtype=torch.uint8)
    part[:, :VAL] = PARTS["val"] if has_val else 0
    card = make_card(LAYERS, POSITIONS, names=names)
    return Scores(scores, torch.arange(N), part, labels.to(torch.uint8), torch.arange(N), card)


def make_examples(scores: Scores) -> pd.DataFrame:
    """The table of a run, with train rows behind; the sum of log-probabilities tells the label a little."""
    labels = torch.cat([scores.labels[0].long(), torch.arange(200) % 2])
    generator = torch.Generator().manual_seed(1)
    confidence = -3 + 0.5 * labels + torch.randn(len(labels), generator=generator)
    return pd.DataFrame(
        {
            "question": [f"which {n % 7}" for n in range(len(labels))],
            "answer": [f"it is {n % 5}" for n in range(len(labels))],
            "answer_ids": [[1, 2]] * len(labels),
            "logprobs": [[value / 2, value / 2] for value in confidence.tolist()],
            "group": [str(n) for n in range(len(labels))],
            "label": labels.tolist(),
            "split": ["val"] * VAL + ["test"] * (N - VAL) + ["train"] * 200,
        }
    )


def strict(content):
    return json.loads(json.dumps(content, allow_nan=False))


def test_the_parts_are_those_of_the_functions_called_one_by_one():
    scores = make_scores()
    [found] = analyse(scores)
    assert found.choice is not None
    assert found.choice.cell == (1, 1)
    rows = scores.of("test")
    assert found.test.auc[1, 1] == auroc(rows.scores[1, 1], rows.labels)
    valid = ~rows.scores.isnan()
    valid[:, 2] = False  # too few examples to be read
    chance = null_of_best(rows.scores, rows.labels, valid)
    assert found.chance is not None
    assert (found.chance.q95, found.chance.mean) == (chance.q95, chance.mean)
    assert found.chance.p_family[1, 1] < 0.01 < found.chance.p_family[0, 0]
    assert found.chance.p_family[:, 2].isnan().all()
    assert found.limits is not None
    assert found.limits.near_best is not None
    assert found.limits.near_best.tolist() == [[False, False, False], [False, True, False]]
    assert found.limits.lower[1, 1] < found.test.auc[1, 1] < found.limits.upper[1, 1]
    own = measure_areas(rows.scores[:, :2], rows.labels).influence
    centred = own - own.mean((0, 1))
    assert found.spread == pytest.approx(float(centred.square().sum(-1).sqrt().median()))
    assert found.baselines is None
    assert any("no table of examples" in line for line in found.left_out)


def test_what_summary_json_holds_is_json_and_what_the_table_holds_is_of_every_cell():
    scores = make_scores()
    [found] = analyse(scores, make_examples(scores))
    content = strict(found.to_json())
    best = content["best"]
    assert (best["layer"], best["position"], best["chosen_on"], best["n"]) == (4, "last", "val", 200)
    assert best["auc"] == float(found.test.auc[1, 1])
    assert best["auc_low"] < best["auc"] < best["auc_high"]
    assert content["band"]["n_near_best"] == 1
    assert content["chance"]["scheme"] == "permuted labels"
    assert content["chance"]["n_above"] == 1
    names = [row["name"] for row in content["baselines"]["rows"]]
    assert {"logprob sum, answer", "TF-IDF, question"} <= set(names)
    gain = content["baselines"]["gain_of_probe"]
    row = next(row for row in content["baselines"]["rows"] if row["name"] == content["baselines"]["best"])
    assert gain["difference"] == pytest.approx(best["auc"] - row["auc"])
    assert content["beyond_baseline"]["baseline"] == content["baselines"]["best"]
    columns = found.columns()
    assert set(columns) == {
        "auc_low", "auc_high", "near_best", "p_family", "auc_with_baseline", "gain_over_baseline",
    }  # fmt: skip
    assert {tuple(values.shape) for values in columns.values()} == {(2, 3)}


def test_without_validation_rows_the_best_cell_is_said_to_be_too_high_and_is_not_tested():
    scores = make_scores(has_val=False)
    [found] = analyse(scores, make_examples(scores))
    assert found.baselines is not None
    assert found.baselines.rows
    assert found.baselines.gain is None  # the rows that chose the cell would judge it
    assert found.beyond is None
    assert found.choice is not None
    assert found.choice.on == "test"
    assert found.limits is not None
    assert found.limits.near_best is None
    assert found.to_json()["best"]["val_auc"] is None
    assert "too high" in found.left_out[0]


def test_a_map_without_a_readable_cell_is_said_to_be_one():
    scores = make_scores()
    scores.labels[:] = 0
    [found] = analyse(scores, make_examples(scores))
    assert found.choice is None
    assert found.columns() == {}
    assert strict(found.to_json())["left_out"] == ["none of the 6 cells can be read, so nothing is compared"]


def test_a_target_is_held_against_its_control():
    scores = make_scores(names=("correctness", "control"))
    assert [find_control(scores.card, k) for k in (0, 1)] == [1, None]
    [found] = analyse(scores)
    assert found.selectivity is not None
    maps = scores.maps("test")
    difference = found.selectivity.difference[:, :2]
    torch.testing.assert_close(difference, (maps[0].auc - maps[1].auc)[:, :2])
    at_best = strict(found.to_json())["selectivity"]["best_cell"]
    assert at_best["difference"] == pytest.approx(float(maps[0].auc[1, 1] - maps[1].auc[1, 1]))
    assert "selectivity" in found.columns()
    assert analyse(make_scores(names=("correctness", "other")))[0].selectivity is None


def test_of_many_targets_the_first_are_analysed():
    scores = make_scores(names=tuple(f"set {k}" for k in range(MOST_TARGETS + 2)))
    assert [found.test.target for found in analyse(scores)] == [f"set {k}" for k in range(MOST_TARGETS)]


def test_the_spread_of_cells_without_an_error_is_not_known():
    areas = measure_areas(torch.full((2, 4), math.nan), torch.tensor([0, 0, 1, 1]))
    assert measure_spread(areas) is None


@pytest.mark.parametrize("change", [lambda table: table[::-1].reset_index(drop=True), lambda table: table[:-250]])
def test_a_table_of_other_examples_gives_no_baselines(change):
    scores = make_scores()
    [found] = analyse(scores, change(make_examples(scores)))
    assert found.baselines is None
    assert "of other data" in found.left_out[0]
    assert analyse(scores, make_examples(scores))[0].baselines is not None


def test_a_class_in_one_group_has_no_error_and_none_is_printed():
    scores = make_scores()
    [found] = analyse(replace(scores, groups=torch.arange(N).where(scores.labels[0] == 0, 0)))
    assert "without an error" in describe_best(found)
    assert "nan" not in describe_best(found)
