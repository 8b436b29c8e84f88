"""Jobs of a sweep that stop for a reason of their own: the others go on, and the list at the end tells each."""

import csv
import json
from pathlib import Path
from uuid import UUID

import pytest
import pytorch_lightning as pl

from probes.jobs.sweep.sweep import Sweep
from tests.support.ranks import write_activations
from tests.support.runs import run_forked, run_here

pytestmark = pytest.mark.usefixtures("_without_pictures")


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
        "dataset=csv", "dataset.limit=80", "site.layers=[2]", "positions=exact", "trainer=cpu",
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


class FullFile(pl.Callback):
    """Lets a run find no room for one of its files: what is written into /dev/full meets a full disk."""

    def __init__(self, folder: str, name: str) -> None:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.link = path if path.parent != Path(folder) else path.with_name(f".{name}.{UUID(int=0).hex}.tmp")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.link.symlink_to("/dev/full")


FILES = ["heatmap.csv", "scores.safetensors", "summary.json", "metrics/version_0/metrics.csv", "none"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_for_one_job_ends_no_other(tmp_path, monkeypatch):
    """The file that has no room differs between the jobs; the last has room for all."""
    monkeypatch.setattr("probes.report.whole_file.uuid4", lambda: UUID(int=0))
    own = write_activations(tmp_path / "own.safetensors")
    full = ["+callbacks.full._target_=tests.test_sweep_mistakes.FullFile", "+callbacks.full.folder=${folder}"]
    full.append("allow_targets=[tests]")
    sweep = ["-m", f"hydra.sweep.dir={tmp_path}/sweep", *own, "trainer=cpu", *full]
    status, out, err = run_here(tmp_path, *sweep, f"+callbacks.full.name={','.join(FILES)}")
    assert status == 1
    rows = results(tmp_path / "sweep")
    assert [row["status"] for row in rows] == ["failed"] * (len(FILES) - 1) + ["done"]
    told = err.partition(f"{len(FILES) - 1} of {len(FILES)} jobs failed:\n")[2].splitlines()
    for line, row, name in zip(told, rows[:-1], FILES, strict=False):
        assert line == f"{row['job']}: failed: {row['error']}"
        assert name in row["error"] or "/" in name  # a library does not say where it writes
        assert "; free some space, or choose another folder" in row["error"]
        assert "No space left on device" in row["error"]
        log = (tmp_path / "sweep" / Path(row["folder"]).name / "train.log").read_text()
        assert f"error: {row['error']}" in log
        assert "Traceback" not in log
    assert len(told) == len(FILES) - 1
    assert "Traceback" not in out + err


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
    status, _, err = run_forked(tmp_path, "-m", *own, *search, "trainer=ddp_cpu", "probe.l2=interval(0.01,1000)")
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


class Broken(pl.Callback):
    """An error of a program, which no user can mend."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise RuntimeError("this callback is broken")


def test_an_error_of_the_program_has_its_traceback_in_the_log_of_its_job(tmp_path):
    """Line by line, as Python prints it; on the terminal stands one line."""
    own = write_activations(tmp_path / "own.safetensors")
    broken = ["+callbacks.mine._target_=tests.test_sweep_mistakes.Broken", "allow_targets=[tests]"]
    sweep = ["-m", f"hydra.sweep.dir={tmp_path}/sweep", *own, "trainer=cpu", *broken, "probe.l2=1,10"]
    status, out, err = run_here(tmp_path, *sweep)
    assert status == 1
    assert "Traceback" not in out + err
    lines = (tmp_path / "sweep" / "l2-1" / "train.log").read_text().splitlines()
    assert any(line.endswith("l2=1: error: RuntimeError: this callback is broken") for line in lines)
    assert "Traceback (most recent call last):" in lines
    assert lines[-1] == "RuntimeError: this callback is broken"
