"""Cells whose activations float32 cannot hold: every probe leaves them out, and says so."""

import csv
import json

import pytest
import torch
from safetensors.torch import save_file

from tests.support.runs import run_here

pytestmark = pytest.mark.usefixtures("_without_pictures")


@pytest.mark.parametrize("probe", ["logistic", "mass_mean", "minibatch"])
def test_their_area_is_nan_and_a_line_names_them(probe, tmp_path):
    acts = torch.randn(160, 3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(160) % 2
    acts[..., 0] += 4 * labels[:, None, None]
    acts[:, 1, 0] *= 1e200
    acts[:, 2, 1] *= 1e-30
    save_file({"acts": acts, "labels": labels}, tmp_path / "own.safetensors")
    status, _, err = run_here(
        tmp_path, "datamodule=precomputed", "datamodule.path=own.safetensors", "trainer=cpu", f"probe={probe}",
        *(["trainer.max_epochs=60"] if probe == "minibatch" else []),
    )  # fmt: skip
    assert status == 0
    line = "fit: 2 probes are NaN, as their activations are above 1e18 or differ by less than 1e-18, beyond float32: "
    assert line + "layer 1, position 0; layer 2, position 1; scale them" in err
    rows = list(csv.DictReader((tmp_path / "run" / "heatmap.csv").read_text().splitlines()))
    odd = [row for row in rows if (row["layer"], row["position"][-1]) in {("1", "0"), ("2", "1")}]
    assert len(odd) == 4  # of validation and test
    assert {row["auc"] for row in odd} == {""}
    assert all(float(row["auc"]) > 0.8 for row in rows if row not in odd)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    if probe == "logistic":
        assert summary["fit"]["cells"]["beyond float32"] == 2
