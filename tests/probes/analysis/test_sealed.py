"""One altered bit, anywhere in a file, is refused in one line; so is what is no path of such a file."""

import json
import logging
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from probes.analysis.scores import load_scores
from probes.analysis.sealed import read_sealed, seal
from probes.report.probes_file import load_probes
from probes.report.run_folder import read_record

TENSORS = {"bias": torch.tensor([0.5, torch.nan]), "part": torch.tensor([[1, 2, 0]], dtype=torch.uint8)}
CARD = {"model": "café \x1b", "layers": [0, 4], "auc": {"test": [[None, 0.5]]}}


def read(path):
    return read_sealed(path, "the probes of a run", "name one")


def test_what_was_written_is_read_and_bytes_repeat(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(seal(TENSORS, CARD))
    content, tensors = read(path)
    assert content == CARD
    torch.testing.assert_close(tensors, TENSORS, rtol=0, atol=0, equal_nan=True)
    assert seal(dict(reversed(TENSORS.items())), CARD) == path.read_bytes()


def test_each_bit_counts(tmp_path):
    path, data = tmp_path / "a", seal(TENSORS, CARD)
    bits = [8 * 8, *random.Random(0).sample(range(8 * len(data)), 400)]
    bits += range(8 * (data.index(b"sha256") - 4), 8 * (data.index(b"sha256") + 10), 3)  # none passes for an old file
    for bit in bits:
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        with pytest.raises(ValueError, match=r"^expected the probes of a run, got [^\n]*$"):
            read(path)


def test_a_file_without_a_checksum_is_taken_and_named(tmp_path, caplog):
    (tmp_path / "old").write_bytes(save(TENSORS, {"card": json.dumps(CARD)}))
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path / "old").content == CARD
    assert caplog.messages == [f"{tmp_path}/old: no checksum, as earlier versions wrote none; taken as it is"]
    (tmp_path / "new").write_bytes(seal(TENSORS, CARD))
    read(tmp_path / "new")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("load", [load_probes, load_scores, read_record])
@pytest.mark.parametrize(
    "path",
    [5, None, True, 1.5, b"a", [], {}, "", "x" * 100_000, Path("x" * 300), "a\0b", "\ud800", "~nobody/x", "\x1b"],
)
def test_what_is_no_path_is_one_line(load, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        load(path)
    assert type(refused.value) in (ValueError, FileNotFoundError)
    said = str(refused.value)
    assert "expected " in said
    assert len(said) < 500
    assert said.isprintable()
