"""Activations of more positions or layers serve a run that wants fewer."""

import fcntl
import json
import os
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from datamodules.language.cache import entry as cache_entry
from datamodules.language.cache.cached_activations import digest_positions
from datamodules.language.cache.entry import CacheEntry, compute_key
from datamodules.language.cache.inventory import list_entries, show_cache
from datamodules.language.cache.shards import count_shards
from datamodules.language.generation import Answer
from datamodules.language.positions import Positions
from datamodules.language.running_model import RunningModel
from datamodules.language.stages import LanguageModelStages
from datamodules.questions.files import FileQuestions
from datamodules.stream.store import Shards
from tests.support.activations import make
from tests.support.positions import shipped

COLOURS = FileQuestions(path="colours.csv")
N, NAMES = 300, ["last_q", "mean", "end", "first"]


def random_examples(seed=0):
    """Answers, and tokens [N, 4, 2] and valid [N, 4] of positions as NAMES has them."""
    draw = torch.Generator().manual_seed(seed)
    answers, tokens = [], torch.zeros(N, 4, 2, dtype=torch.long)
    for i in range(N):
        n, m = (int(torch.randint(2, 9, (1,), generator=draw)) for _ in range(2))
        ids = torch.randint(3, 300, (n + m,), generator=draw).tolist()
        answers.append(Answer(ids[:n], ids[n:], [0.0] * m, "stop", ""))
        tokens[i] = torch.tensor([[n - 1, n - 1], [n, n + m - 1], [n + m - 1, n + m - 1], [n, n]])
    valid = torch.rand(N, 4, generator=draw) > 0.2
    return answers, tokens * valid[:, :, None], valid


ANSWERS, TOKENS, VALID = random_examples()


def capture(model, root, columns=(0, 1, 2, 3), layers=(0, 1, 2), sites=("resid_post",), names=None, **changes):
    columns = list(columns)
    wanted: dict[str, Any] = {
        "ids": [str(i) for i in range(N)], "answers": ANSWERS, "names": names or [NAMES[t] for t in columns],
        "tokens": TOKENS[:, columns], "valid": VALID[:, columns], "sites": list(sites), "layers": list(layers),
    }  # fmt: skip
    with LanguageModelStages(model, COLOURS, str(root), torch.device("cpu"), quiet=False) as stages:
        return stages.capture(**wanted | changes)


def read(cached):
    store = Shards(cached.files, cached.positions)
    n, L, T, D = store.shape
    out = torch.full((L * T, n, D), torch.nan).to(store.dtype)
    store.read(torch.arange(L * T).numpy(), torch.arange(n).numpy(), out)
    return out


def keys(root):
    return sorted(path.name for path in (root / "activations").iterdir())


@pytest.fixture(scope="module")
def whole(language_model, tmp_path_factory):
    """A cache with all four positions and three layers of one site."""
    root = tmp_path_factory.mktemp("whole")
    capture(language_model, root)
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "cache")


@pytest.fixture
def unloadable(monkeypatch):
    monkeypatch.setattr(RunningModel, "network", property(lambda _: pytest.fail("the model was loaded")))


@pytest.mark.parametrize(
    ("columns", "layers", "names"),
    [
        ((0, 1, 2, 3), (1,), None),
        ((2,), (0, 1, 2), None),
        ((3, 0), (2, 0), None),
        ((1, 2), (1,), ["average", "-1"]),
        ((2, 2, 0), (0, 1, 2), ["end", "again", "last_q"]),
    ],
    ids=["fewer layers", "one position", "another order", "other names", "one position twice"],
)
def test_fewer_are_read_from_what_holds_more_and_are_those_read_alone(
    language_model, root, columns, layers, names, tmp_path, monkeypatch, caplog
):
    alone = read(capture(language_model, tmp_path / "alone", columns, sorted(layers), names=names))
    before = keys(root)
    monkeypatch.setattr(RunningModel, "network", property(lambda _: pytest.fail("the model was loaded")))
    with caplog.at_level("INFO"):
        cached = capture(language_model, root, columns, sorted(layers), names=names)
    assert torch.equal(read(cached), alone)
    assert alone.any()
    assert keys(root) == before
    assert caplog.messages[-1] == (
        f"resid_post: 300 reused from {cached.entry.folder} "
        f"({len(columns)} of its 4 positions, {len(layers)} of its 3 layers)"
    )


def test_an_entry_of_its_own_is_taken_first(language_model, whole, root, unloadable, caplog):
    with caplog.at_level("INFO"):
        cached = capture(language_model, root)
    assert cached.positions == [0, 1, 2, 3]
    assert caplog.messages[-1] == f"resid_post: 300 reused from {cached.entry.folder}"


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [0, 3]},
        {"columns": (0, 1, 2), "tokens": TOKENS[:, :3].flip(0)},
        {"columns": (0, 1, 2), "valid": VALID[:, 1:]},
        {"columns": (0, 1), "answers": ANSWERS[::-1]},
        {"columns": (0, 1), "sites": ["resid_pre"]},
        {"columns": (0, 1), "model": {"dtype": "bfloat16"}},
        {"columns": (0, 1), "dataset": True},
    ],
    ids=["layer", "tokens", "valid", "sequences", "site", "model", "dataset"],
)
def test_what_holds_something_else_does_not_serve(language_model, root, changes, monkeypatch):
    changes = dict(changes)
    model = replace(language_model, **changes.pop("model", {}))
    if changes.pop("dataset", False):
        monkeypatch.setattr(FileQuestions, "identify", lambda self: {"rows": "others"})

    def load(_):
        raise InterruptedError("the model is loaded")

    monkeypatch.setattr(RunningModel, "network", property(load))
    with pytest.raises(InterruptedError):
        capture(model, root, **changes)


def test_what_lacks_a_shard_does_not_serve(language_model, root, caplog):
    (entry,) = (root / "activations").iterdir()
    (entry / "shard-00001.json").unlink()
    cached = capture(language_model, root, [0], [1])
    assert cached.entry.folder != entry
    assert len(keys(root)) == 2
    assert not [record for record in caplog.records if record.levelname == "WARNING"]  # nothing is wrong with it


@pytest.mark.parametrize("harm", ["unlink", "alter"])
def test_what_has_a_damaged_file_does_not_serve_and_is_named(language_model, root, harm, caplog):
    (entry,) = (root / "activations").iterdir()
    path = entry / "layer=02" / "shard-00001.safetensors"
    path.unlink() if harm == "unlink" else path.write_bytes(bytes(path.stat().st_size))
    with caplog.at_level("WARNING"):
        cached = capture(language_model, root, [0], [1])
    assert cached.entry.folder != entry
    assert f"cache: shard {path} is" in caplog.text


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_text(""),
        lambda path: path.write_text(path.read_text()[:300]),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: edit(path, cache=cache_entry.VERSION + 1),
        lambda path: edit(path, layers=[0, 1, 2, 3]),
        lambda path: edit(path, model={}),
        lambda path: edit(path, contains={"positions": ["x"]}),
        lambda path: edit(path, contains={"positions": [{}, [], None, 3]}),
        lambda path: edit(path, contains=[]),
        lambda path: path.unlink(),
    ],
)
def test_damaged_manifests_are_passed_over(language_model, root, harm):
    (entry,) = (root / "activations").iterdir()
    harm(entry / "manifest.json")
    cached = capture(language_model, root, [0, 2], [1])
    assert cached.entry.folder != entry
    assert len(keys(root)) == 2


def test_an_entry_from_before_serves_fewer_layers_of_the_same_positions(language_model, root, unloadable):
    (entry,) = (root / "activations").iterdir()
    manifest = json.loads((entry / "manifest.json").read_text())
    del manifest["contains"]
    (entry / "manifest.json").write_text(json.dumps(manifest))
    assert capture(language_model, root, layers=[1]).entry.folder == entry


def test_of_several_the_one_that_holds_least_serves(language_model, root, tmp_path):
    (large,) = keys(root)
    small = capture(language_model, tmp_path / "other", [0, 2], [0, 1]).entry.folder
    shutil.copytree(small, root / "activations" / small.name)
    assert capture(language_model, root, [2], [1]).entry.key == small.name
    assert capture(language_model, root, [2], [2]).entry.key == large


def test_every_site_looks_on_its_own(language_model, root, tmp_path, caplog):
    with caplog.at_level("INFO"):
        first = capture(language_model, root, [1, 0], [1], sites=["resid_post", "z"])
        second = capture(language_model, root, [0, 2], [1], sites=["z", "resid_post"])
    assert [line.split(",")[0].split(" reused from")[0] for line in caplog.messages] == [
        "resid_post: 300", "z: 300 of 300 to make", "resid_post: 300", "z: 300 of 300 to make",
    ]  # fmt: skip
    assert len(keys(root)) == 3
    alone = capture(language_model, tmp_path / "alone", [1, 0], [1])
    assert torch.equal(read(first), read(alone))
    alone = capture(language_model, tmp_path / "alone", [0, 2], [1], sites=["z"])
    assert torch.equal(read(second), read(alone))


def test_what_serves_is_in_use_and_counts_as_used(language_model, root):
    (entry,) = (root / "activations").iterdir()
    os.utime(entry / ".local" / "used", (1, 1))
    cached = capture(language_model, root, [3], [0])
    assert list_entries(root)[0].used.timestamp() > 10**9
    with pytest.raises(ValueError, match="expected entries that no run is using"):
        show_cache(str(root), entry.name)
    with (entry / ".local" / "used").open() as used, pytest.raises(BlockingIOError):
        fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
    del cached
    show_cache(str(root), entry.name)
    assert list_entries(root) == []


def test_files_for_people_that_earlier_versions_left_in_an_entry_do_no_harm(language_model, root, unloadable):
    (entry,) = (root / "activations").iterdir()
    for name in ("labels.md", "exact_answers.html", "index.parquet"):
        (entry / name).write_bytes(bytes(100_000))
    assert capture(language_model, root).entry.folder == entry
    assert capture(language_model, root, [2], [1]).entry.folder == entry
    (listed,) = list_entries(root)
    assert (listed.state, listed.bytes > 300_000) == ("whole", True)
    show_cache(str(root), entry.name)
    assert keys(root) == []


def test_positions_are_told_apart_by_their_tokens_and_where_they_are():
    digests = digest_positions(TOKENS, VALID)
    assert len(set(digests)) == 4
    assert digest_positions(TOKENS[:, [2, 0]], VALID[:, [2, 0]]) == [digests[2], digests[0]]
    assert digest_positions(TOKENS[:, :1], ~VALID[:, :1]) != digests[:1]
    assert digest_positions(TOKENS[1:, :1], VALID[1:, :1]) != digests[:1]


def test_the_key_is_what_it_was(language_model, root):
    """Caches stay readable: what a manifest says of its positions is no part of the key."""
    (entry,) = (root / "activations").iterdir()
    manifest = json.loads((entry / "manifest.json").read_text())
    content = {key: value for key, value in manifest.items() if key not in ("cache", "about", "shards", "contains")}
    assert compute_key(content) == entry.name
    assert CacheEntry(root, "activations", content, count_shards(N)).list_missing() == []


def test_a_data_module_takes_fewer_positions_or_layers_from_the_same_cache(
    language_model, questions_csv, tmp_path, monkeypatch, caplog
):
    make(language_model, questions_csv, tmp_path / "cache").setup()
    exact: dict[str, Any] = {"positions": Positions(shipped("exact"))}
    one: dict[str, Any] = {"layers": [1]}
    alone = []
    for changes in (exact, one):
        alone.append(make(language_model, questions_csv, tmp_path / "alone", **changes))
        alone[-1].setup()
    monkeypatch.setattr(RunningModel, "network", property(lambda _: pytest.fail("the model was loaded")))
    for changes, expected, line in (
        (exact, alone[0], "(4 of its 15 positions, 3 of its 3 layers)"),
        (one, alone[1], "(15 of its 15 positions, 1 of its 3 layers)"),
    ):
        caplog.clear()
        with caplog.at_level("INFO"):
            served = make(language_model, questions_csv, tmp_path / "cache", **changes)
            served.setup()
        assert line in caplog.text
        assert served.card
        assert expected.card
        assert replace(served.card, cache={}) == replace(expected.card, cache={})
        for got, wanted in zip(served.test_dataloader(), expected.test_dataloader(), strict=True):
            assert got.keys() == wanted.keys()
            assert all(torch.equal(got[key], wanted[key]) for key in got)
