"""Several split seeds in one run against as many runs with one seed each, from activations in a file to AUC maps."""

from itertools import product

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

from datamodules.precomputed import PrecomputedDataModule
from datamodules.split import SPLITS, GroupSplit
from probes.grids.logistic import LogisticGrid
from probes.grids.mass_mean import MassMeanGrid
from tests.support.trainers import quiet_trainer

pytestmark = pytest.mark.usefixtures("_without_pictures")

SEEDS = [0, 5, 26, 42, 63]
N, L, T, D = 360, 2, 3, 12


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Columns of very different scales, positions that examples lack, and groups of up to three examples."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (N,), generator=generator)
    strength = torch.linspace(0.2, 1.2, L * T).view(L, T, 1)
    acts = torch.randn(N, L, T, D, generator=generator) + strength * labels[:, None, None, None]
    acts *= torch.logspace(-1, 1, D)
    valid = torch.rand(N, T, generator=generator) < torch.tensor([1.0, 0.9, 0.6])
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    groups = torch.randint(N // 2, (N,), generator=generator)
    save_file({"acts": acts.bfloat16(), "labels": labels, "valid": valid, "groups": groups}, path)
    return str(path)


def run(path, folder, seed, make):
    data = PrecomputedDataModule(path, GroupSplit(seed=seed), folder=folder)
    trainer, grid = quiet_trainer(folder), make()
    trainer.fit(grid, data)
    trainer.test(grid, data, verbose=False)
    return data, grid


PROBES = {
    "logistic": LogisticGrid,
    "raw columns": lambda: LogisticGrid(l2=3.0, standardize=False),
    "penalty by validation": lambda: LogisticGrid(l2=[0.01, 1.0, 100.0]),
    "mass mean": MassMeanGrid,
    "mass mean, whitened": lambda: MassMeanGrid(whiten=True),
}


@pytest.mark.parametrize("probe", PROBES)
def test_seeds_together_are_what_each_is_alone(path, tmp_path, probe):
    data, grid = run(path, tmp_path / "together", SEEDS, PROBES[probe])
    assert grid.weight.shape == (len(SEEDS), L, T, D)
    assert [target.seed for target in grid.tested.targets] == SEEDS
    for k, seed in enumerate(SEEDS):
        one, alone = run(path, tmp_path / str(seed), seed, PROBES[probe])
        for split in SPLITS:
            assert data.targets.rows_of(k, split).tolist() == one.targets.rows(split).tolist()
        for name in ("weight", "bias"):
            got, expected = getattr(grid, name)[k].detach(), getattr(alone, name)[0].detach()
            assert expected.isfinite().all()
            largest = alone.weight[0].detach().abs().amax(-1)  # of the cell
            error = (got - expected).abs()
            assert ((error.amax(-1) if name == "weight" else error) <= 1e-6 * largest).all(), name
        for split in ("val", "test"):
            got, (expected,) = grid.maps[split][k], alone.maps[split]
            assert (got.target, got.split) == (f"label 1, seed {seed}", split)
            torch.testing.assert_close(got.auc, expected.auc, rtol=0, atol=1e-9)
            torch.testing.assert_close(got.auc_se, expected.auc_se, rtol=0, atol=1e-9)
            assert torch.equal(got.n, expected.n)
            assert torch.equal(got.n_positive, expected.n_positive)
            assert got.auc.min() < got.auc.max()
    assert len({tuple(one.auc.flatten().tolist()) for one in grid.maps["test"]}) == len(SEEDS)


def test_each_seed_trains_on_its_own_rows(path, tmp_path):
    """Oracle: scikit-learn on the train rows of every seed, cell by cell."""
    data, grid = run(path, tmp_path, SEEDS, lambda: LogisticGrid(l2=1.0, standardize=False))
    saved = load_file(path)
    groups, labels = saved["groups"].tolist(), saved["labels"].tolist()
    blocks = {int(cell): (block, c) for block in data.train_dataloader() for c, cell in enumerate(block["cells"])}
    for (k, seed), cell in product(enumerate(SEEDS), range(L * T)):
        block, c = blocks[cell]
        mine = np.isin(block["examples"].numpy(), GroupSplit(seed=seed)(groups, labels)["train"])
        mine &= (block["acts"][c] != 0).any(-1).numpy()
        oracle = LogisticRegression(tol=1e-10, max_iter=10_000)
        oracle.fit(block["acts"][c].double().numpy()[mine], block["labels"][k].numpy()[mine])
        layer, position = divmod(cell, T)
        np.testing.assert_allclose(grid.weight[k, layer, position].detach(), oracle.coef_[0], rtol=2e-4, atol=2e-5)
