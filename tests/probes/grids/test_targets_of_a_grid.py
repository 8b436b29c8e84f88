"""Several targets in one fit, and probes that are tested on other data than they were fitted on."""

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from probes.grids.logistic import LogisticGrid
from probes.grids.mass_mean import MassMeanGrid
from probes.grids.minibatch import LinearGrid
from tests.support.named_cells import LAYERS, POSITIONS, SEEDS, D, N, NamedCells
from tests.support.streams import Stream
from tests.support.trainers import quiet_trainer


def fit(folder, grid, data, **settings):
    trainer = quiet_trainer(folder, **settings)
    trainer.fit(grid, data)
    trainer.test(grid, data, verbose=False)
    return grid


def one_target(data, k):
    """The same data with target k alone."""
    alone = NamedCells(names=(data.card.targets[k].name,))
    alone.acts, alone.labels, alone.splits = data.acts, data.labels[[k]], data.splits[[k]]
    return alone


def test_every_target_and_cell_against_scikit_learn(tmp_path):
    data = NamedCells()
    grid = fit(tmp_path, LogisticGrid(l2=2.0, standardize=False), data)
    assert grid.weight.shape == (3, 2, 3, D)
    for k in range(3):
        train, test = data.held("train")[k], data.held("test")[k]
        assert [one.target for one in grid.maps["test"]] == list(SEEDS)
        for cell in range(6):
            at = divmod(cell, 3)
            oracle = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000)
            oracle.fit(data.acts[cell, train].double().numpy(), data.labels[k, train].numpy())
            torch.testing.assert_close(
                grid.weight[k][at].detach().double(), torch.tensor(oracle.coef_[0]), rtol=0, atol=1e-4
            )
            scores = oracle.decision_function(data.acts[cell, test].double().numpy())
            expected = roc_auc_score(data.labels[k, test], scores)
            assert float(grid.maps["test"][k].auc[at]) == pytest.approx(expected, abs=1e-4)
            assert grid.maps["test"][k].n[at] == test.sum()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogisticGrid(),
        lambda: LogisticGrid(l2=3.0, standardize=False),
        lambda: LogisticGrid(l2=3.0),
        lambda: LogisticGrid(l2=[1.0, 100.0]),
        lambda: MassMeanGrid(whiten=True),
    ],
)
def test_targets_together_are_what_each_is_alone(make, tmp_path):
    data = NamedCells()
    together = fit(tmp_path, make(), data)
    for k in range(3):
        alone = fit(tmp_path, make(), one_target(data, k))
        torch.testing.assert_close(together.weight[k], alone.weight[0], rtol=0, atol=1e-6)
        for split in ("val", "test"):
            torch.testing.assert_close(together.maps[split][k].auc, alone.maps[split][0].auc, rtol=0, atol=1e-9)


def test_mini_batches_learn_every_target(tmp_path):
    data = NamedCells(per_block=6)
    grid = LinearGrid(l2=2.0, optimizer=lambda parameters: torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe"))
    fit(tmp_path, grid, data, max_epochs=30, limit_val_batches=0)
    exact = fit(tmp_path, LogisticGrid(l2=2.0, standardize=False), data)
    for name, tensor in grid.tensors().items():
        torch.testing.assert_close(tensor, exact.tensors()[name], rtol=0, atol=2e-3)
    assert grid.tensors()["weight"].shape == (3, 2, 3, D)


def test_the_summary_metric_is_the_mean_over_splits(tmp_path):
    data = NamedCells(names=SEEDS[:2])
    trainer, grid = quiet_trainer(tmp_path), LogisticGrid()
    trainer.fit(grid, data)
    trainer.test(grid, data, verbose=False)
    pairs = list(zip(grid.maps["val"], grid.maps["test"], strict=True))
    chosen = [test.auc.flatten()[val.auc.argmax()] for val, test in pairs]  # each by its own validation rows
    assert trainer.callback_metrics["test/auc_best"] == pytest.approx(float(torch.stack(chosen).mean()), abs=1e-6)
    means = torch.stack([test.auc.mean() for _, test in pairs])
    assert trainer.callback_metrics["test/auc_mean"] == pytest.approx(float(means.mean()), abs=1e-6)


def test_probes_find_their_rows_and_columns_by_name(tmp_path):
    grid = fit(tmp_path, LogisticGrid(), NamedCells(names=SEEDS[:1]))
    before = grid.maps["test"][0]
    other = NamedCells((4, 2, 0), ("c", "z", "a", "b"), SEEDS[:1], dataset="others", counts={"test": (133, 66)})
    quiet_trainer(tmp_path).test(grid, other, verbose=False)
    [after] = grid.maps["test"]
    assert (after.layers, after.positions) == (LAYERS, POSITIONS)
    torch.testing.assert_close(after.auc, before.auc, rtol=0, atol=0)
    assert after.auc.std() > 0.05  # swapped columns would show
    assert grid.tested.dataset == "others"
    assert grid.tested.targets[0].counts["test"].n == 133
    assert grid.card is not None
    assert grid.card.dataset == "questions"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (0, 5)}, r"^test: expected every layer of the probes .* got others without layer 4; read it there"),
        ({"positions": ("a", "c")}, r"^test: expected every position of .* got others without position b; read it"),
    ],
)
def test_a_grid_that_lacks_a_row_or_a_column_is_refused(changes, message, tmp_path):
    grid = fit(tmp_path, LogisticGrid(), NamedCells(names=SEEDS[:1]))
    with pytest.raises(ValueError, match=message):
        quiet_trainer(tmp_path).test(grid, NamedCells(names=SEEDS[:1], dataset="others", **changes), verbose=False)


def test_another_width_is_refused(tmp_path):
    grid = fit(tmp_path, LogisticGrid(), NamedCells(names=SEEDS[:1]))
    other = NamedCells(names=SEEDS[:1])
    other.card = replace(other.card, width=D + 2)
    with pytest.raises(ValueError, match=r"expected activations of width 6, .*, got width 8 of a model; take the same"):
        quiet_trainer(tmp_path).test(grid, other, verbose=False)


def test_probes_of_several_splits_are_all_tested_on_one_label_set(tmp_path):
    grid = fit(tmp_path, LogisticGrid(), NamedCells(names=SEEDS[:2]))
    other = NamedCells(names=SEEDS[:1])
    quiet_trainer(tmp_path).test(grid, other, verbose=False)
    test = other.held("test")[0]
    for k, found in enumerate(grid.maps["test"]):
        scores = other.acts[:, test] @ grid.weight[k].detach().flatten(0, 1)[..., None]
        expected = [roc_auc_score(other.labels[0, test], one[:, 0]) for one in scores]
        assert found.auc.flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_cells_that_are_left_out_have_no_probe_and_are_counted(tmp_path, capsys):
    grid = fit(tmp_path, LogisticGrid(), NamedCells(names=SEEDS[:1]), limit_train_batches=1)
    assert grid.weight[0, 1, 1:].isnan().all()
    assert grid.maps["val"][0].auc[1, 1:].isnan().all()
    assert grid.maps["test"][0].auc[1, 1:].isnan().all()
    assert grid.weight.isnan().sum() == 2 * D
    expected = "fit: 4 of 6 cells are fitted; trainer.limit_train_batches=1 leaves out the others"
    assert expected in capsys.readouterr().out


def test_a_cell_that_comes_twice_or_never_ends_the_run(tmp_path):
    data = NamedCells(names=SEEDS[:1])
    first, second = data.blocks("train")
    data.train_dataloader = lambda: Stream([first, second, first])
    with pytest.raises(
        ValueError, match=r"expected every cell once, got layer 0, position a; .* and 1 more solved more"
    ):
        quiet_trainer(tmp_path).fit(LogisticGrid(), data)
    data.train_dataloader = lambda: Stream([first])
    with pytest.raises(ValueError, match="2 of 6 cells were not fitted: layer 4, position b; layer 4, position c; run"):
        quiet_trainer(tmp_path).fit(LogisticGrid(), data)


def test_a_checkpoint_without_targets_is_read(tmp_path):
    data = NamedCells(names=SEEDS[:1])
    grid = fit(tmp_path, LogisticGrid(), data)
    trainer = quiet_trainer(tmp_path)
    trainer.strategy.connect(grid)
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    content = torch.load(tmp_path / "new.ckpt", weights_only=True)
    content["state_dict"] = {name: part[0] for name, part in content["state_dict"].items()}
    rows = {"n": 240, "n_positive": 120}
    old = {"layers": [0, 4], "positions": ["a", "b", "c"], "width": D, "n_valid": [N] * 3, "coincidence": None}
    old |= {"model": "m", "dataset": "d", "site": "z", "target": "correctness"}
    content["card"] = old | {"split": {"seed": 3, "train": rows, "val": rows, "test": rows}}
    torch.save(content, tmp_path / "old.ckpt")
    again = LogisticGrid.load_from_checkpoint(tmp_path / "old.ckpt", weights_only=True)
    assert torch.equal(again.weight, grid.weight.detach())
    assert again.card is not None
    assert (again.card.targets[0].seed, again.card.targets[0].counts["test"].n) == (3, 240)


def test_a_checkpoint_finds_its_rows_by_name(tmp_path):
    """The datamodule is seen before the checkpoint, whose layers have another order."""
    grid, trainer = LogisticGrid(), quiet_trainer(tmp_path)
    trainer.fit(grid, NamedCells())
    trainer.save_checkpoint(tmp_path / "probe.ckpt")
    trainer.test(grid, NamedCells(), verbose=False)
    again, other = LogisticGrid(), NamedCells(layers=LAYERS[::-1])
    quiet_trainer(tmp_path).test(again, other, ckpt_path=tmp_path / "probe.ckpt", verbose=False)
    for k in range(len(SEEDS)):
        torch.testing.assert_close(again.maps["test"][k].auc, grid.maps["test"][k].auc, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"^fit: expected the layers, positions and number of targets"):
        quiet_trainer(tmp_path).fit(LogisticGrid(), other, ckpt_path=tmp_path / "probe.ckpt")


def test_one_probe_is_tested_on_several_label_sets(tmp_path):
    grid, trainer = LogisticGrid(), quiet_trainer(tmp_path)
    trainer.fit(grid, NamedCells(names=SEEDS[:1]))
    trainer.test(grid, NamedCells(), verbose=False)
    assert [one.target for one in grid.maps["test"]] == list(SEEDS)
    data = NamedCells()
    rows = data.held("test")[1]
    scores = data.acts[0, rows] @ grid.weight[0, 0, 0].detach() + grid.bias[0, 0, 0].detach()
    assert float(grid.maps["test"][1].auc[0, 0]) == pytest.approx(roc_auc_score(data.labels[1, rows], scores), abs=1e-6)


def test_a_second_fit_on_other_data_starts_afresh(tmp_path):
    """No probe of the first data is left, also where the trainer has no epoch to run."""
    grid, trainer, other = LogisticGrid(), quiet_trainer(tmp_path), NamedCells(dataset="others")
    trainer.fit(grid, NamedCells())
    trainer.test(grid, NamedCells(), verbose=False)
    with pytest.raises(ValueError, match="give each fit a new Trainer"):
        trainer.fit(grid, other)
    assert grid.weight.isnan().all()
    assert grid.maps == {}
    quiet_trainer(tmp_path).fit(grid, other)
    assert torch.equal(grid.weight, fit(tmp_path, LogisticGrid(), other).weight)


def test_a_column_without_a_finite_row_is_named_in_the_test(tmp_path):
    grid, trainer, data = LogisticGrid(), quiet_trainer(tmp_path), NamedCells(names=SEEDS[:1])
    trainer.fit(grid, data)
    data.acts[4, data.held("test")[0]] = torch.nan
    with pytest.raises(ValueError, match=r"at layer 4, position b, example "):
        trainer.test(grid, data, verbose=False)


def test_every_target_takes_a_penalty_of_its_own(tmp_path, capsys):
    data = NamedCells()
    data.labels[1] = torch.randint(0, 2, (N,), generator=torch.Generator().manual_seed(3))  # nothing to be read
    grid = fit(tmp_path, LogisticGrid(l2=[0.1, 1e4], max_iter=1, tol=1e-9), data, limit_train_batches=1)
    assert grid.fitted["l2"][1] == 1e4
    assert grid.fitted["l2"][0] == 0.1
    assert [[one["l2"] for one in of_target] for of_target in grid.fitted["tried"]] == [[1e4, 0.1]] * 3
    assert grid.described == "logistic regression, standardised, l2 = 0.1 to 10000 by validation"
    assert {"layer": 0, "position": "b", "target": data.card.targets[1].name} in grid.fitted["short"]
    assert all(place["layer"] == 0 or place["position"] == "a" for place in grid.fitted["short"])  # of 4 fitted cells
