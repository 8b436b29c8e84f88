"""Activations in numpy's files: what a safetensors file gives, without pickle."""

import io
import json
import os
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.precomputed.arrays import Arrays
from datamodules.split import GroupSplit
from tests.datamodules.test_precomputed import L, N, T, card_of, make, tensors, write

NAMES = {"layers": [4, 8], "positions": ["first", "last", "end"], "model": "some/model", "site": "resid_mid"}


def arrays(dtype=torch.float32):
    return {name: tensor.numpy() for name, tensor in tensors(dtype).items()}


def write_npy(path, changes=None, names=None, dtype=torch.float32):
    for name, array in (arrays(dtype) | (changes or {})).items():
        if array is not None:
            np.save(path if name == "acts" else path.with_name(f"{path.stem}.{name}.npy"), array)
    if names is not None:
        path.with_name(f"{path.stem}.names.json").write_text(json.dumps(names))
    return str(path)


def write_npz(path, changes=None, names=None, dtype=torch.float32, save=np.savez):
    made = arrays(dtype) | (changes or {}) | (names or {})
    save(path, **{name: array for name, array in made.items() if array is not None})
    return str(path)


WRITERS = {"own.npy": write_npy, "own.npz": write_npz}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_blocks_and_card_are_those_of_a_safetensors_file(name, dtype, tmp_path):
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in NAMES.items()}
    theirs = make(write(tmp_path / "own.safetensors", metadata=metadata, dtype=dtype), block_bytes=1)
    ours = make(WRITERS[name](tmp_path / name, names=NAMES, dtype=dtype), block_bytes=1)
    assert ours.card == theirs.card
    for split in ("train", "val", "test"):
        blocks = (list(getattr(datamodule, f"{split}_dataloader")()) for datamodule in (ours, theirs))
        for mine, same in zip(*blocks, strict=True):
            assert all(torch.equal(mine[key], same[key]) for key in same)
            assert mine["acts"].dtype == dtype
    assert ours.make_table() == theirs.make_table()


def test_compressed_arrays_and_a_few_names(tmp_path):
    path = write_npz(
        tmp_path / "own.npz", {"valid": None, "groups": None}, {"layers": [3, 5]}, save=np.savez_compressed
    )
    card = card_of(path)
    assert (card.layers, card.positions) == ((3, 5), ("position 0", "position 1", "position 2"))
    assert (card.dataset, card.model) == ("own", "precomputed")


def test_label_sets(tmp_path):
    labels = arrays()["labels"]
    for name, writer in WRITERS.items():
        path = writer(tmp_path / name, {"labels": np.stack([labels, 1 - labels])}, {"targets": ["truth", "lie"]})
        assert [one.name for one in card_of(path, split=GroupSplit(seed=[0, 1])).targets][2] == "lie, seed 0"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_texts_are_what_they_are_in_memory(save, tmp_path):
    """Labels, groups and ids as texts, in both kinds of files and as `Arrays`."""
    held = arrays()
    words = np.array(["blue", "green", "red"])[np.arange(N) % 3]
    groups, ids = np.array([f"städte {i // 2}" for i in range(N)]), np.array([f"q{i}" for i in range(N)])
    changes = {"labels": words, "groups": groups, "ids": ids}
    theirs = make(Arrays(held["acts"], words, groups, held["valid"]))
    for name, writer in WRITERS.items():
        path = writer(tmp_path / name, changes, **({"save": save} if name.endswith("z") else {}))
        ours = make(path)
        for one in (ours, theirs):
            assert one.card
            assert [target.name for target in one.card.targets] == ["blue", "green", "red"]
        mine, same = (pq.read_table(io.BytesIO(one.make_table())).to_pylist() for one in (ours, theirs))
        assert [row.pop("id") for row in mine] == ids.tolist()
        assert mine == same
        assert {row["group"] for row in mine} == set(groups.tolist())
        path = writer(tmp_path / name, {"ids": np.arange(N) + 7})
        rows = pq.read_table(io.BytesIO(make(path).make_table())).column("id").to_pylist()
        assert rows == [str(i + 7) for i in range(N)]


class Trap:
    """Leaves a file where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


@pytest.mark.parametrize("name", WRITERS)
def test_pickles_are_not_opened(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in ("acts", "labels", "groups", "ids"):
        trap = np.array([Trap()] * N, dtype=object)
        path = WRITERS[name](tmp_path / name, {part: trap})
        with pytest.raises(ValueError, match=f"expected {part} as numbers or texts, got Python objects, which need pi"):
            make(path)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("changes", "names", "line"),
    [
        ({"acts": np.zeros((N, 8))}, None, r"expected acts \[N, L, T, D\], none of them 0, got \[300, 8\]; reshape it"),
        ({"acts": np.zeros((N, L, T, 8), "i4")}, None, "expected acts in float16, .*, got torch.int32; convert it"),
        (
            {"labels": np.zeros(3)},
            None,
            r"expected labels \[N\] = \[300\] beside acts .*, got \[3\]; give one for each",
        ),
        ({"labels": np.zeros(N)}, None, "expected labels 0 and 1, got 0 in all 300 rows"),
        ({"labels": np.array(["yes"] * N)}, None, "expected 2 to 50 different classes, got 1: yes; take a"),
        ({"labels": np.array([b"yes"] * N)}, None, "expected labels (as|in little-endian) numbers.*, got .S3; convert"),
        ({"labels": np.array([["yes"] * N])}, None, "expected labels (as|in little-endian) numbers.*, got <U3; conver"),
        ({"labels": np.array(["yes", "no"])}, None, r"expected labels \[N\] = \[300\] beside acts .*, got \[2\]; give"),
        (
            {"groups": np.array(["a", "b"])},
            None,
            r"expected groups \[N\] = \[300\] beside acts .*, got \[2\]; give one",
        ),
        ({"groups": np.array(["\ud800"] * N)}, None, "expected groups as texts that UTF-8 can hold, got others; corre"),
        ({"valid": np.array([["a"] * T] * N)}, None, "expected valid (as|in little-endian) numbers.*, got <U1; conver"),
        ({"ids": np.array(["a"] * N)}, None, "expected different ids, got 'a' in rows 0 and 1; give each example"),
        ({"ids": np.arange(3)}, None, r"expected ids \[N\] = \[300\] beside acts .*, got \[3\]; give one for each"),
        ({"ids": np.arange(N) / 2}, None, "expected ids as texts or whole numbers, got 0.0; convert them"),
        (
            {"labels": np.array(["yes", "no"] * (N // 2))},
            {"classes": ["no", "yes"]},
            "expected labels as numbers beside classes, got texts; leave classes out",
        ),
        ({"valid": np.ones((N, T))}, None, "expected valid in bool, got torch.float64; convert it"),
        ({"groups": np.full(N, np.nan)}, None, "expected groups as numbers, got NaN"),
        ({}, {"layers": [1]}, r"expected layers as a list of L whole numbers, 2 different ones, got 1 entries, \[1\]"),
        (
            {},
            {"positions": ["a", "b", "c" * 5000]},
            "names of at most 200 characters in metadata positions, got one of",
        ),
        ({}, {"model": 3}, "expected model as a text, got 3; quote it"),
    ],
)
def test_what_does_not_fit(name, changes, names, line, tmp_path):
    with pytest.raises(ValueError, match=line) as found:
        make(WRITERS[name](tmp_path / name, changes, names))
    assert str(found.value).startswith(str(tmp_path))
    assert "\n" not in str(found.value)


def test_files_that_are_damaged_or_missing(tmp_path):
    whole = (tmp_path / "whole.npy", tmp_path / "whole.npz")
    write_npy(whole[0])
    write_npz(whole[1], save=np.savez_compressed)
    content = whole[0].read_bytes()
    for damaged, line in (
        (content[:-1], "bytes by its header, got .*; it was cut short, write it again"),
        (content[:20], "expected acts as numpy writes arrays, got a header that cannot be read"),
        (b"", "expected acts as numpy writes arrays, got a header that cannot be read"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"[" * 65535, "got a header that cannot be read"),
        (content.replace(b"(300, 2, 3, 8)", b"(-3, 2, 3, 88)"), "expected acts in a shape of whole numbers, got"),
        (content.replace(b"(300,", b"(3e9,"), "got a header that cannot be read|in a shape of whole numbers"),
        (
            content.replace(b"'<f4'", b"'>f4'"),
            "expected acts in little-endian numbers of at most 8 bytes, or bool, got >f4",
        ),
        (content.replace(b"False", b"True "), "expected an array in C order, got Fortran order"),
    ):
        whole[0].write_bytes(damaged)
        with pytest.raises(ValueError, match=line):
            make(str(whole[0]))
    content = whole[1].read_bytes()
    for damaged, line in (
        (content[:-30], "expected an .npz file, got .*whole.npz"),
        (content[:200] + bytes(200) + content[400:], "expected acts in whole, got a broken array|cannot be read"),
        (b"PK", "expected an .npz file"),
    ):
        whole[1].write_bytes(damaged)
        with pytest.raises(ValueError, match=line):
            make(str(whole[1]))
    with pytest.raises(ValueError, match=r"expected a .npz file, got .*absent.npz: no such file"):
        make(str(tmp_path / "absent.npz"))
    with pytest.raises(ValueError, match=r"expected a .npy file, got .*absent.npy: no such file"):
        make(str(tmp_path / "absent.npy"))
    alone = write_npy(tmp_path / "alone.npy", {"labels": None})
    with pytest.raises(ValueError, match=r"alone.npy: expected its labels in alone.labels.npy, got no such file"):
        make(alone)
    with pytest.raises(ValueError, match=r"expected an array acts \[N, L, T, D\], got groups, labels, valid; write"):
        make(write_npz(tmp_path / "own.npz", {"acts": None}))
    with pytest.raises(ValueError, match=r"expected labels \[N\], got none; give 0 or 1 for each example"):
        make(write_npz(tmp_path / "own.npz", {"labels": None}))


def test_a_header_that_asks_for_more_than_there_is(tmp_path):
    """A file of a few bytes that says it holds terabytes makes nobody allocate them."""
    path = tmp_path / "own.npz"
    write_npz(path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    members["acts.npy"] = members["acts.npy"].replace(b"(300, 2, 3, 8), }  ", b"(300, 2, 3, 8**9)}")
    short = members["acts.npy"][:128].replace(b"(300, 2, 3, 8)", b"(3000000, 2, 3, 8)")[:128]
    for content in (members["acts.npy"], short):
        with zipfile.ZipFile(path, "w") as file:
            for name, one in (members | {"acts.npy": content}).items():
                file.writestr(name, one)
        with pytest.raises(ValueError, match=r"expected acts .*; write it"):
            make(str(path))


def test_names_that_are_no_object(tmp_path):
    path = write_npy(tmp_path / "own.npy")
    names = tmp_path / "own.names.json"
    for text, line in (
        ("[1]", "expected a JSON object with some of layers, positions, .*, got another text"),
        ("{", "expected a JSON object with some of"),
        ("[" * 100_000, "expected a JSON object with some of"),
        ('{"layer": [1]}', "expected some of layers, positions, .*, got layer; remove the others"),
    ):
        names.write_text(text)
        with pytest.raises(ValueError, match=line):
            make(path)
