import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from datamodules.stream.byte_ranges import DTYPES, read_header


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False, True])}, path, {"who": "me"})
    return path


def test_tensors_and_metadata(path):
    found = read_header(path)
    assert set(found.tensors) == {"a", "b"}
    assert found.metadata == {"who": "me"}
    assert torch.equal(found.get_tensor("a", "").load(), torch.arange(6.0).view(2, 3))
    assert found.get_tensor("b", "").load().tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_every_dtype(dtype, tmp_path):
    saved = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    save_file({"x": saved}, tmp_path / "x")
    loaded = read_header(tmp_path / "x").get_tensor("x", "").load()
    assert loaded.dtype == dtype
    assert torch.equal(loaded, saved)


def test_a_tensor_that_is_not_there(path):
    with pytest.raises(ValueError, match=r"some.safetensors: expected a tensor c \[N\], got a, b; write it under that"):
        read_header(path).get_tensor("c", "[N]")


def test_a_dtype_that_cannot_be_read(tmp_path):
    save_file({"x": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "x")
    with pytest.raises(ValueError, match=r"x: expected x in one of F64, .*BOOL, got C64; convert it"):
        read_header(tmp_path / "x").get_tensor("x", "").load()


def test_no_such_file(tmp_path):
    with pytest.raises(
        ValueError, match=r"^expected a safetensors file, got .*absent: no such file or directory; check"
    ):
        read_header(tmp_path / "absent")


def test_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"^expected a safetensors file, got .*: is a directory; check the path"):
        read_header(tmp_path)


def header(described):
    text = json.dumps(described).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"PK\x03\x04" + bytes(100),  # a torch.save file
        (10).to_bytes(8, "little") + b"not json!!",
        (3).to_bytes(8, "little") + b"[1]",
        header({"a": {"dtype": "F32", "shape": [2]}}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + bytes(8),
        header({"a": 3}),
        (10**9).to_bytes(8, "little") + bytes(20),
    ],
)
def test_what_is_not_safetensors(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^expected a safetensors file, got .*x, whose header cannot be read \(.+\); write it"
    ):
        read_header(tmp_path / "x")


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DEEP = b"[" * 100_000 + b"]" * 100_000
LIES = {
    "a nested header": (DEEP, 0),
    "a nested shape": (b'{"a":{"dtype":"F32","shape":' + DEEP + b',"data_offsets":[0,8]}}', 8),
    "nested metadata": (b'{"__metadata__":{"layers":' + DEEP + b"}}", 0),
    "metadata that is a number": ({"__metadata__": {"layers": 3}, "a": A}, 8),
    "metadata that is a list": ({"__metadata__": ["layers"], "a": A}, 8),
    "a float in a shape": ({"a": A | {"shape": [2.0]}}, 8),
    "a true in a shape": ({"a": A | {"shape": [2, True]}}, 8),
    "negative sizes": ({"a": A | {"shape": [-2, -1]}}, 8),
    "sizes that overflow": ({"a": A | {"shape": [2**62, 4]}}, 8),
    "an offset before the first byte": ({"a": A | {"data_offsets": [-8, 0]}}, 8),
    "a float offset": ({"a": A | {"data_offsets": [0.0, 8.0]}}, 8),
    "tensors on one place": ({"a": A, "b": A}, 8),
    "tensors that overlap": ({"a": A, "b": A | {"data_offsets": [4, 12]}}, 12),
    "a gap": ({"a": A, "b": A | {"data_offsets": [16, 24]}}, 24),
    "bytes that belong to no tensor": ({"a": A}, 80),
}


@pytest.mark.parametrize(("described", "n"), LIES.values(), ids=LIES)
def test_headers_that_lie(described, n, tmp_path):
    text = described if isinstance(described, bytes) else json.dumps(described).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(n))
    with pytest.raises(ValueError, match=r"^expected a safetensors file, got .*x, whose header cannot be rea") as error:
        read_header(tmp_path / "x")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("metadata", [{"layers": 3}, ["layers"]])
@pytest.mark.parametrize("change", [{}, {"data_offsets": [-8, 0]}, {"shape": [-2, -1]}, {"shape": [2.0]}])
def test_without_address_space_to_map_the_file_the_header_is_checked_all_the_same(
    change, metadata, tmp_path, monkeypatch
):
    def fail(*_):
        raise OSError("Cannot allocate memory (os error 12)")

    monkeypatch.setattr("datamodules.stream.byte_ranges.safe_open", fail)
    described = {"a": A | change} | ({} if change else {"__metadata__": metadata})
    (tmp_path / "x").write_bytes(header(described) + bytes(8))
    with pytest.raises(ValueError, match=r"whose header cannot be read; write it"):
        read_header(tmp_path / "x")


def test_a_pipe_and_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"expected a safetensors file, got {path}: is no regular file; check"):
            read_header(path)


def test_a_path_of_5000_characters(tmp_path):
    with pytest.raises(ValueError, match=r"got .*n\[\.\.\.\]n.*: file name too long; check") as error:
        read_header(tmp_path / ("n" * 5000))
    assert len(str(error.value)) < 500


def test_a_header_longer_than_the_format_allows_is_not_read(path, monkeypatch):
    monkeypatch.setattr("datamodules.stream.byte_ranges.HEADER", 20)
    with pytest.raises(ValueError, match="whose header cannot be read"):
        read_header(path)


def test_a_file_that_was_cut_short(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(
        ValueError, match=f"expected {len(whole)} bytes by its header, got {len(whole) - 1}; it was cut"
    ):
        read_header(path)


def test_a_file_that_is_cut_short_after_it_was_opened(path):
    a = read_header(path).get_tensor("a", "")
    path.write_bytes(path.read_bytes()[: a.start + 20])
    with pytest.raises(
        ValueError, match=f"some.safetensors: expected 4 more bytes of a at byte {a.start + 20}, got the"
    ):
        a.load()
