"""`python train.py --help`."""

import re
import subprocess
import sys

from probes.jobs.command.help import GROUPS
from tests.support.places import ROOT
from tests.support.runs import TRAIN


def test_the_help_explains_each_group_and_lists_its_choices(tmp_path):
    (tmp_path / "mine" / "positions").mkdir(parents=True)
    (tmp_path / "mine" / "positions" / "ours.yaml").write_text("defaults: [paper]\n")
    arguments = [sys.executable, str(TRAIN), "--config-dir", "mine", "--help"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shown = dict(re.findall(r"^(\w+) {2,}(.+\n(?: {16}.+\n)+)", done.stdout, re.MULTILINE))
    groups = {path.parent.name for path in (ROOT / "conf").glob("*/*.yaml")}
    assert set(shown) == groups
    for group, text in shown.items():
        line, choices = text.split("\n", 1)
        assert line == GROUPS[group]
        there = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} | (
            {"ours"} if group == "positions" else set()
        )
        assert set(re.split(r",\s+", choices.strip())) == there
    assert len(re.findall(r"^  python train\.py", done.stdout, re.MULTILINE)) == 3
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert list(shown) == [group for group in GROUPS if group in groups]
