"""Grids trained by mini-batches, against the exact fit and against themselves."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, LambdaCallback
from torch.nn.functional import softplus
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from probes.analysis.auroc import auroc
from probes.grids.minibatch import LinearGrid
from probes.grids.mlp import MLPGrid
from probes.solver.logistic import fit_logistic
from tests.support.cards import make_block, make_card
from tests.support.trainers import quiet_trainer

L, T, N, D = 2, 3, 1000, 6
C = L * T
ROWS = {"train": torch.arange(480), "val": torch.arange(480, 680), "test": torch.arange(680, N)}


class Stream:
    """A sized iterable; Lightning would take a list for several loaders."""

    def __init__(self, make, length):
        self.make, self.length = make, length

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(self.make())


class Data(pl.LightningDataModule):
    """Columns of unequal scale and offset, one of which never varies; a last cell without one class.

    Rows that are not valid hold a number that would show. With `batch_size` None the train rows are one batch.
    """

    def __init__(self, batch_size=None, junk=1e3):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.labels = (torch.arange(N) % 5 < 2).long()
        strength = torch.linspace(0.2, 1, C)[:, None, None]
        self.acts = torch.randn(C, N, D, generator=rng) + strength * self.labels[:, None]
        self.acts[..., 0] += self.acts[..., 1]
        self.acts = (self.acts + 2) * torch.tensor([0.1, 1, 30, 300, 1, 1])
        self.acts[..., 5] = 7
        self.valid = torch.rand(C, N, generator=rng) < torch.linspace(0.5, 1, C)[:, None]
        self.valid[-1] &= self.labels == 1
        self.acts[~self.valid] = junk
        self.batch_size = batch_size
        self.epoch = 0
        self.card = make_card(width=D)

    def block(self, cells, rows):
        return make_block(**self.raw(cells, rows), examples=rows)

    def raw(self, cells, rows):
        acts, valid = self.acts[cells][:, rows], self.valid[cells][:, rows]
        return {"acts": acts, "labels": self.labels[rows], "valid": valid, "cells": cells}

    def examples(self):
        self.epoch += 1
        rows = torch.randperm(len(ROWS["train"]), generator=torch.Generator().manual_seed(self.epoch))
        return (self.block(torch.arange(C), some) for some in rows.split(self.batch_size or len(rows)))

    def cells(self, split):
        return (self.block(cells, ROWS[split]) for cells in torch.arange(C).split(4))

    def train_dataloader(self):
        return Stream(self.examples, -(-len(ROWS["train"]) // (self.batch_size or N)))

    def val_dataloader(self, split="val"):
        return Stream(partial(self.cells, split), 2)

    def test_dataloader(self):
        return self.val_dataloader("test")


def fit(folder, grid, data, epochs, callbacks=(), **settings):
    trainer = quiet_trainer(folder, max_epochs=epochs, callbacks=list(callbacks), **settings)
    trainer.fit(grid, data)
    return trainer


def annealed(cls, lr, epochs, **settings):
    return cls(optimizer=partial(Adam, lr=lr), scheduler=partial(CosineAnnealingLR, T_max=epochs), **settings)


@pytest.mark.parametrize("l2", [0.1, 10.0])
def test_the_linear_optimum_is_that_of_the_exact_fit(l2, tmp_path):
    """Whole batches and a second-order method, so that nothing but the objective decides."""
    data = Data()
    grid = LinearGrid(l2, partial(LBFGS, max_iter=50, line_search_fn="strong_wolfe"))
    fit(tmp_path, grid, data, epochs=20, limit_val_batches=0)
    train = data.raw(torch.arange(C), ROWS["train"])
    exact = fit_logistic(train["acts"], train["labels"], train["valid"], l2)
    weight, bias = (tensor[0].detach().flatten(0, 1).double() for tensor in grid.tensors().values())
    # Divided by the scale, weights of all columns have one unit.
    torch.testing.assert_close((weight / grid.scale)[:-1], (exact.weight / grid.scale).double()[:-1], rtol=0, atol=1e-3)
    logits = (train["acts"].double() @ weight[..., None])[..., 0] + bias[:, None]
    losses = softplus(torch.where(train["labels"] == 1, -logits, logits)) * train["valid"]
    objective = losses.sum(1) + l2 / 2 * weight.square().sum(1)
    torch.testing.assert_close(objective, exact.objective.double(), rtol=1e-6, atol=0, equal_nan=True)
    assert grid.fitted == {"probe": "minibatch", "l2": l2, "epochs": 20}


def test_batches_together_have_the_loss_of_the_whole(tmp_path):
    """Batches of one size, as they are in one epoch or on several ranks, however many rows of a cell are valid."""
    for cls in (LinearGrid, MLPGrid):
        data = Data(batch_size=480)
        grid = annealed(cls, 0.05, 3)
        fit(tmp_path, grid, data, epochs=3)
        grid.log = lambda *_, **__: None
        block = next(data.examples())
        before = block["acts"].clone()
        whole = grid.training_step(block)
        assert torch.equal(block["acts"], before)
        data.batch_size = 60
        parts = [grid.training_step(block) for block in data.examples()]
        torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-5, atol=0)


def test_mini_batches_end_near_the_exact_auc(tmp_path):
    data = Data(batch_size=64)
    grid = annealed(LinearGrid, 0.05, 30)
    trainer = fit(tmp_path, grid, data, 30, [EarlyStopping("val/auc_mean", mode="max", patience=20)])
    trainer.test(grid, data, verbose=False)
    train, test = (data.raw(torch.arange(C), ROWS[split]) for split in ("train", "test"))
    exact = fit_logistic(train["acts"], train["labels"], train["valid"])
    scores = (test["acts"] @ exact.weight[..., None])[..., 0] + exact.bias[:, None]
    expected = auroc(scores, test["labels"], test["valid"])
    auc = grid.maps["test"][0].auc.flatten()
    assert auc[:-1].mean() == pytest.approx(expected[:-1].mean().item(), abs=0.01)
    assert expected[:-1].mean() > 0.7
    assert auc[-1].isnan()


def test_what_one_column_cannot_tell_and_two_together_can(tmp_path):
    """Exclusive or: no linear probe, but a hidden layer."""
    data = Data(batch_size=60)
    data.acts = torch.randn(C, N, D, generator=torch.Generator().manual_seed(1))
    data.labels = ((data.acts[0, :, 0] > 0) ^ (data.acts[0, :, 1] > 0)).long()
    data.acts[1:, :, :2] = data.acts[0, :, :2] * torch.tensor([1.0, 100.0])
    data.valid[:] = True
    auc = {}
    for cls in (LinearGrid, MLPGrid):
        pl.seed_everything(0, verbose=False)
        grid = annealed(cls, 0.02, 30)
        fit(tmp_path, grid, data, 30).test(grid, data, verbose=False)
        auc[cls] = grid.maps["test"][0].auc
    assert (auc[LinearGrid] < 0.7).all()
    assert (auc[MLPGrid] > 0.95).all()


@pytest.mark.parametrize("cls", [LinearGrid, MLPGrid])
def test_cells_do_not_touch_each_other_and_invalid_rows_count_for_nothing(cls, tmp_path):
    tensors = []
    for change in (False, True):
        data = Data(batch_size=64, junk=0 if change else 1e3)
        if change:
            data.acts[2] = data.acts[3] * 5 - 1
        pl.seed_everything(0, verbose=False)
        grid = cls()
        fit(tmp_path, grid, data, epochs=3, limit_val_batches=0)  # the best epoch is one choice for all cells
        tensors.append({name: tensor[0].flatten(0, 1) for name, tensor in grid.tensors().items()})
    for name, before in tensors[0].items():
        after, others = tensors[1][name], [0, 1, 3, 4, 5]
        torch.testing.assert_close(after[others], before[others], rtol=0, atol=0, equal_nan=True)
        assert not torch.equal(after[2], before[2])


@pytest.mark.parametrize("cls", [LinearGrid, MLPGrid])
def test_a_checkpoint_reloads_with_the_same_scores(cls, tmp_path):
    data = Data(batch_size=64)
    grid = annealed(cls, 0.02, 4, l2=0.5, **({"hidden": 5} if cls is MLPGrid else {}))
    trainer = fit(tmp_path, grid, data, epochs=4)
    trainer.save_checkpoint(tmp_path / "probe.ckpt")
    again = cls.load_from_checkpoint(tmp_path / "probe.ckpt", weights_only=True)
    assert again.l2 == 0.5
    assert again.card == data.card
    test = data.raw(torch.arange(C), ROWS["test"])
    scores = again(test["acts"], test["cells"])[0]
    assert torch.equal(scores[:-1], grid(test["acts"], test["cells"])[0, :-1])
    assert scores[-1].isnan().all()
    trainer.test(grid, data, verbose=False)
    auc = auroc(scores.float(), test["labels"], test["valid"]).view(L, T)
    torch.testing.assert_close(auc, grid.maps["test"][0].auc, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("cls", [LinearGrid, MLPGrid])
def test_the_tensors_for_raw_activations_score_as_the_trained_ones_do(cls, tmp_path):
    data = Data(batch_size=64)
    grid = cls()
    fit(tmp_path, grid, data, epochs=3)
    test = data.raw(torch.arange(C), ROWS["test"])
    z = (test["acts"] - grid.mean[:, None]) * grid.scale[:, None]
    [scores] = grid(test["acts"], test["cells"])
    seen = test["valid"] & grid.emphasis[:, None].bool()
    torch.testing.assert_close(scores[seen], grid.logits(z)[seen].double(), rtol=1e-4, atol=1e-4)
    shapes = {
        LinearGrid: {"weight": (D,), "bias": ()},
        MLPGrid: {"weight_in": (64, D), "bias_in": (64,), "weight_out": (64,), "bias_out": ()},
    }
    assert {name: tensor.shape for name, tensor in grid.tensors().items()} == {
        name: (1, L, T, *shape) for name, shape in shapes[cls].items()
    }


def test_inputs_are_standardised_by_the_valid_train_rows(tmp_path):
    data, grid = Data(batch_size=64), LinearGrid(l2=2.0)
    fit(tmp_path, grid, data, epochs=1, limit_val_batches=0)
    train = data.raw(torch.arange(C), ROWS["train"])
    for cell in range(C):
        rows = train["acts"][cell, train["valid"][cell]].double()
        variance = rows.var(0, correction=0)
        torch.testing.assert_close(grid.mean[cell].double(), rows.mean(0), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(grid.scale[cell].double(), (variance + 8 / len(rows)).rsqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rate", [1e2, 1e6])
def test_the_best_epoch_is_kept_with_its_map(rate, tmp_path):
    """A rate that is too high after four epochs, and one at which all scores end as NaN."""
    data, maps = Data(batch_size=64), []
    track = LambdaCallback(on_validation_end=lambda t, grid: t.sanity_checking or maps.append(grid.maps["val"]))
    grid = LinearGrid(1.0, partial(SGD, lr=0.3), lambda optimizer: LambdaLR(optimizer, lambda e: 1 if e < 4 else rate))
    trainer = fit(tmp_path, grid, data, 8, [track])
    means = [val.auc[val.readable()].mean() for [val] in maps]
    best = means.index(max(means))
    assert best < len(means) - 1 == 7
    assert not means[7] > means[best] - 0.01
    assert grid.fitted["best_epoch"] == best
    assert grid.maps["val"] is maps[best]
    trainer.validate(grid, data, verbose=False)
    torch.testing.assert_close(grid.maps["val"][0].auc, maps[best][0].auc, rtol=0, atol=0, equal_nan=True)


def test_the_same_seed_gives_the_same_bits(tmp_path):
    tensors = []
    for _ in range(2):
        pl.seed_everything(3, verbose=False)
        fit(tmp_path, grid := MLPGrid(hidden=4), Data(batch_size=64), epochs=2)
        tensors.append(grid.tensors())
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensor, tensors[1][name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "settings", [{"precision": "bf16-mixed"}, {"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}]
)
def test_the_settings_of_the_trainer_work(settings, tmp_path):
    data = Data(batch_size=64)
    data.acts = data.acts.bfloat16()
    grid = annealed(LinearGrid, 0.1, 10)
    fit(tmp_path, grid, data, 10, **settings)
    assert grid.maps["val"][0].auc[1, 1] > 0.75


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearGrid(l2=0.0), "^probe.l2: expected a number above 0, got 0.0;"),
        (lambda: MLPGrid(l2=float("nan")), "^probe.l2: expected a number above 0, got nan;"),
        (lambda: MLPGrid(hidden=0), "^probe.hidden: expected a whole number of at least 1, got 0$"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_blocks_of_a_few_cells_are_refused(tmp_path):
    data = Data()
    data.train_dataloader = lambda: Stream(partial(data.cells, "train"), 2)
    with pytest.raises(
        ValueError, match=r"expected blocks of all 6 cells in order, got 4; set datamodule.batch_size to"
    ):
        fit(tmp_path, LinearGrid(), data, epochs=1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_cell_with_a_valid_row_that_is_not_finite_is_named(bad, tmp_path):
    data = Data(batch_size=64)
    data.valid[3, 17] = True
    data.acts[3, 17, 2] = bad
    with pytest.raises(ValueError, match="got NaN or infinity at layer 4, position a, example 17 "):
        fit(tmp_path, LinearGrid(), data, epochs=1)
