"""Loggers in whole runs, read back from what they left on disk."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[attr-defined]

from tests.support.offline_wandb import read_records
from tests.support.runs import run_forked, table

FEW = ["dataset.limit=300", "site.layers=[3,4]", "probe.l2=7"]
NUMBERS = ("val/auc_best", "val/auc_mean", "test/auc_best", "test/auc_mean", "test/auc_baseline")
STAGES = ("answers_and_labels", "activations", "fit_and_validation", "test")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three jobs in one process: no logger, all of them, and two of them again."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        chosen = "logger=null,[csv,tensorboard,wandb,mlflow],[wandb,mlflow]"
        status, out, err = run_forked(folder, "-m", f"hydra.sweep.dir={folder}/sweep", *FEW, chosen)
    assert status == 0, err
    return folder, out, err


@pytest.fixture(scope="module")
def job(sweep):
    """The folder of the job with all loggers."""
    return next((sweep[0] / "sweep").rglob("tensorboard")).parent


@pytest.fixture(scope="module")
def expected(job):
    """Numbers of a run by their names in a logger, from its files."""
    summary = json.loads((job / "summary.json").read_text())
    baselines = {row["name"]: row["auc"] for row in summary["analysis"]["baselines"]["rows"]}
    numbers = {
        f"{split}/auc_{name}": summary[split][f"{name}_auc"] for split in ("val", "test") for name in ("best", "mean")
    }
    numbers["test/auc_baseline"] = baselines[summary["analysis"]["baselines"]["best"]]
    seconds = {f"seconds/{stage.replace(' ', '_')}": value for stage, value in summary["seconds"].items()}
    assert set(seconds) == {f"seconds/{stage}" for stage in STAGES}
    return numbers | seconds


def open_tensorboard(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    return found.Reload()


def test_no_logger_leaves_the_run_and_no_logs(sweep):
    logged = {path.parent for name in ("metrics", "wandb") for path in (sweep[0] / "sweep").rglob(name)}
    finished = {path.parent for path in (sweep[0] / "sweep").rglob("summary.json")}
    assert len(finished) == 3
    assert len(finished - logged) == 1
    assert "Warning" not in sweep[2]


def test_csv_gets_the_configuration_and_every_number(job, expected):
    config = yaml.safe_load((job / "metrics" / "version_0" / "hparams.yaml").read_text())
    assert (config["probe.l2"], config["site.layers"], config["site.name"]) == (7, [3, 4], "resid_post")
    lines = (job / "metrics" / "version_0" / "metrics.csv").read_text().splitlines()
    header, *rows = [line.split(",") for line in lines]
    got = {name: [float(row[column]) for row in rows if row[column]] for column, name in enumerate(header)}
    for name, value in expected.items():
        assert got[name] == [pytest.approx(value, abs=1e-6)]


def test_tensorboard_gets_all_of_it(job, expected):
    found = open_tensorboard(job / "tensorboard")
    for name, value in expected.items():
        (event,) = found.Scalars(name)
        assert event.value == pytest.approx(value, abs=1e-6)
    assert set(found.Tags()["images"]) == {"heatmap/val", "heatmap/test"}
    (image,) = found.Images("heatmap/test")
    with Image.open(job / "heatmap.png") as drawn:
        assert (image.width, image.height) == drawn.size
    (text,) = found.Tensors("summary.json/text_summary")
    (content,) = text.tensor_proto.string_val
    fence, body = content.decode().split("\n", 1)
    assert fence == "```json"
    assert json.loads(body.removesuffix("```")) == json.loads((job / "summary.json").read_text())
    plugin = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    config = HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert config["probe.l2"].number_value == 7
    assert config["site.layers"].string_value == "[3, 4]"
    plugin = found.summary_metadata["_hparams_/experiment"].plugin_data.content
    shown = {metric.name.tag for metric in HParamsPluginData.FromString(plugin).experiment.metric_infos}
    assert shown == set(NUMBERS)


def read_wandb(folder: Path) -> dict:
    """Configuration, history by name, artifacts and exit code of the one offline run in a folder."""
    (path,) = folder.glob("offline-run-*/run-*.wandb")
    found: dict = {"config": {}, "history": {}, "artifacts": [], "exit": None}
    for record in read_records(path):
        match record.WhichOneof("record_type"):
            case "config":
                found["config"] |= {one.key: json.loads(one.value_json) for one in record.config.update if one.key}
            case "history":
                for one in record.history.item:
                    name = one.key or ".".join(one.nested_key)
                    found["history"].setdefault(name, []).append(json.loads(one.value_json))
            case "artifact":
                found["artifacts"].append(record.artifact)
            case "request" if record.request.HasField("log_artifact"):
                found["artifacts"].append(record.request.log_artifact.artifact)
            case "exit":
                found["exit"] = record.exit.exit_code
    return found


def test_an_offline_run_of_wandb_gets_all_of_it(job, expected):
    found = read_wandb(job / "wandb")
    assert (found["config"]["probe.l2"], found["config"]["site.layers"]) == (7, [3, 4])
    for name, value in expected.items():
        assert found["history"][name] == [pytest.approx(value, abs=1e-6)]
    for name in ("heatmap/val", "heatmap/test"):
        ((file,),) = found["history"][f"{name}.filenames"]
        (media,) = (job / "wandb").glob(f"offline-run-*/files/{file}")
        if name == "heatmap/test":
            assert media.read_bytes() == (job / "heatmap.png").read_bytes()
    (artifact,) = found["artifacts"]
    assert artifact.type == "summary"
    (entry,) = artifact.manifest.contents
    assert (entry.path, entry.size) == ("summary.json", (job / "summary.json").stat().st_size)
    assert found["exit"] == 0


def test_each_job_of_a_sweep_is_a_run_of_its_own(sweep):
    folders = sorted((sweep[0] / "sweep").rglob("wandb"))
    assert len(folders) == 2
    for folder in folders:
        found = read_wandb(folder)
        assert found["config"]["folder"] == str(folder.parent)
        assert len(found["history"]["test/auc_best"]) == 1


def read_mlflow(folder: Path) -> list[dict]:
    """Every run of the store in a folder: parameters, metrics, artifacts and where they lie, status."""
    program = """
import json
from mlflow.tracking import MlflowClient
client = MlflowClient("sqlite:///mlflow.db")
(experiment,) = client.search_experiments(filter_string="name = 'probegrid'")
def walk(run, path=None):
    for file in client.list_artifacts(run, path):
        yield from walk(run, file.path) if file.is_dir else [file.path]
print(json.dumps([
    dict(params=run.data.params, metrics=run.data.metrics, status=run.info.status,
         artifacts=list(walk(run.info.run_id)), at=run.info.artifact_uri)
    for run in client.search_runs([experiment.experiment_id])
]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_store_of_mlflow_gets_all_of_it(sweep, job, expected):
    runs = read_mlflow(sweep[0])
    assert len(runs) == 2
    (found,) = [one for one in runs if one["params"]["folder"] == str(job)]
    assert (found["params"]["probe.l2"], found["params"]["site.layers"]) == ("7", "[3, 4]")
    assert max(map(len, found["params"].values())) == 250  # the rules for positions are longer
    for name, value in expected.items():
        assert found["metrics"][name] == pytest.approx(value, abs=1e-6)
    assert {"summary.json", "config.json"} <= set(found["artifacts"])
    assert found["params"]["site.also"] == "[]"
    at = Path(found["at"])
    assert json.loads((at / "summary.json").read_text()) == json.loads((job / "summary.json").read_text())
    rules = json.loads((at / "config.json").read_text())["positions.rules"]
    assert len(rules) == 15
    for split in ("val", "test"):
        (picture,) = [name for name in found["artifacts"] if f"heatmap~{split}" in name and name.endswith(".png")]
        with Image.open(at / picture) as image, Image.open(job / "heatmap.png") as drawn:
            assert image.size[0] == drawn.size[0]
    assert found["status"] == "FINISHED"


@pytest.mark.slow
def test_of_several_ranks_the_first_logs(sweep, job, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    shutil.copytree(sweep[0] / "cache", tmp_path / "cache")
    two = ["trainer=ddp_cpu", "trainer.devices=2"]
    status, _, err = run_forked(tmp_path, *FEW, "logger=[tensorboard,wandb,mlflow]", *two)
    assert status == 0, err
    best = json.loads((job / "summary.json").read_text())["test"]["best_auc"]
    (one,) = read_mlflow(tmp_path)
    assert one["metrics"]["test/auc_best"] == pytest.approx(best, abs=1e-6)
    assert read_wandb(tmp_path / "run" / "wandb")["history"]["test/auc_best"] == [pytest.approx(best, abs=1e-6)]
    (event,) = open_tensorboard(tmp_path / "run" / "tensorboard").Scalars("test/auc_best")
    assert event.value == pytest.approx(best, abs=1e-6)
    assert len(table(tmp_path)) == 2 * 2 * 15


def test_a_mini_batch_fit_logs_a_map_an_epoch_and_shows_what_lightning_tells(sweep, tmp_path):
    shutil.copytree(sweep[0] / "cache", tmp_path / "cache")
    given = ["probe=minibatch", "trainer.max_epochs=20", "logger=tensorboard", "+trainer.profiler=simple"]
    settings = {"patience": 1, "min_delta": 1, "verbose": "true"}
    stop = [f"++callbacks.early_stopping.{name}={value}" for name, value in settings.items()]
    status, _, err = run_forked(tmp_path, *FEW, *given, *stop)
    assert status == 0, err
    found = open_tensorboard(tmp_path / "run" / "tensorboard")
    epochs = len(list((tmp_path / "run" / "epochs").iterdir()))
    assert 2 <= epochs < 20
    maps = found.Images("heatmap/val")
    assert len(maps) == epochs
    assert [one.step for one in maps] == [one.step for one in found.Scalars("val/auc_best")]
    assert "FIT Profiler Report" in err
    assert "Signaling Trainer to stop" in err
    assert "FIT Profiler Report" in (tmp_path / "run" / "train.log").read_text()
    assert not [line for line in err.splitlines() if line.startswith(("GPU available", "TPU", "💡", "`"))]
