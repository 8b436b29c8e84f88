"""Probes that are fitted and scored beside a baseline: the baseline's log-odds, the fit, the scores, the checkpoint."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.analysis.auroc import auroc
from probes.analysis.baselines import make_baselines
from probes.analysis.offset import make_offset
from probes.grids.logistic import LogisticGrid
from probes.solver.logistic import fit_logistic
from tests.probes.grids.test_grid import Blocks, L, N, T
from tests.support.trainers import quiet_trainer


def make_examples(data: Blocks) -> pd.DataFrame:
    """A table whose log-probabilities tell something of the label; every tenth answer has none."""
    random = np.random.default_rng(0)
    labels = data.labels.numpy()
    logprobs: list[Any] = [[-float(x)] for x in random.exponential(2 - labels)]
    logprobs[::10] = [None] * len(logprobs[::10])
    split = np.array([next(name for name, rows in data.rows.items() if i in rows) for i in range(N)])
    return pd.DataFrame({
        "group": range(N), "question": ["Which?"] * N, "answer": random.choice(["yes", "no", "both"], N),
        "logprobs": logprobs, "label": labels, "split": split,
    })  # fmt: skip


@pytest.fixture(scope="module")
def examples():
    return make_examples(Blocks())


@pytest.fixture
def data(tmp_path, examples):
    data = Blocks()
    data.folder = tmp_path  # type: ignore[attr-defined]
    examples.to_parquet(tmp_path / "examples.parquet")
    return data


def fit(tmp_path, data, **settings):
    trainer = quiet_trainer(tmp_path)
    grid = LogisticGrid(**settings)
    trainer.fit(grid, data)
    trainer.test(grid, data, verbose=False)
    return trainer, grid


def test_a_score_becomes_log_odds_by_a_regression_on_train_rows(examples):
    name, offset = make_offset(examples, "logprob sum, answer")
    score = make_baselines(examples).scores[name]
    train, there = (examples["split"] == "train").to_numpy(), score.isfinite().numpy()
    filled = np.where(there, score, score[train & there].mean())
    numbers = np.column_stack((filled, ~there))
    scale = numbers[train].std(0)
    oracle = LogisticRegression(tol=1e-8).fit(numbers[train] / scale, examples["label"][train])
    np.testing.assert_allclose(offset[~train], oracle.decision_function(numbers[~train] / scale), rtol=2e-3, atol=5e-3)
    assert offset.isfinite().all()
    # Train rows have theirs from fits to other groups: near the fit to all of them, and not equal to it.
    off = np.abs(offset.numpy()[train] - oracle.decision_function(numbers[train] / scale))
    assert 0.01 < off.max() < 1.5


def test_a_fitted_baseline_is_taken_as_it_is(examples):
    name, offset = make_offset(examples, "rate of the said answer")
    torch.testing.assert_close(offset, make_baselines(examples).scores[name])


def test_the_best_is_that_of_the_highest_auc_on_validation_rows(examples):
    name, _ = make_offset(examples)
    made, val = make_baselines(examples), torch.from_numpy((examples["split"] == "val").to_numpy(copy=True))
    areas = {
        one: float(auroc(score[val], made.labels[val], score[val].isfinite()))
        for one, score in made.scores.items()
        if score[val].isfinite().float().mean() >= 0.9
    }
    assert name == max(areas, key=lambda one: areas[one])
    assert len(areas) > 3


@pytest.mark.parametrize("name", ["best", "logprob sum, answer"])
def test_probe_and_baseline_are_scored_together(name, data, examples, tmp_path):
    trainer, grid = fit(tmp_path, data, l2=3.0, offset=name)
    taken, offset = make_offset(examples, name)
    assert grid.fitted["offset"] == taken
    assert grid.described.endswith(f", beside {taken}")
    [test_map] = grid.maps["test"]
    for cell in range(L * T - 1):
        train, test = (data.rows[split] for split in ("train", "test"))
        expected = fit_logistic(
            data.acts[cell : cell + 1, train], data.labels[train], data.valid[cell : cell + 1, train], l2=3.0,
            standardize=True, offset=offset[train],
        )  # fmt: skip
        at = divmod(cell, T)
        torch.testing.assert_close(grid.weight[0][at].detach(), expected.weight[0], rtol=1e-5, atol=1e-6)
        scores = data.acts[cell, test].double() @ expected.weight[0].double() + expected.bias[0] + offset[test]
        expected_auc = auroc(scores, data.labels[test], data.valid[cell, test])
        assert test_map.auc[at].item() == pytest.approx(float(expected_auc), abs=1e-4)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = LogisticGrid.load_from_checkpoint(tmp_path / "one.ckpt")
    quiet_trainer(tmp_path).test(again, data, verbose=False)
    torch.testing.assert_close(again.maps["test"][0].auc, test_map.auc, equal_nan=True)


def test_a_penalty_is_chosen_with_the_offset(data, tmp_path):
    _, grid = fit(tmp_path, data, l2=[0.01, 1000.0], offset="logprob sum, answer")
    by_hand = {l2: fit(tmp_path, data, l2=l2, offset="logprob sum, answer")[1].maps["val"][0] for l2 in (0.01, 1000.0)}
    torch.testing.assert_close(grid.maps["val"][0].auc, by_hand[grid.fitted["l2"]].auc, equal_nan=True)


def test_what_cannot_be_an_offset_is_one_line(data, examples, tmp_path):
    with pytest.raises(ValueError, match="expected best or a baseline of this run, logprob mean, answer; "):
        fit(tmp_path, data, offset="luck")
    with pytest.raises(ValueError, match="expected a baseline, got none: no log-probabilities"):
        make_offset(examples[["group", "label", "split"]])
    data.folder = None
    with pytest.raises(ValueError, match=r"expected examples.parquet in the folder of the datamodule, got none"):
        fit(tmp_path, data, offset="best")
    with pytest.raises(ValueError, match="expected the name of a baseline, best, or null; got 3"):
        LogisticGrid(offset=3)  # type: ignore[arg-type]
