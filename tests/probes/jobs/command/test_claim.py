"""A run folder belongs to one run at a time."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from probes.jobs.command import claim
from probes.jobs.command.claim import claim_folder
from tests.support.places import ROOT
from tests.support.runs import run_here

HOLD = """
import sys
from pathlib import Path
from probes.jobs.command.claim import claim_folder
print(claim_folder("hydra.run.dir", Path(sys.argv[1]), named=True), flush=True)
sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder):
    """Another process has the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == str(folder)
    yield
    process.kill()
    process.communicate()


@pytest.fixture(autouse=True)
def _own(monkeypatch):
    monkeypatch.setattr(claim, "_held", {})


def test_of_many_that_start_in_one_second_each_has_its_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = [*pool.map(lambda _: claim_folder("folder", tmp_path / "12-00-00", named=False), range(24))]
    assert len({*folders}) == 24
    assert {*folders} == {tmp_path / "12-00-00", *(tmp_path / f"12-00-00-{number}" for number in range(2, 25))}


def test_a_folder_in_use_is_refused_until_that_run_ends(tmp_path):
    folder = tmp_path / "same"
    with (
        held_elsewhere(folder),
        pytest.raises(
            ValueError, match=r"hydra.run.dir: expected a folder that no other process is writing to, got .*same;"
        ),
    ):
        claim_folder("hydra.run.dir", folder, named=True)
    assert claim_folder("hydra.run.dir", folder, named=True) == folder
    assert claim_folder("folder", folder, named=True) == folder  # this process has it


def test_a_run_into_a_folder_in_use_touches_nothing(tmp_path):
    save_file({"acts": torch.randn(90, 2, 2, 4), "labels": torch.arange(90) % 2}, tmp_path / "own.safetensors")
    own = ["datamodule=precomputed", "datamodule.path=own.safetensors", "trainer=cpu"]
    with held_elsewhere(tmp_path / "run"):
        status, _, err = run_here(tmp_path, *own)
    assert status == 1
    line = f"expected a folder that no other process is writing to, got {tmp_path}/run; wait for it, or name another"
    assert err.strip() == f"error: hydra.run.dir: {line}"
    assert not list((tmp_path / "run").iterdir())


def test_what_a_killed_run_left_is_removed(tmp_path):
    """But nothing of others: a cache or another run may lie in the folder."""
    name = f".heatmap.png.{'0a' * 16}.tmp"
    left = [tmp_path / name, tmp_path / "l2-1" / name]
    others = [tmp_path / ".notes.tmp", tmp_path / "cache" / name, tmp_path / "outputs" / "day" / name]
    for path in (*left, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "l2-1" / "job.json").write_text("{}")
    claim_folder("folder", tmp_path, named=True)
    assert [path.exists() for path in (*left, *others)] == [False, False, True, True, True]


def test_a_folder_in_use_is_refused_where_it_is_the_start_folder(tmp_path):
    with held_elsewhere(tmp_path):
        status, _, err = run_here(tmp_path, "hydra.run.dir=.")
    assert status == 1
    assert err.startswith("error: hydra.run.dir: expected a folder that no other process is writing to")
    assert not (tmp_path / ".hydra").exists()


def test_no_folder_is_not_the_start_folder(tmp_path):
    (tmp_path / "here").mkdir()
    status, _, err = run_here(tmp_path / "here", "hydra.run.dir=")
    assert (status, err) == (1, "error: hydra.run.dir: expected a folder, got ''; name one\n")
    assert not list((tmp_path / "here").iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"folder: expected a folder that can be made, got .*/file/run: Not a directory;"):
        claim_folder("folder", tmp_path / "file" / "run", named=True)
