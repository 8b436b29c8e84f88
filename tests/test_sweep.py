"""Sweeps as people start them: mistakes, results, launchers, a search, kills, two at once."""

import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import train
from tests.support.runs import TRAIN
from tests.support.warm import Forked

VALUES = ["1", "-1", "10"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Overrides for a small file of activations; runs on it take a second."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (300,), generator=generator)
    acts = torch.randn(300, 2, 2, 6, generator=generator)
    acts += torch.tensor([[0.1, 0.4], [0.7, 1.0]])[..., None] * labels[:, None, None, None]
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    save_file({"acts": acts, "labels": labels}, path)
    return ["datamodule=precomputed", f"datamodule.path={path}", "trainer=cpu"]


def start(folder, *arguments):
    folder.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    command = [sys.executable, str(TRAIN), *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def fork(folder, *arguments):
    """The same as `start` without the imports."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    return Forked(train.main, folder=folder, argv=[str(TRAIN), *arguments], environment=environment)


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def sweep(folder, *overrides):
    return finish(start(folder, "-m", *overrides))


def call(folder, *arguments):
    """A process of its own, as a process has one sweep, but without the imports."""
    return finish(fork(folder, *arguments))


def results(folder):
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


def job(folder, name):
    return json.loads((folder / name / "job.json").read_text())


@pytest.fixture(scope="module")
def swept(own, tmp_path_factory):
    """A sweep of three jobs, of which the second is a mistake."""
    folder = tmp_path_factory.mktemp("swept")
    return folder, *sweep(folder, *own, f"probe.l2={','.join(VALUES)}")


def test_a_mistake_in_a_job_is_one_line_and_the_others_go_on(swept):
    folder, status, out, err = swept
    mistake = "error: probe.l2: expected a number above 0, a list of different ones, by_size or auto, got -1"
    assert status == 1
    assert err.splitlines() == [
        f"l2=-1: {mistake}",
        "",
        "1 of 3 jobs failed:",
        mistake.replace("error", "l2=-1: failed"),
    ]
    latest = folder / "multirun" / "latest"
    assert mistake in (latest / "l2--1" / "train.log").read_text()
    assert [job(latest, f"l2-{value}")["status"] for value in VALUES] == ["done", "failed", "done"]
    lines = out.splitlines()
    assert lines[0] == f"sweep: {latest.resolve()}"
    assert [line.partition(":")[0] for line in lines[1:3]] == ["l2=1", "l2=10"]
    assert "What the map shows" not in out
    assert sorted(path.name for path in folder.iterdir()) == ["multirun"]
    assert sorted(path.name for path in latest.iterdir() if path.is_dir()) == ["l2--1", "l2-1", "l2-10"]
    assert len(list((folder / "multirun").iterdir())) == 2  # the day, and the link
    assert len(list(latest.resolve().parent.iterdir())) == 1


def test_a_job_leaves_what_the_run_alone_leaves_and_the_table_agrees(swept, own, tmp_path):
    folder = swept[0]
    status, out, _ = call(tmp_path, *own, "probe.l2=10", "hydra.run.dir=alone")
    assert status == 0
    assert "What the map shows" in out
    alone, latest = tmp_path / "alone", folder / "multirun" / "latest"
    assert (latest / "l2-10" / "heatmap.csv").read_bytes() == (alone / "heatmap.csv").read_bytes()
    assert {path.name for path in alone.iterdir()} == {path.name for path in (latest / "l2-10").iterdir()} - {
        "job.json"
    }
    first, failed, row = results(latest)
    assert [first["probe.l2"], failed["probe.l2"], row["probe.l2"]] == VALUES
    assert (failed["status"], failed["test_auc"]) == ("failed", "")
    with (alone / "heatmap.csv").open() as file:
        cells = list(csv.DictReader(file))
    best = max((cell for cell in cells if cell["split"] == "val"), key=lambda cell: float(cell["auc"]))
    (test,) = (c for c in cells if c["split"] == "test" and all(c[key] == best[key] for key in ("layer", "position")))
    assert [row["layer"], row["position"]] == [best["layer"], best["position"]]
    for key, value in (("val_auc", best["auc"]), ("test_auc", test["auc"]), ("test_auc_error", test["auc_se"])):
        assert float(row[key]) == pytest.approx(float(value), abs=1e-8)
    mean = [float(cell["auc"]) for cell in cells if cell["split"] == "test"]
    assert float(row["mean_auc"]) == pytest.approx(sum(mean) / len(mean), abs=1e-8)
    assert float(row["objective"]) == pytest.approx(float(best["auc"]), abs=1e-8)  # of validation, not of the test


def test_what_is_complete_is_skipped_and_what_failed_is_done_again(swept, own):
    folder = swept[0]
    latest = folder / "multirun" / "latest"
    (latest / "l2-10" / "summary.json").unlink()  # no longer complete
    before = (latest / "l2-1" / "summary.json").stat().st_mtime_ns
    status, out, err = call(folder, "-m", *own, f"probe.l2={','.join(VALUES)}", "resume=true")
    assert status == 1
    assert out.splitlines()[1:3][0] == "l2=1: complete already"
    assert out.splitlines()[2].startswith("l2=10: best ")
    assert err.count("error: probe.l2") == 1
    assert (latest / "l2-1" / "summary.json").stat().st_mtime_ns == before
    assert (latest / "l2-10" / "summary.json").exists()
    assert [row["status"] for row in results(latest)] == ["done", "failed", "done"]
    assert len(list(latest.resolve().parent.iterdir())) == 1


def test_a_sweep_over_lists_of_splits_draws_their_means_and_is_redone_where_the_file_has_changed(own, tmp_path):
    path = tmp_path / "mine.safetensors"
    shutil.copy(own[1].partition("=")[2], path)
    arguments = ["datamodule=precomputed", f"datamodule.path={path}", "trainer=cpu", "split.seed=[0,1],[2,3]"]
    assert call(tmp_path / "start", "-m", *arguments, "probe=glob(log*)")[0] == 0
    latest = tmp_path / "start" / "multirun" / "latest"
    assert (latest / "results.png").exists()
    assert len(results(latest)) == 2
    content = load_file(path)
    save_file(content | {"acts": content["acts"].flip(0).contiguous()}, path)
    (latest / "seed-0_1+probe-logistic" / "job.json").write_text('{"status": "do')  # as a full disk leaves it
    status, out, err = call(tmp_path / "start", "-m", *arguments, "probe=glob(log*)", "resume=true")
    assert (status, err) == (0, "")
    assert "complete already" not in out


def test_the_table_is_made_of_any_runs(swept, tmp_path):
    runs = swept[0] / "multirun" / "latest"
    status, out, err = call(tmp_path, "experiment=collect", f"runs=[{runs}]", "hydra.run.dir=all")
    assert (status, err) == (0, "")
    assert results(tmp_path / "all") == results(runs)
    assert str(tmp_path / "all" / "results.png") in out


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_other_processes_give_the_same(launcher, swept, own, tmp_path):
    """Two of the three jobs, as each takes seconds for its imports."""
    status, _, err = sweep(tmp_path, *own, f"probe.l2={','.join(VALUES[:2])}", f"launcher={launcher}")
    assert status == 1
    assert err.splitlines()[-2:] == ["1 of 2 jobs failed:", swept[3].splitlines()[-1]]
    ours, theirs = (results(folder / "multirun" / "latest") for folder in (tmp_path, swept[0]))
    theirs = theirs[:2]
    for name in ("probe.l2", "status", "layer", "position", "test_auc", "objective", "error"):
        assert [row[name] for row in ours] == [row[name] for row in theirs]
    failed = (tmp_path / "multirun" / "latest" / "l2--1" / "train.log").read_text()
    assert f"error: {ours[1]['error']}" in failed
    said = [err, *(path.read_text() for path in tmp_path.rglob(".submitit/*/*.err"))]
    assert not [text for text in said if "Warning" in text or "Traceback" in text]
    assert [path.name for path in tmp_path.iterdir()] == ["multirun"]


def test_a_search_maximises_the_validation_objective_and_goes_on_after_a_mistake(own, tmp_path):
    values = "choice(0.01,-1,100)"
    search = ["hparams_search=optuna", "hydra.sweeper.n_trials=4", f"hydra.sweeper.storage=sqlite:///{tmp_path}/s.db"]
    search += ["hydra.sweeper.study_name=s", f"probe.l2={values}"]
    status, out, err = call(tmp_path, "-m", *own, *search)
    latest = tmp_path / "multirun" / "latest"
    rows = results(latest)
    assert len(rows) == 4
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["probe.l2"] for row in failed} <= {"-1"}
    assert status == bool(failed)
    assert "Traceback" not in err
    assert err.count(": error: ") == len(failed)
    best = max((row for row in rows if row["status"] == "done"), key=lambda row: float(row["objective"]))
    found = yaml.safe_load((latest / "optimization_results.yaml").read_text())
    assert found["best_value"] == float(best["objective"])
    assert sorted(path.name[:4] for path in latest.iterdir() if path.is_dir()) == ["000+", "001+", "002+", "003+"]
    assert out.splitlines()[0] == f"sweep: {latest.resolve()}"
    more = [one.replace("n_trials=4", "n_trials=1") for one in search]
    call(tmp_path, "-m", *own, *more)  # the search goes on, as the refusal of resume=true advises
    assert str(latest.resolve()) != out.splitlines()[0].partition(": ")[2]
    with closing(sqlite3.connect(tmp_path / "s.db")) as study:
        assert study.execute("SELECT COUNT(*) FROM trials").fetchone() == (5,)
        best_value = study.execute("SELECT MAX(value) FROM trial_values").fetchone()[0]
    assert yaml.safe_load((latest / "optimization_results.yaml").read_text())["best_value"] == best_value
    assert best_value >= found["best_value"]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["objective=val/auc", "seed=0,1"], "error: objective: expected one of val/auc_best, val/auc_mean, "),
        (["seed=0,0"], "error: seed: expected values that differ, got 0 and 0; leave one out"),
        (["seed=0,1", "resume=true"], "error: resume: expected the folder of a sweep, got "),
        (["seed=0,1", "seed=2"], "error: seed: expected once in a sweep, got seed=0,1 and seed=2; write all"),
        (["seed=0,1", "folder=x"], "error: folder: expected none in a sweep, where each job has a folder of its own"),
        (["seed=0,1", "hydra.sweep.subdir=x"], "error: hydra.sweep.subdir: expected a name that differs between jobs"),
        (
            ["hydra.job.chdir=true,false"],
            "error: hydra.job.chdir: expected one value for all jobs, as of any option of",
        ),
        (["seed=0,1", "ckpt_path=a.ckpt"], "error: ckpt_path: expected a checkpoint, got 'a.ckpt', which is not there"),
        (
            ["seed=0,1", "hydra.sweep.dir=/dev/null/x"],
            "error: hydra.sweep.dir: expected a folder that can be made, got",
        ),
        (
            ["seed=0,1", "hydra.sweep.dir=/dev/null"],
            "error: hydra.sweep.dir: expected a folder, got the file /dev/null",
        ),
        (["hparams_search=optuna", "resume=true"], "error: resume: expected a sweep over given values, got a search"),
    ],
)
def test_what_no_job_could_do_is_refused_before_the_first(overrides, line, own, tmp_path):
    status, out, err = call(tmp_path, "-m", *own, *overrides)
    assert status == 1
    assert (out + err).startswith(line)
    assert len((out + err).splitlines()) == 1
    assert not list(tmp_path.rglob("job.json"))
    assert not (tmp_path / "multirun" / "latest").exists()


def test_killed_in_the_middle_and_resumed_it_does_what_is_left(own, tmp_path):
    values = [*own, "split.seed=0,1,2,3"]
    process = fork(tmp_path, "-m", *values)
    since = time.monotonic()
    while process.poll() is None and not list(tmp_path.glob("multirun/*/*/seed-1/job.json")):
        assert time.monotonic() - since < 120
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    latest = tmp_path / "multirun" / "latest"
    assert [job(latest, f"seed-{seed}")["status"] for seed in (0, 1)] == ["done", "running"]
    status, out, _ = call(tmp_path, "-m", *values, "resume=true")
    assert status == 0
    assert out.count("complete already") == 1
    assert [(row["split.seed"], row["status"]) for row in results(latest)] == [(str(s), "done") for s in range(4)]
    assert len(list(latest.resolve().parent.iterdir())) == 1


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    """Two sweeps over sites and positions at once, on one cache that is empty."""
    folder = tmp_path_factory.mktemp("gathered")
    choices = ["dataset.limit=200", "site.layers=[5]", "site=resid_post,mlp_out", "positions=exact,imdb"]
    both = [fork(folder, "-m", *choices, f"hydra.sweep.dir={name}") for name in ("one", "two")]
    ends = [finish(process) for process in both]
    assert [status for status, _, _ in ends] == [0, 0], ends
    return folder


@pytest.mark.slow
def test_two_sweeps_on_one_cache_agree(gathered):
    for name in ("site-resid_post+positions-exact", "site-mlp_out+positions-imdb"):
        one, two = (gathered / folder / name / "heatmap.csv" for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in gathered.iterdir()) == ["cache", "one", "two"]  # no stray multirun


@pytest.mark.slow
def test_sites_and_positions_of_a_sweep_are_read_in_one_pass(gathered, tmp_path):
    made = sorted(path.parent.name for path in gathered.glob("cache/activations/*/manifest.json"))
    assert len(made) == 2  # a site each, with all positions
    manifests = [json.loads((gathered / "cache/activations" / key / "manifest.json").read_text()) for key in made]
    assert {manifest["site"] for manifest in manifests} == {"resid_post", "mlp_out"}
    assert {len(manifest["positions"]) for manifest in manifests} == {13}  # those of imdb, and one that it lacks
    alone = ["dataset.limit=200", "site=mlp_out", "site.layers=[5]", "positions=exact", "hydra.run.dir=run"]
    assert call(tmp_path, *alone)[0] == 0
    expected = (tmp_path / "run" / "heatmap.csv").read_bytes()
    assert (gathered / "one" / "site-mlp_out+positions-exact" / "heatmap.csv").read_bytes() == expected
