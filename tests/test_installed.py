"""A wheel, built and installed apart from the sources, runs from any folder."""

import csv
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.places import ROOT

PACKAGES = ("conf", "datamodules", "probes")
SMALL = ["dataset.limit=100", "site.layers=[4]", "positions=exact"]

pytestmark = pytest.mark.slow


def call(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must end well."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_aucs(run: Path) -> list[float]:
    with (run / "heatmap.csv").open(newline="") as file:
        return [float(row["auc"] or "nan") for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, as building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    shutil.copytree(ROOT / "tests" / "support", folder / "source" / "tests" / "support")  # to be left out
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    call(sys.executable, "-m", "pip", "wheel", *options, folder / "source", cwd=folder)
    (path,) = folder.glob("probegrid-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Folder with the packages, and `bin` in it."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "--target", folder]
    call(sys.executable, "-m", "pip", "install", *options, wheel, cwd=folder)
    return folder


def test_a_wheel_holds_every_file_of_the_packages_and_no_test(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    expected = {path.relative_to(ROOT).as_posix() for path in sources if "__pycache__" not in path.parts}
    assert packed == {"train.py", *expected}
    assert {
        "conf/config.yaml", "datamodules/language/demo/weights/model.safetensors",
        "datamodules/questions/sets/cities.csv",
    } < packed  # fmt: skip


def test_the_command_runs_from_an_empty_folder_alone_and_in_two_processes(installed, tmp_path):
    path = str(installed)
    origin = call(sys.executable, "-c", "import train; print(train.__file__)", cwd=tmp_path, PYTHONPATH=path)
    assert origin.strip() == str(installed / "train.py")
    call(installed / "bin" / "probegrid", *SMALL, cwd=tmp_path, PYTHONPATH=path)
    latest = tmp_path / "outputs" / "latest"
    alone = read_aucs(latest)
    assert len(alone) == 2 * 4
    assert (tmp_path / "cache").is_dir()
    first = latest.resolve()
    two = ["trainer=ddp_cpu", "trainer.devices=2", "hydra.run.dir=outputs/two"]
    call(installed / "bin" / "probegrid", *SMALL, *two, cwd=tmp_path, PYTHONPATH=path)
    assert latest.resolve() == tmp_path / "outputs" / "two" != first
    assert read_aucs(latest) == pytest.approx(alone, abs=1e-6, nan_ok=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["cache", "outputs"]
