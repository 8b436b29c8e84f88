import io
import os
import time
from typing import Any

import pytest
from rich.console import Console

from datamodules.language.cache import inventory, removal
from datamodules.language.cache.entry import CacheEntry
from datamodules.language.cache.inventory import list_entries, show_cache


def entry(root, kind, n_shards, made, **content):
    built = CacheEntry(root, kind, content, n_shards, {"model": "m", "dataset": "d", "examples": 1500})
    for shard in range(made):
        built.offer(shard, {f"shard-{shard:05d}.bin": bytes(1000)}, wait=True)
    return built


@pytest.fixture
def root(tmp_path):
    """A cache of three entries, used one after the other."""
    folder = tmp_path / "cache"
    for age, built in enumerate(
        [
            entry(folder, "answers", 2, 2),
            entry(folder, "activations", 3, 1, site="z"),
            entry(folder, "activations", 1, 1, site="mlp_out"),
        ]
    ):
        used = time.time() - 86400 * (age + 1)
        os.utime(built.folder / ".local" / "used", (used, used))
    return folder


def show(root, *prune, typed: Any = (), monkeypatch: Any = None):
    console = Console(file=io.StringIO(), width=120)

    def ask(text, markup):
        console.print(text, markup=markup)
        if typed is None:
            raise EOFError
        return typed

    if typed != ():
        monkeypatch.setattr(inventory.sys, "stdin", type("", (), {"isatty": lambda _: True})())
        monkeypatch.setattr(console, "input", ask)
    show_cache(str(root), list(prune) or None, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_entry_is_listed_the_last_used_first(root):
    entries = list_entries(root)
    assert [(e.folder.parent.name, e.state, e.manifest.get("site")) for e in entries] == [
        ("answers", "whole", None), ("activations", "1 of 3", "z"), ("activations", "whole", "mlp_out"),
    ]  # fmt: skip
    assert [e.bytes // 1000 for e in entries] == [2, 1, 1]
    lines = show(root).splitlines()
    assert "3 entries" in lines[0]
    assert lines[2].split()[:6] == [entries[0].folder.name[:10], "m", "d", "answers", "1,500", "2"]


def test_opening_an_entry_is_using_it(root):
    oldest = list_entries(root)[-1]
    entry(root, "activations", 1, 0, site="mlp_out")
    assert list_entries(root)[0].folder == oldest.folder


def test_entries_are_removed_by_key_or_its_first_characters(root):
    first, second, third = list_entries(root)
    assert "Removed 2 of 3 entries" in show(root, first.folder.name, third.folder.name[:6])
    assert [e.folder for e in list_entries(root)] == [second.folder]
    assert [path.name for path in first.folder.parent.iterdir()] == []


@pytest.mark.parametrize(("typed", "left"), [("y", 2), (" YES", 2), ("n", 3), ("", 3), (None, 3)])
def test_on_a_terminal_it_asks_first(root, typed, left, monkeypatch):
    shown = show(root, list_entries(root)[0].folder.name, typed=typed, monkeypatch=monkeypatch)
    assert "Remove 1 of 3 entries, 2 kB? [y/N]" in shown
    assert len(list_entries(root)) == left


@pytest.mark.parametrize(
    ("key", "text"), [("none", "got 'none', which none has"), ("", "got '', which none has"), (12, "number 12")]
)
def test_a_key_that_names_no_entry_removes_nothing(root, key, text):
    with pytest.raises(ValueError, match=text):
        show(root, list_entries(root)[0].folder.name, key)
    assert len(list_entries(root)) == 3


def test_a_key_that_several_begin_with_removes_nothing(root, monkeypatch):
    monkeypatch.setattr(inventory, "SHORTEST", 0)
    with pytest.raises(ValueError, match="got '', which 3 have"):
        show(root, "")


def test_an_entry_that_a_run_uses_is_not_removed(root):
    other, _, third = list_entries(root)
    busy = entry(root, "activations", 1, 0, site="mlp_out")
    with pytest.raises(ValueError, match=f"expected entries that no run is using, got {third.folder.name}"):
        show(root, other.folder.name, third.folder.name)
    assert len(list_entries(root)) == 3
    del busy
    show(root, other.folder.name, third.folder.name)
    assert len(list_entries(root)) == 1


def test_a_removal_that_was_cut_short_is_finished_by_the_next(root):
    cut = list_entries(root)[0].folder
    key, kind = cut.name, cut.parent
    cut.rename(kind / f".{key}.0{removal.REMOVED}")
    entry(root, "answers", 2, 2)
    assert len(list_entries(root)) == 3
    assert "Removed 1 of 3" in show(root, key)
    assert list(kind.iterdir()) == []


def test_what_a_removal_left_is_shown(root):
    cut = list_entries(root)[0].folder
    left = cut.rename(cut.with_name(f".{cut.name}.0{removal.REMOVED}"))
    assert f"{left}: left by a removal that was cut short" in show(root)


def test_of_an_entry_that_is_a_link_the_link_is_removed(root, tmp_path):
    moved, other, _ = (e.folder for e in list_entries(root))
    elsewhere = moved.rename(tmp_path / "larger disk")
    moved.symlink_to(elsewhere)
    shown = show(root, moved.name)
    assert f"{elsewhere}: a link led there; its files were left alone: rm -r '{elsewhere}' removes them" in shown
    assert not moved.is_symlink()
    assert (elsewhere / "manifest.json").exists()
    assert "Removed 1 of 2" in show(root, other.name)  # nothing stands in the way of the next removal


def test_what_cannot_be_removed_keeps_nothing_else_from_it(root, monkeypatch):
    stuck, other, _ = (e.folder for e in list_entries(root))
    rmtree = removal.shutil.rmtree

    def refuse(folder):
        if stuck.name in folder.name:
            raise PermissionError(13, "Permission denied", str(folder / "file"))
        rmtree(folder)

    monkeypatch.setattr(removal.shutil, "rmtree", refuse)
    shown = show(root, stuck.name, other.name)
    assert "/file: not removed (Permission denied); remove it by hand" in shown
    assert len(list_entries(root)) == 1
    assert len(removal.list_leftovers(root)) == 1


def test_what_is_no_entry_is_not_listed(root):
    for name in ("answers/.hidden", "other/key"):
        (root / name).mkdir(parents=True)
        (root / name / "manifest.json").write_text("{}")
    assert len(list_entries(root)) == 3
    assert "3 entries, 4 kB" in show(root).replace("5 kB", "4 kB")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"about": []}', '{"about": {"examples": null}}'])
def test_an_entry_without_a_readable_manifest_can_be_seen_and_removed(root, content):
    broken = list_entries(root)[0].folder
    (broken / "manifest.json").write_text(content)
    assert "?" in show(root)
    show(root, broken.name)
    assert len(list_entries(root)) == 2


def test_an_empty_cache_is_shown(tmp_path):
    assert "0 entries, 0 B" in show(tmp_path / "none")
