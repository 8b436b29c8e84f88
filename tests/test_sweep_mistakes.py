"""Jobs of a sweep that stop for a reason of their own: the others go on, and the list at the end tells each."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from probes.jobs.sweep.sweep import Sweep
from tests.support.places import ROOT
from tests.support.ranks import write_activations
from tests.support.runs import run, run_here

TINY_DISK = "unshare --user --map-root-user --mount sh -c"
needs_mounts = pytest.mark.skipif(
    subprocess.run(f"{TINY_DISK} 'mount -t tmpfs x /mnt'", shell=True, capture_output=True).returncode != 0,
    reason="needs mounts in a user namespace",
)


@pytest.fixture(autouse=True)
def _one_sweep(monkeypatch):
    """A process of its own ends after a sweep; this one does not, and would show it again."""
    monkeypatch.setattr(Sweep, "current", None)


def results(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").read_text().splitlines()))


def test_labels_and_spans_that_stop_a_job_end_no_other(tiny_model, questions_csv, tmp_path):
    """Of four jobs the first three stop: no answer is right, or no answer holds an exact one."""
    header, *rows = questions_csv.read_text().splitlines()
    (tmp_path / "wrong.csv").write_text("\n".join([header, *(f"{row.rpartition(',')[0]},nothing" for row in rows)]))
    (tmp_path / "right.csv").write_text(questions_csv.read_text())
    own = [
        "model=hf", f"model.id={tiny_model}", "model.dtype=float32", "model.stop=null", "model.max_new_tokens=14",
        "dataset=csv", "dataset.limit=120", "site.layers=[2]", "positions=exact", "trainer=cpu",
    ]  # fmt: skip
    swept = ["dataset.path=wrong.csv,right.csv", r"dataset.pattern='qqq','\w+'"]
    status, out, err = run_here(tmp_path, "-m", f"hydra.sweep.dir={tmp_path}/sweep", *own, *swept)
    rows = results(tmp_path / "sweep")
    assert [row["status"] for row in rows] == ["failed", "failed", "failed", "done"]
    assert status == 1
    told = err.partition("3 of 4 jobs failed:\n")[2].splitlines()
    for line, row, part in zip(told, rows[:3], ("labels: ", "labels: ", "spans: "), strict=True):
        assert f": failed: {part}expected " in line
        assert line == f"{row['job']}: failed: {row['error']}"
        (folder,) = (path for path in (tmp_path / "sweep").iterdir() if path.name == Path(row["folder"]).name)
        assert f"error: {row['error']}" in (folder / "train.log").read_text()
        assert json.loads((folder / "job.json").read_text())["error"] == row["error"]
    assert "Traceback" not in out + err


@needs_mounts
def test_a_disk_that_one_job_fills_ends_no_other(tmp_path):
    """A real one, of 3 MB, of which the second job's scores want more."""
    generator = torch.Generator().manual_seed(0)
    for name, n in (("small", 200), ("large", 60_000), ("middle", 210)):
        acts, labels = torch.randn(n, 2, 6, 1, generator=generator), torch.arange(n) % 2
        save_file({"acts": acts, "labels": labels}, tmp_path / f"{name}.safetensors")
    (tmp_path / "disk").mkdir()
    paths = ",".join(f"{tmp_path}/{name}.safetensors" for name in ("small", "large", "middle"))
    mount = f"mount -t tmpfs -o size=3m x {tmp_path}/disk && cd {tmp_path}"
    own = f"datamodule=precomputed trainer=cpu datamodule.path={paths} hydra.sweep.dir=disk/sweep"
    done = subprocess.run(
        f"{TINY_DISK} '{mount} && {sys.executable} {ROOT}/train.py -m {own}; echo $?; "
        f"cat {tmp_path}/disk/sweep/results.csv; cat {tmp_path}/disk/sweep/*large*/train.log'",
        shell=True, capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert 0


def test_each_job_shows_its_map_where_the_user_asks_for_it(tmp_path):
    own = write_activations(tmp_path / "own.safetensors")
    sweep = ["-m", f"hydra.sweep.dir={tmp_path}/sweep", *own, "trainer=cpu", "probe.l2=1,10"]
    status, out, err = run_here(tmp_path, *sweep, "report.terminal=full")
    assert (status, [row["status"] for row in results(tmp_path / "sweep")]) == (0, ["done", "done"])
    assert out.count("What the map shows") == 2
    assert out.count("Best cells") == 2
    assert "l2=1: " not in out
    assert "split: train" in err


def test_a_search_over_ranks_draws_once_for_all_of_them(tmp_path):
    """Each rank once drew parameters of its own, and a map held two of them."""
    own = write_activations(tmp_path / "own.safetensors")
    search = ["hparams_search=optuna", "hydra.sweeper.n_trials=2", f"hydra.sweep.dir={tmp_path}/sweep"]
    status, _, err = run(tmp_path, "-m", *own, *search, "trainer=ddp_cpu", "probe.l2=interval(0.01,1000)")
    assert status == 0, err
    rows = results(tmp_path / "sweep")
    assert len({row["probe.l2"] for row in rows}) == 2
    for number, row in enumerate(rows):
        # one process, with the value that the job says it has drawn
        again = tmp_path / f"again-{number}"
        assert run_here(again, *own, "trainer=cpu", f"probe.l2={row['probe.l2']}")[0] == 0
        folder = tmp_path / "sweep" / Path(row["folder"]).name
        assert (folder / "heatmap.csv").read_bytes() == (again / "run" / "heatmap.csv").read_bytes()
    assert len({(tmp_path / f"again-{number}" / "run" / "heatmap.csv").read_bytes() for number in (0, 1)}) == 2
