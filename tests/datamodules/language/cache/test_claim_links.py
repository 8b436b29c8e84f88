"""Claims are links to whole files, where the file system has links."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from datamodules.language.cache import claim
from datamodules.language.cache.claim import Claim
from tests.datamodules.language.cache.test_claim import (
    HOLDER,
    SHARDS,
    build_in_threads,
    have_local_locks,
    have_no_locks,
    machines,
)
from tests.support.places import ROOT

__all__ = ["machines"]  # a fixture


def have_no_links(monkeypatch, number=errno.EPERM):
    def link(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("number", claim.NO_LINKS)
def test_machines_without_links_make_each_shard_once(tmp_path, monkeypatch, machines, number):
    have_local_locks(monkeypatch)
    have_no_links(monkeypatch, number)
    made = build_in_threads(tmp_path)
    assert sorted(shard for shard, _ in made) == list(range(SHARDS))


def test_a_claim_names_its_owner_from_the_moment_it_is_there(tmp_path, monkeypatch):
    link, whole = os.link, []

    def watched(source, target):
        assert not target.exists()
        link(source, target)
        whole.append(json.loads(target.read_bytes())["pid"])

    monkeypatch.setattr(os, "link", watched)
    mine = Claim(tmp_path, "shard-00000")
    assert mine.take()
    assert whole == [os.getpid()]
    mine.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-00000.claim-0", "shard-00000.lock"]


def test_a_process_killed_while_it_makes_a_claim_holds_up_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "STALE", 1e9)
    die = "import os, signal\nos.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    killed = subprocess.run([sys.executable, "-c", die + HOLDER, str(tmp_path), "no locks"], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    have_no_locks(monkeypatch)
    mine = Claim(tmp_path, "shard-00000")
    assert mine.take()
    mine.release()
