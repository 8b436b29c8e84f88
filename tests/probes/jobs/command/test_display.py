"""A terminal that is gone, full or knows no accents ends no run."""

import subprocess
import sys

import pytest

from tests.support.places import ROOT

PROGRAM = """
import sys
from probes.jobs.command.display import print_leniently
print_leniently()
print("café •", flush=True)
print("a line", file=sys.stderr)
for _ in range(3000):
    print("x" * 100)
open(sys.argv[1], "w").write("done")
"""


def say(folder, redirection, **environment):
    """Run the program in a shell; returns its status, what it has shown, and whether it came to its end."""
    command = f'set -o pipefail; "{sys.executable}" -c "$0" "$1" {redirection}'
    done = subprocess.run(
        ["bash", "-c", command, PROGRAM, str(folder / "file")],
        cwd=ROOT, capture_output=True, env={"PATH": "/usr/bin:/bin", **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr, (folder / "file").read_text() == "done"


@pytest.mark.parametrize(
    ("redirection", "shown", "said"),
    [
        ("| head -1", "café •\n".encode(), b"a line\n"), (">/dev/full", b"", b"a line\n"),
        (">/dev/full 2>/dev/full", b"", b""), (">&-", b"", b"a line\n"), (">&- 2>&-", b"", b""),
        ("2>&1 | head -1", "café •\n".encode(), b""),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_dropped(redirection, shown, said, tmp_path):
    assert say(tmp_path, redirection, PYTHONUTF8="1") == (0, shown, said, True)


def test_a_letter_that_the_encoding_lacks(tmp_path):
    status, shown, _, ended = say(tmp_path, "| head -1", PYTHONIOENCODING="ascii")
    assert (status, shown, ended) == (0, b"caf? ?\n", True)
