"""The record of scores, against the maps and against activations scored by hand."""

import json

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from probes.analysis.auroc import auroc_variance
from probes.analysis.scores import load_scores
from probes.grids.logistic import LogisticGrid
from probes.grids.minibatch import LinearGrid
from probes.report.heatmap import Heatmap
from probes.report.record import ScoreRecord
from tests.support.named_cells import NamedCells
from tests.support.trainers import quiet_trainer

pytestmark = pytest.mark.usefixtures("_without_pictures")


def run(folder, grid, data, max_bytes=1e9, **settings):
    trainer = quiet_trainer(folder, callbacks=[Heatmap(folder), ScoreRecord(folder, max_bytes)], **settings)
    trainer.fit(grid, data)
    trainer.test(grid, data, verbose=False)
    return grid


def test_the_file_is_as_documented(tmp_path):
    data = NamedCells()
    grid = run(tmp_path, LogisticGrid(), data)
    with safe_open(tmp_path / "scores.safetensors", "pt") as file:
        assert set(file.keys()) == {"scores", "examples", "part", "labels", "groups"}
        assert "card" in file.metadata()
    scores = load_scores(tmp_path)
    out = data.held("val") | data.held("test")
    rows = out.any(0).nonzero()[:, 0]
    assert torch.equal(scores.examples, rows)
    assert scores.scores.shape == (3, 2, 3, len(rows))
    assert (scores.scores.dtype, scores.part.dtype, scores.labels.dtype) == (torch.float32, torch.uint8, torch.uint8)
    assert torch.equal(scores.part, (data.held("val") + 2 * data.held("test"))[:, rows].to(torch.uint8))
    assert torch.equal(scores.labels[scores.part > 0], data.labels[:, rows].to(torch.uint8)[scores.part > 0])
    assert scores.card == grid.tested
    by_hand = torch.einsum("cnd,kcd->kcn", data.acts[:, rows].double(), grid.weight.detach().flatten(1, 2).double())
    by_hand += grid.bias.detach().flatten(1, 2)[..., None]
    held = (scores.part > 0)[:, None].expand_as(by_hand)
    torch.testing.assert_close(scores.scores.flatten(1, 2)[held].double(), by_hand[held], rtol=1e-6, atol=1e-6)
    assert scores.scores.flatten(1, 2)[~held].isnan().all()


@pytest.mark.parametrize("make", [LogisticGrid, lambda: LinearGrid(optimizer=torch.optim.Adam)])
def test_the_heatmap_follows_from_the_record(make, tmp_path):
    """Several epochs for the second: its validation scores are those of the best."""
    data = NamedCells(per_block=6)
    run(tmp_path, make(), data, max_epochs=1 if make is LogisticGrid else 6)
    scores = load_scores(tmp_path)
    rows = pd.read_csv(tmp_path / "heatmap.csv").to_dict("records")
    assert len(rows) == 2 * 3 * 2 * 3
    for row in rows:
        k = [target.name for target in scores.card.targets].index(row["target"])
        values, labels, *_ = scores.of(row["split"], k)
        at = scores.card.layers.index(row["layer"]), scores.card.positions.index(row["position"])
        assert row["auc"] == pytest.approx(roc_auc_score(labels, values[at]), abs=1e-8)
        assert row["n"] == len(labels)
        again = scores.maps(row["split"])[k]
        assert row["auc"] == pytest.approx(float(again.auc[at]), abs=1e-8)
        assert row["auc_se"] == pytest.approx(float(again.auc_se[at]), abs=1e-8)
        assert row["n_positive"] == again.n_positive[at]


def test_groups_are_recorded_and_make_the_errors(tmp_path):
    """Those of the maps as well as those of the record; of a target the groups of its own rows alone."""
    data = NamedCells(groups=torch.arange(400) // 8)
    grid = run(tmp_path, LogisticGrid(), data)
    scores = load_scores(tmp_path)
    assert scores.groups.dtype == torch.int64
    assert torch.equal(scores.groups, scores.examples // 8)
    for k in range(3):
        rows = scores.of("test", k)
        assert torch.equal(rows.groups, rows.examples // 8)
        expected = auroc_variance(rows.scores, rows.labels, groups=rows.groups).sqrt()
        for one in (grid.maps["test"][k], scores.maps("test")[k]):
            torch.testing.assert_close(one.auc_se, expected, rtol=1e-12, atol=0)
        assert not torch.allclose(expected, auroc_variance(rows.scores, rows.labels).sqrt(), rtol=0.02)


def test_in_a_record_without_groups_each_example_is_its_own(tmp_path):
    """Files of earlier versions."""
    run(tmp_path, LogisticGrid(), NamedCells())
    scores = load_scores(tmp_path)
    tensors = load_file(tmp_path / "scores.safetensors")
    del tensors["groups"]
    save_file(tensors, tmp_path / "scores.safetensors", {"card": json.dumps(scores.card.to_json())})
    again = load_scores(tmp_path)
    assert len(again.groups.unique()) == len(again.examples)
    torch.testing.assert_close(again.maps("test")[1].auc_se, scores.maps("test")[1].auc_se, rtol=1e-12, atol=0)


def test_too_many_scores_are_left_out_and_the_run_says_so(tmp_path, caplog):
    data = NamedCells()
    sizes = [4 * 3 * 6 * int(data.held(split).any(0).sum()) for split in ("val", "test")]
    run(tmp_path / "fits", LogisticGrid(), data, max_bytes=sum(sizes))
    assert (tmp_path / "fits" / "scores.safetensors").exists()
    run(tmp_path / "more", LogisticGrid(), data, max_bytes=sum(sizes) - 1)
    assert not (tmp_path / "more" / "scores.safetensors").exists()
    assert "more than scores.max_bytes = " in caplog.text
    with pytest.raises(FileNotFoundError, match=r"no such file; run again with a larger scores.max_bytes"):
        load_scores(tmp_path / "more")


def test_max_bytes_is_checked():
    for wrong in (-1, "1GB", None):
        with pytest.raises(ValueError, match=r"^scores.max_bytes: expected a number of bytes of at least 0, got"):
            ScoreRecord("folder", wrong)  # type: ignore[arg-type]


def test_without_validation_rows_only_test_scores_are_kept(tmp_path):
    data = NamedCells()
    data.val_dataloader = lambda: []  # type: ignore[method-assign]
    run(tmp_path, LogisticGrid(), data, limit_val_batches=0)
    assert set(load_scores(tmp_path).part.unique().tolist()) == {0, 2}


def test_a_cell_without_a_probe_has_no_scores(tmp_path):
    data = NamedCells(names=("correctness",))
    data.acts[2] = 1.0  # constant: nothing to fit
    run(tmp_path, LogisticGrid(), data)
    scores = load_scores(tmp_path).scores
    assert scores[0, 0, 2].isnan().all()
    assert not scores[0, 0, 1].isnan().any()


def test_cells_that_were_not_scored_are_nan_in_map_and_record(tmp_path):
    data = NamedCells(per_block=2)
    grid = run(tmp_path, LogisticGrid(), data, limit_val_batches=1, limit_test_batches=1)
    for split in ("val", "test"):
        for one, again in zip(grid.maps[split], load_scores(tmp_path).maps(split), strict=True):
            torch.testing.assert_close(again.auc, one.auc, rtol=0, atol=0, equal_nan=True)
            assert one.auc.isfinite().sum() == 2


def test_the_record_holds_one_data_set(tmp_path):
    """Scores of the validation rows of the first would stand under row numbers of the second."""
    folder = tmp_path / "run"
    trainer = quiet_trainer(tmp_path, callbacks=[Heatmap(folder), ScoreRecord(folder)])
    grid = LogisticGrid()
    trainer.fit(grid, NamedCells())
    trainer.test(grid, NamedCells(dataset="others"), verbose=False)
    scores = load_scores(folder)
    assert scores.card.dataset == "others"
    assert set(scores.part.unique().tolist()) == {0, 2}
    assert set(pd.read_csv(folder / "heatmap.csv").split) == {"test"}


def test_validation_alone_leaves_a_record(tmp_path):
    grid, data = run(tmp_path / "fit", LogisticGrid(), NamedCells()), NamedCells()
    quiet_trainer(tmp_path, callbacks=[ScoreRecord(tmp_path / "val")]).validate(grid, data, verbose=False)
    again = load_scores(tmp_path / "val")
    assert set(again.part.unique().tolist()) == {0, 1}
    torch.testing.assert_close(again.maps("val")[1].auc, grid.maps["val"][1].auc, rtol=0, atol=0)


def test_scores_that_are_left_out_do_not_leave_those_of_an_earlier_run(tmp_path):
    run(tmp_path, LogisticGrid(), NamedCells())
    run(tmp_path, LogisticGrid(), NamedCells(), max_bytes=0)
    assert not (tmp_path / "scores.safetensors").exists()


def test_a_block_without_cells_of_the_probes_adds_nothing(tmp_path):
    folder = tmp_path / "run"
    grid = run(tmp_path, LogisticGrid(), NamedCells(layers=(4,)))
    trainer = quiet_trainer(tmp_path, callbacks=[ScoreRecord(folder)])
    trainer.test(grid, NamedCells(per_block=3), verbose=False)  # layer 0 comes first
    torch.testing.assert_close(load_scores(folder).maps("test")[0].auc, grid.maps["test"][0].auc, rtol=0, atol=0)
    assert grid.maps["test"][0].auc.isfinite().all()


def test_a_cell_without_a_probe_scores_no_example(tmp_path):
    grid = run(tmp_path, LogisticGrid(), NamedCells(per_block=2), limit_train_batches=1)
    for one, again in zip(grid.maps["test"], load_scores(tmp_path).maps("test"), strict=True):
        assert torch.equal(one.n, again.n)
        assert (one.n > 0).sum() == 2


def test_a_score_beyond_float32_counts_as_the_largest(tmp_path):
    """A finite activation may have a score that float32 cannot hold; it is recorded as infinite, and ranks so."""
    grid, data = LogisticGrid(), NamedCells(names=("correctness",))
    quiet_trainer(tmp_path).fit(grid, data)
    with torch.no_grad():
        grid.weight.mul_(1e38)
        grid.bias.zero_()
    trainer = quiet_trainer(tmp_path, callbacks=[ScoreRecord(tmp_path)])
    trainer.test(grid, data, verbose=False)
    (scored,), (recorded,) = grid.maps["test"], load_scores(tmp_path).maps("test")
    assert load_scores(tmp_path).scores.isinf().any()
    assert (scored.n == int(data.held("test").sum())).all()
    assert torch.equal(scored.auc, recorded.auc)
    assert torch.equal(scored.n, recorded.n)
