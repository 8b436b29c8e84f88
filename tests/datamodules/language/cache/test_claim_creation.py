"""How a claim file comes into being: with its owner, on file systems with links and without."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from datamodules.language.cache import claim
from datamodules.language.cache.claim import Claim
from tests.datamodules.language.cache.test_claim import SHARDS, build_in_threads, have_no_locks
from tests.support.places import ROOT


def have_no_links(monkeypatch, number=errno.EPERM):
    def link(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("number", claim.NO_LINKS)
def test_builders_without_links_make_each_shard_once(tmp_path, monkeypatch, number):
    have_no_links(monkeypatch, number)
    made = build_in_threads(tmp_path)
    assert sorted(shard for shard, _ in made) == list(range(SHARDS))


def test_another_failure_of_a_link_is_told(tmp_path, monkeypatch):
    have_no_links(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        Claim(tmp_path, "shard-00000").take()
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_link_whose_reply_was_lost_is_ours(tmp_path, monkeypatch):
    make = os.link

    def link(source, target):
        make(source, target)
        make(source, target)  # asked again: it exists

    monkeypatch.setattr(os, "link", link)
    first, second = Claim(tmp_path, "shard-00000"), Claim(tmp_path, "shard-00000")
    assert first.take()
    assert not second.take()
    first.release()
    assert not list(tmp_path.glob(".*.tmp"))


KILLED = """
import os, signal, sys
from pathlib import Path
from datamodules.language.cache.claim import Claim
make = os.link
def link(*names):
    if sys.argv[2] == "after":
        make(*names)
    os.kill(os.getpid(), signal.SIGKILL)
os.link = link
Claim(Path(sys.argv[1]), "shard-00000").take()
"""


@pytest.mark.parametrize(("moment", "claims"), [("before", []), ("after", ["shard-00000.claim-0"])])
def test_a_process_killed_while_it_claims_holds_nobody_up(tmp_path, monkeypatch, moment, claims):
    """There is no claim without its owner, with locks that count or without."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), moment], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob("shard-*.claim-*")] == claims
    assert [json.loads(path.read_bytes()).keys() for path in tmp_path.glob("shard-*.claim-*")] == [
        {"host", "machine", "space", "pid"} for _ in claims
    ]
    monkeypatch.setattr(claim, "STALE", 1e9)
    have_no_locks(monkeypatch)
    other = Claim(tmp_path, "shard-00000")
    assert other.take()
    other.release()


@pytest.mark.parametrize("links", ["links", "no links"])
@pytest.mark.parametrize(
    ("module", "name", "failure"),
    [(os, "fdopen", OSError(errno.ENOSPC, "no space")), (threading.Thread, "start", RuntimeError("no new thread"))],
)
def test_a_claim_that_fails_is_over_at_once(tmp_path, monkeypatch, module, name, failure, links):
    def fail(*_, **__):
        raise failure

    if links == "links":  # then nothing is written through a descriptor
        name = name.replace("fdopen", "link")
    failing = Claim(tmp_path, "shard-00000")
    with monkeypatch.context() as patch:
        if links == "no links":
            have_no_links(patch)
        patch.setattr(module, name, fail)
        with pytest.raises(type(failure), match=str(failure.args[-1])):
            failing.take()
    again = Claim(tmp_path, "shard-00000")
    assert again.take()
    again.release()
