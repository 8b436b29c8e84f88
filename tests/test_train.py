"""The whole run as a person starts it: files, ranks, kills and an altered cache."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

import train
from probes.grids.logistic import LogisticGrid
from probes.report.probes_file import load_probes
from tests.support.runs import TRAIN, command, fork, run, run_forked, run_here, table
from tests.support.warm import Forked


@pytest.fixture(scope="module")
def own(tiny_model, questions_csv):
    """Overrides for one's own model and questions."""
    return [
        "model=hf",
        f"model.id={tiny_model}",
        "model.dtype=float32",
        "model.stop=null",
        "model.max_new_tokens=14",
        "model.batch_size=32",
        "dataset=csv",
        f"dataset.path={questions_csv}",
        r"dataset.pattern='\w+'",
        "positions.rows=any",  # every column has its own rows: a run of fewer columns can be held against one of more
    ]


@pytest.fixture(scope="module")
def alone(own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    status, out, err = run(folder, *own)
    assert status == 0, err
    return folder, out, err


def test_a_run_leaves_everything_it_promises(alone):
    folder, out, err = alone
    made = {path.name for path in (folder / "run").iterdir()}
    assert made >= {
        "heatmap.png",
        "heatmap.pdf",
        "heatmap.csv",
        "examples.parquet",
        "scores.safetensors",
        "labels.md",
        "exact_answers.html",
        "coincidence.csv",
        "coincidence.png",
        "summary.json",
        "probes.safetensors",
        "probe.ckpt",
        "train.log",
        ".hydra",
    }
    assert (folder / "outputs" / "latest").resolve() == folder / "run"
    rows = table(folder)
    own_columns = ["target", "split", "layer", "position", "auc", "auc_se", "n", "n_positive"]
    of_analysis = ["auc_low", "auc_high", "near_best", "p_family", "auc_with_baseline", "gain_over_baseline"]
    assert list(rows[0]) == own_columns + of_analysis
    assert {bool(row["p_family"]) for row in rows if row["split"] == "val"} == {False}
    assert len(rows) == 2 * 3 * 15
    assert "answers: 300 of 300 to make" in err
    assert str(folder / "run" / "heatmap.png") in out
    assert "Traceback" not in out + err
    assert "Warning" not in err
    assert not [line for line in err.splitlines() if line.startswith(("GPU available", "💡", "`Trainer.fit` stopped"))]


def test_the_signal_that_was_put_there_is_found(alone):
    """The questions say `red` just where the answer is right, so the last question token of layer 0 can tell."""
    summary = json.loads((alone[0] / "run" / "summary.json").read_text())
    best = summary["reading"]["best_cells"][0]
    assert best["position"] == "last_q"
    assert best["auc"] > 0.85


def test_probes_and_checkpoint_agree_with_the_table(alone):
    folder = alone[0]
    weight, bias, card, _ = load_probes(folder / "run" / "probes.safetensors")
    assert weight.shape == (1, 3, 15, 32)
    assert bias.shape == (1, 3, 15)
    assert card.site == "resid_post"
    grid = LogisticGrid.load_from_checkpoint(folder / "run" / "probe.ckpt")
    torch.testing.assert_close(grid.weight.detach(), weight, rtol=0, atol=0, equal_nan=True)
    with safe_open(folder / "run" / "probes.safetensors", "pt") as file:
        assert set(file.keys()) == {"weight", "bias"}


@pytest.mark.usefixtures("_without_pictures")
def test_a_second_run_reuses_the_cache_and_gives_the_same_table(alone, own):
    folder = alone[0]
    before = (folder / "run" / "heatmap.csv").read_bytes()
    status, _, err = run_here(folder, *own)
    assert status == 0, err
    assert "answers: 300 reused from" in err
    assert "resid_post: 300 reused from" in err
    assert (folder / "run" / "heatmap.csv").read_bytes() == before


def test_a_cache_can_be_built_without_a_fit_and_shown_and_pruned(alone, own, tmp_path):
    process = fork(tmp_path, *own, "experiment=cache_only")  # whose end lets go of the entries
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "resid_post: 300 of 300 to make, about 864 kB and " in err
    kept = {"examples.parquet", "labels.md", "exact_answers.html"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".hydra", "train.log", *kept}
    files = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "cache").rglob("*") if ".local" not in p.parts)
    assert files == sorted(
        str(p.relative_to(alone[0])) for p in (alone[0] / "cache").rglob("*") if ".local" not in p.parts
    )
    status, out, err = run_here(tmp_path, "experiment=cache_info")
    assert status == 0, err
    assert re.search(r"cache: 2 entries, \d+ kB", out)
    key = next((tmp_path / "cache" / "activations").iterdir()).name
    status, out, err = run_here(tmp_path, "experiment=cache_info", f"cache.prune='{key}'")
    assert (status, err) == (0, "")
    assert "Removed 1 of 2 entries" in out
    assert list((tmp_path / "cache" / "activations").iterdir()) == []


@pytest.mark.usefixtures("_without_pictures")
def test_a_model_and_positions_of_ones_own_come_from_a_folder_outside(alone, tiny_model, questions_csv, tmp_path):
    """The same model told by another file gives the same cells; another list of positions reuses its answers."""
    for group, text in (
        ("model", f"defaults: [hf]\nid: {tiny_model}\ndtype: float32\nchat: false\nstop: null\nmax_new_tokens: 14\n"),
        (
            "positions",
            "defaults: [paper]\nrules: [{name: end, of: answer, at: -1}, {name: all, of: answer, at: mean}]\n",
        ),
    ):
        (tmp_path / "mine" / group).mkdir(parents=True)
        (tmp_path / "mine" / group / "ours.yaml").write_text(text)
    overrides = ["model=ours", "positions=ours", "dataset=csv", f"dataset.path={questions_csv}"]
    shutil.copytree(alone[0] / "cache", tmp_path / "cache")
    outside = [f"cache.root={tmp_path}/cache", f"--config-dir={tmp_path / 'mine'}"]
    status, _, err = run_here(tmp_path / "run", *overrides, *outside)
    assert status == 0, err
    assert "answers: 300 reused from" in err
    assert "exact answers" not in err
    ends = {(row["split"], row["layer"]): row["auc"] for row in table(tmp_path / "run") if row["position"] == "end"}
    last = {(row["split"], row["layer"]): row["auc"] for row in table(alone[0]) if row["position"] == "-1"}
    assert ends == last
    assert {row["position"] for row in table(tmp_path / "run")} == {"end", "all"}


def test_the_study_s_settings_on_the_embedded_model(tmp_path):
    """From start to heatmap: no validation rows, the same examples in every column, the last columns never invalid."""
    given = ["dataset=demo_facts", "dataset.limit=200", "site.layers=[5]"]
    status, out, err = run_here(tmp_path, "experiment=paper", *given)
    assert status == 0, err
    assert "mlp_out: 200 of 200 to make" in err
    assert "split: no val rows" in err
    assert "Warning" not in err
    rows = table(tmp_path)
    assert {row["split"] for row in rows} == {"test"}
    assert len(rows) == 15
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    counts = summary["targets"][0]["counts"]
    assert (summary["site"], summary["val"], counts["val"]["n"]) == ("mlp_out", None, 0)
    assert counts["test"]["n"] == pytest.approx(40, abs=4)
    assert summary["fit"]["l2"] == 1
    examples = pq.read_table(tmp_path / "run" / "examples.parquet").to_pylist()
    # a question of this set has a pattern, which tells the exact answer whatever the label; nobody is asked
    without = sum(example["split"] is None for example in examples)
    assert without == 0 or f"positions: {without} of 200 examples have no exact answer and are left out" in err
    valid = {tuple(example["valid"]) for example in examples}
    assert valid <= {(True,) * 15, (False,) * 15}
    assert summary["n_valid"] == [sum(example["valid"][0] for example in examples)] * 15
    assert str(tmp_path / "run" / "heatmap.png") in out


def test_two_ranks_give_the_same_table_and_the_same_cache(alone, own, tmp_path):
    status, _, err = run_forked(tmp_path, *own, "trainer=ddp_cpu", "trainer.devices=2")
    assert status == 0, err
    tables = [table(folder) for folder in (alone[0], tmp_path)]
    for one, two in zip(*tables, strict=True):
        for name in ("auc", "auc_se"):
            assert float(two[name] or "nan") == pytest.approx(float(one[name] or "nan"), abs=1e-6, nan_ok=True)
        assert all(one[name] == two[name] for name in ("split", "layer", "position", "n", "n_positive"))
    caches = [
        {
            str(p.relative_to(f)): p.read_bytes()
            for p in (f / "cache").rglob("*")
            if p.is_file() and ".local" not in p.parts
        }
        for f in (alone[0], tmp_path)
    ]
    assert caches[0] == caches[1]


@pytest.mark.slow
def test_processes_that_each_hold_a_part_of_the_model_give_the_same_answers_and_activations(alone, own, tmp_path):
    """Split over two processes, products are summed in another order; nothing else changes."""
    given = ["trainer=ddp_cpu", "trainer.devices=2", "model.tp_plan=auto"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The variables of torchrun, which tests/test_ranks.py starts.
    of_all = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        Forked(
            train.main,
            folder=tmp_path,
            argv=command(tmp_path, *own, *given)[1:],
            environment=os.environ | {"OMP_NUM_THREADS": "1", **of_all, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=200)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    answers = [
        [row for path in sorted(folder.glob("cache/answers/*/*.parquet")) for row in pq.read_table(path).to_pylist()]
        for folder in (alone[0], tmp_path)
    ]
    same = [one["answer_ids"] == two["answer_ids"] for one, two in zip(*answers, strict=True)]
    assert sum(same) >= 295  # of 300: where two tokens are nearly as likely, rounding chooses
    cells = [[float(row["auc"] or "nan") for row in table(folder)] for folder in (alone[0], tmp_path)]
    assert cells[1] == pytest.approx(cells[0], abs=0.05, nan_ok=True)


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_gives_the_same_table(alone, own, tmp_path):
    """Killed when the first answers, the first activations, and the first picture appear."""
    for sign in ("cache/answers/*/manifest.json", "cache/activations/*/shard-*.json", "run/heatmap*"):
        process = fork(tmp_path, *own)
        since = time.monotonic()
        while process.poll() is None and not list(tmp_path.glob(sign)):
            assert time.monotonic() - since < 120
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    status, _, err = run_here(tmp_path, *own)
    assert status == 0, err
    assert (tmp_path / "run" / "heatmap.csv").read_bytes() == (alone[0] / "run" / "heatmap.csv").read_bytes()


@pytest.mark.usefixtures("_without_pictures")
def test_an_altered_shard_is_named_with_its_mend(alone, own, tmp_path):
    folder = alone[0]
    shard = next((folder / "cache" / "activations").glob("*/layer=01/shard-00000.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        status, _, err = run_here(folder, *own)
    finally:
        shard.write_bytes(whole)
    assert status == 1
    assert f"error: cache: shard {shard} is altered" in err
    assert "rebuild it with: rm '" in err


def test_it_runs_from_another_folder_and_as_a_module(tmp_path):
    """Composition alone, which needs the configuration's folder but no model."""
    for how in ([str(TRAIN)], ["-m", "train"]):
        shown = subprocess.run(
            [sys.executable, *how, "--cfg", "job", "--package", "split"], cwd=tmp_path, capture_output=True, text=True
        )
        assert "seed: 0" in shown.stdout, shown.stderr
