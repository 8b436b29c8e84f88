import csv
import json

import pytest
import torch
from safetensors.torch import save_file

from datamodules.card import Card
from datamodules.precomputed import PrecomputedDataModule
from datamodules.split import GroupSplit
from datamodules.stream.blocks import ExampleBlocks
from tests.support.runs import fork
from tests.support.trainers import stand_in

N, L, T, D = 300, 2, 3, 8


def tensors(dtype=torch.float32):
    """Labels that cell (1, 2) tells and others do not; the last position is absent in every fourth example."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (N,), generator=generator)
    acts = torch.randn(N, L, T, D, generator=generator)
    acts[:, 1, 2, 0] += 4 * labels
    valid = torch.ones(N, T, dtype=torch.bool)
    valid[::4, 2] = False
    return {"acts": acts.to(dtype), "labels": labels, "valid": valid, "groups": torch.arange(N) // 2 * 10 - 5}


NAMES = {"layers": "[4, 8]", "positions": '["first", "last", "end"]', "model": "some/model", "dataset": "facts"}


def write(path, changes=None, metadata=None, **more):
    made = tensors(**more) | (changes or {})
    save_file({name: value for name, value in made.items() if value is not None}, path, metadata)
    return str(path)


def make(path, trainer=None, **changes):
    built = PrecomputedDataModule(**({"path": path, "split": GroupSplit()} | changes))
    built.trainer = trainer
    built.setup()
    return built


def card_of(path, **changes) -> Card:
    card = make(path, **changes).card
    assert card
    return card


@pytest.fixture
def path(tmp_path):
    return tmp_path / "own.safetensors"


def test_the_card_has_what_is_known(path):
    card = card_of(write(path, metadata=NAMES | {"site": "resid_mid", "target": "truth"}))
    assert Card.from_json(json.loads(json.dumps(card.to_json(), allow_nan=False))) == card
    assert (card.model, card.revision, card.dataset, card.site) == ("some/model", None, "facts", "resid_mid")
    assert card.layers == (4, 8)
    assert card.positions == ("first", "last", "end")
    assert card.shape == (1, L, T, D)
    assert card.n_valid == (300, 300, 225)
    assert card.coincidence is None
    assert card.classes == ("labelled 0", "labelled 1")
    assert card.cache == {}
    (target,) = card.targets
    assert (target.name, target.label, target.seed) == ("truth", "truth", 0)
    shares = [target.counts[name] for name in ("train", "val", "test")]
    assert sum(share.n for share in shares) == N
    assert sum(share.n_positive for share in shares) == int(tensors()["labels"].sum())


def test_names_by_default(path):
    card = card_of(write(path, {"valid": None, "groups": None}))
    assert card.layers == (0, 1)
    assert card.positions == ("position 0", "position 1", "position 2")
    assert (card.dataset, card.model, card.site) == ("own", "precomputed", "activations")
    assert [target.name for target in card.targets] == ["label 1"]
    assert card.n_valid == (300, 300, 300)


def test_a_position_that_nobody_has(path):
    valid = torch.ones(N, T, dtype=torch.bool)
    valid[:, 1] = False
    card = card_of(write(path, {"valid": valid}))
    assert card.n_valid == (300, 0, 300)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_blocks_hold_what_the_file_holds(path, dtype):
    datamodule = make(write(path, dtype=dtype), block_bytes=1)
    saved, seen = tensors(dtype), []
    for name in ("train", "val", "test"):
        rows = datamodule.targets.rows(name)
        blocks = list(getattr(datamodule, f"{name}_dataloader")())
        assert len(blocks) == L * T
        for block in blocks:
            layer, position = divmod(int(block["cells"]), T)
            assert block["acts"].dtype == dtype
            assert torch.equal(block["valid"], saved["valid"][rows, position][None, None])
            kept = block["valid"][0, 0]
            assert torch.equal(block["acts"][0][kept], saved["acts"][rows, layer, position][kept])
            assert torch.equal(block["labels"], saved["labels"][None, rows])
            assert torch.equal(block["groups"], torch.from_numpy(rows) // 2)
            assert block["held"].tolist() == [[True] * len(rows)]
            assert block["examples"].tolist() == rows.tolist()
        seen += rows.tolist()
    assert sorted(seen) == list(range(N))


def test_groups_are_not_parted(path):
    targets = make(write(path)).targets
    sides = [set((targets.rows(name) // 2).tolist()) for name in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == N // 2


def test_without_groups_each_row_is_one(path):
    datamodule = make(write(path, {"groups": None}))
    for block in datamodule.train_dataloader():
        assert block["groups"].tolist() == datamodule.targets.rows("train").tolist()


def test_groups_of_other_dtypes(path):
    plain = make(write(path)).targets.rows("test").tolist()
    for dtype in (torch.float32, torch.bfloat16, torch.int16):
        groups = (torch.arange(N) // 2).to(dtype)
        same = (groups.double() == torch.arange(N) // 2).all()
        assert (make(write(path, {"groups": groups})).targets.rows("test").tolist() == plain) == same


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32, torch.bfloat16])
def test_labels_of_any_dtype(path, dtype):
    labels = tensors()["labels"]
    datamodule = make(write(path, {"labels": labels.to(dtype)}))
    block = next(iter(datamodule.test_dataloader()))
    assert block["labels"].dtype == torch.int64
    assert torch.equal(block["labels"], labels[None, datamodule.targets.rows("test")])


def test_batches_for_training_only(path):
    datamodule = make(write(path), batch_size=64, seed=3)
    train = datamodule.train_dataloader()
    assert isinstance(train, ExampleBlocks)
    assert train.seed == 3
    assert next(iter(train))["acts"].shape == (L * T, 64, D)
    n = len(datamodule.targets.rows("val"))
    assert all(block["labels"].shape == (1, n) for block in datamodule.val_dataloader())


def test_ranks_deal_batches_and_cells(path):
    datamodule = make(write(path), batch_size=64)
    cells, rows = [], 0
    for rank in range(2):
        datamodule.trainer = stand_in(rank, 2)  # type: ignore[assignment]
        rows += sum(block["labels"].shape[1] for block in datamodule.train_dataloader())
        cells += [cell for block in datamodule.test_dataloader() for cell in block["cells"].tolist()]
    assert rows == len(datamodule.targets.rows("train"))
    assert sorted(cells) == list(range(L * T))


def test_too_few_of_a_class_are_told(path, caplog):
    labels = torch.zeros(N, dtype=torch.int64)
    labels[:40] = 1
    make(write(path, {"labels": labels}))
    assert "split: val has 6 labelled 1 and 40 labelled 0; take more examples" in caplog.text
    assert "split: train" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"acts": None}, r"expected a tensor acts \[N, L, T, D\], got groups, labels, valid; write it under that name"),
        ({"labels": None}, r"expected a tensor labels \[N\], got acts, groups, valid; write it under that name"),
        ({"acts": torch.zeros(N, D)}, r"expected acts \[N, L, T, D\], none of them 0, got \[300, 8\]; reshape it"),
        ({"acts": torch.zeros(N, 0, T, D)}, r"expected acts .*, got \[300, 0, 3, 8\]; reshape it"),
        (
            {"acts": torch.zeros(N, L, T, D).int()},
            "expected acts in float16, .* or float64, got torch.int32; convert it",
        ),
        (
            {"labels": torch.zeros(299)},
            r"expected labels \[N\] = \[300\] beside acts \[N, L, T, D\] = \[300, 2, 3, 8\], got \[299\]; give",
        ),
        ({"labels": torch.zeros(N, 1)}, r"expected labels \[N\] = \[300\] .*, got \[300, 1\]"),
        ({"groups": torch.zeros(3)}, r"expected groups \[N\] = \[300\] beside .*, got \[3\]"),
        ({"groups": torch.full((N,), torch.nan)}, "expected groups as numbers, got NaN; give each example one"),
        ({"valid": torch.ones(N, L).bool()}, r"expected valid \[N, T\] = \[300, 3\] beside .*, got \[300, 2\]"),
        ({"valid": torch.ones(N, T)}, "expected valid in bool, got torch.float32; convert it"),
        ({"labels": torch.arange(N)}, "expected labels 0 and 1, got 2 in row 2; map them to these"),
        ({"labels": torch.full((N,), 0.5)}, "expected labels 0 and 1, got 0.5 in row 0"),
        ({"labels": torch.full((N,), torch.nan)}, "expected labels 0 and 1, got nan in row 0"),
        ({"labels": torch.ones(N)}, "expected labels 0 and 1, got 1 in all 300 rows; add examples of the other"),
    ],
)
def test_a_file_that_does_not_fit(path, changes, line):
    with pytest.raises(ValueError, match=f"own.safetensors: {line}"):
        make(write(path, changes))


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        (
            {"layers": "4, 8"},
            "expected metadata layers as a JSON list of L whole numbers, 2 different ones, got 4, 8; write",
        ),
        ({"layers": "[4]"}, r"metadata layers as .*, got 1 entries, \[4\]; write it with json.dumps, or leave it out"),
        ({"layers": "[4, 4]"}, r"2 different ones, got 2 entries, \[4, 4\]"),
        ({"layers": "[4, true]"}, r"2 different ones, got 2 entries, \[4, true\]"),
        ({"layers": "8"}, "2 different ones, got 8"),
        (
            {"positions": '["a", "b"]'},
            r'positions as a JSON list of T strings, 3 different ones, got 2 entries, \["a",',
        ),
        ({"positions": "[1, 2, 3]"}, "list of T strings"),
        ({"positions": "a b c"}, "list of T strings"),
        ({"positions": "[" * 100_000}, r"list of T strings, 3 different ones, got \[\.\.\.\]; write"),
        ({"positions": json.dumps(["a", "b", "c" * 5000])}, "at most 200 characters in metadata positions, got one of"),
        ({"model": "m" * 5000}, "names of at most 200 characters in metadata model, got one of 5,000, mm"),
    ],
)
def test_names_that_do_not_fit(path, metadata, line):
    with pytest.raises(ValueError, match=f"own.safetensors: .*{line}"):
        make(write(path, metadata=metadata))


def test_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"expected a safetensors file, got .*absent: no such file"):
        make(str(tmp_path / "absent"))


@pytest.mark.parametrize(("name", "value"), [("block_bytes", 0), ("batch_size", -1)])
def test_numbers_that_make_no_sense(path, name, value):
    with pytest.raises(ValueError, match=f"datamodule.{name}: expected a whole number above 0, or null, got {value}"):
        make(write(path), **{name: value})


def test_a_run_from_file_to_heatmap(path, tmp_path):
    """As a person starts it; nothing of a language model is imported to be run, and the telling cell is found."""
    write(path, metadata=NAMES)
    process = fork(tmp_path, "datamodule=precomputed", f"datamodule.path={path}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert not (tmp_path / "cache").exists()
    rows = list(csv.DictReader((tmp_path / "run/heatmap.csv").read_text().splitlines()))
    auc = {(row["layer"], row["position"]): float(row["auc"]) for row in rows if row["split"] == "test"}
    assert len(auc) == L * T
    assert auc["8", "end"] > 0.95
    assert sorted(auc.values())[-2] < 0.8
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["model"] == "some/model"
    assert summary["reading"]["best_cells"][0]["position"] == "end"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], ""),
        (["probe=minibatch", "trainer.max_epochs=12"], "nothing was validated: all 12 epochs are run"),
        (["trainer=ddp_cpu"], ""),
    ],
)
def test_a_run_without_validation_rows(overrides, said, path, tmp_path):
    """From start to heatmap, with no validation map and no word too many; early stopping finds nothing to stop by."""
    write(path, metadata=NAMES)
    process = fork(tmp_path, "datamodule=precomputed", f"datamodule.path={path}", "split.val=0", *overrides)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err.count("split: no val rows, as split.val is 0") == 1
    assert said in out
    assert "Warning" not in err
    assert "across ranks is zero" not in err
    rows = list(csv.DictReader((tmp_path / "run/heatmap.csv").read_text().splitlines()))
    assert {row["split"] for row in rows} == {"test"}
    auc = {(row["layer"], row["position"]): float(row["auc"]) for row in rows}
    assert max(auc, key=lambda cell: auc[cell]) == ("8", "end")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["val"] is None
    (target,) = summary["targets"]
    assert target["counts"]["val"] == {"n": 0, "n_positive": 0, "n_groups": 0}
    assert target["counts"]["train"]["n"] + target["counts"]["test"]["n"] == N
    assert (tmp_path / "run/heatmap.png").exists()
