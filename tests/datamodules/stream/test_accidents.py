"""Real processes, really killed, on one cache; a disk that is full, and one that cannot be written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.support import accidents
from tests.support.accidents import records, tree
from tests.support.places import ROOT
from tests.support.warm import Forked

MOMENTS = 20


def command(*arguments):
    return [sys.executable, "-m", "tests.support.accidents", *map(str, arguments)]


def start(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return Forked(accidents.main, *map(str, arguments), folder=ROOT, argv=[], environment=environment)


@pytest.fixture(scope="module")
def killed(tiny_model, questions_csv, tmp_path_factory):
    """What became of twenty runs that were killed, and the cache of one left alone."""
    folder = tmp_path_factory.mktemp("killed")
    process = start("kill", tiny_model, questions_csv, folder, MOMENTS)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1]), folder / "alone"


@pytest.mark.slow
def test_killed_at_twenty_moments_it_loses_the_shard_in_hand_and_gives_the_same_bytes(killed):
    (counted, *runs), alone = killed
    assert counted["steps"] > 5 * MOMENTS
    assert len(records(alone)) == 10
    assert len({run["moment"] for run in runs}) == MOMENTS
    for run in runs:
        assert run["killed"]
        assert run["went_on"]
        assert run["same"]
        assert run["remade"] == []
        # files of one shard may lie there without their record: those of the one in hand
        assert len({re.findall(r"shard-(\d+)", name)[0] for name in run["unrecorded"] if "shard" in name}) <= 1
    # moments of both stages, with nothing finished and with much
    assert {run["finished"] for run in runs} >= {0, 3, 5, 8}


@pytest.mark.slow
def test_one_of_two_processes_on_a_cache_is_killed_and_the_other_finishes(killed, tiny_model, questions_csv, tmp_path):
    _, alone = killed
    root = tmp_path / "shared"
    first, second = (start("build", tiny_model, questions_csv, root) for _ in range(2))
    since = time.monotonic()
    while first.poll() is None and not records(root):
        assert time.monotonic() - since < 120
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    out, err = second.communicate(timeout=200)
    assert second.returncode == 0, out + err
    assert tree(root) == tree(alone)


def in_a_small_disk(folder, script):
    """Run a shell script as root of its own mount namespace, where a disk of 1 MiB stands at `folder`."""
    mounted = f"mount -t tmpfs -o size=1m tmpfs '{folder}' && {script}"
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


needs_mounts = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True).returncode != 0,
    reason="no mount namespaces here",
)

FILLS = """
import sys
from pathlib import Path
from datamodules.language.cache.entry import CacheEntry
from tests.support.places import ROOT

root, room = sys.argv[1], Path(sys.argv[1]) / "others"
entry = CacheEntry(root, "answers", {}, 6)

def make(shard, check):
    return {entry: {f"shard-{shard:05d}.bin": bytes([shard]) * 120_000}}

def crowded(shard, check):
    if shard == 3:
        room.write_bytes(bytes(600_000))  # of others, after the estimate
    return make(shard, check)

entry.require_room(120_000)
try:
    entry.build(crowded, lambda shard: None)
except OSError as error:
    print(f"error: {error}", entry.list_missing(), [path.name for path in Path(root).rglob("*.tmp")])
    room.unlink()
    entry = CacheEntry(root, "answers", {}, 6)
    made = []
    entry.build(lambda shard, check: made.append(shard) or make(shard, check), lambda shard: None)
    print(made, entry.list_missing(), [len(entry.check_files(shard)) for shard in range(6)])
"""


@needs_mounts
def test_a_disk_that_fills_up_is_one_line_and_the_next_run_goes_on(tmp_path):
    done = in_a_small_disk(tmp_path, f"'{sys.executable}' -c '{FILLS}' '{tmp_path}'")
    assert done.returncode == 0, done.stderr
    told, after = done.stdout.splitlines()
    # Whether the folder of the shard still finds room, or only its file does not, is the system's choice.
    expected = (
        r"expected (room for 0.1 MB at|a folder that can be written, got) .* \(No space left on device\); free some"
    )
    assert re.search(rf"error: cache.root: {expected}", told)
    assert told.endswith("[3, 4, 5] []")
    assert after == "[3, 4, 5] [] [1, 1, 1, 1, 1, 1]"


@needs_mounts
def test_a_disk_that_is_too_small_is_refused_before_the_first_forward(tiny_model, questions_csv, tmp_path):
    build = " ".join(f"'{part}'" for part in command("build", tiny_model, questions_csv, tmp_path / "cache"))
    full = f"head -c 1019904 /dev/zero > '{tmp_path}/others'"
    done = in_a_small_disk(tmp_path, f"{full} && {build}")
    assert done.returncode == 1
    assert re.search(
        r"OSError: cache.root: expected [\d.]+ MB of free space for .*answers.*, got 0.0 MB; free some", done.stderr
    )


@needs_mounts
def test_a_whole_cache_that_cannot_be_written_can_be_read(killed, tiny_model, questions_csv, tmp_path):
    """A read-only mount stops root too; what is missing there is refused in one line."""
    _, alone = killed
    whole, part = (shutil.copytree(alone, tmp_path / name) for name in ("whole", "part"))
    next(part.glob("activations/*/shard-00002.json")).unlink()
    frozen = (f"mount --bind '{root}' '{root}' && mount -o remount,ro,bind '{root}'" for root in (whole, part))
    run = " ".join(f"'{word}'" for word in command("build", tiny_model, questions_csv, whole, part))
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"{' && '.join(frozen)} && {run}"],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.stdout.startswith(f"built {whole}\n")
    assert f"built {part}" not in done.stdout
    assert done.returncode == 1
    assert re.search(r"OSError: cache.root: expected a folder that can be written, got .*Read-only", done.stderr)
    assert len(records(whole)) == 10
    assert len(records(part)) == 9
