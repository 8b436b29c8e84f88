"""A file of probes that was damaged, or made up, is refused in one line; nothing of it is half believed."""

import copy
import json
import os
import random

import pytest
import torch
from safetensors.torch import save

from probes.report.probes_file import load_probes
from tests.support.cards import make_card

CARD = make_card()
K, L, T, D = CARD.shape
CONTENT = json.loads(json.dumps(CARD.to_json() | {"auc": {"test": [[[0.5] * T] * L] * K}}))
TENSORS = {"weight": torch.randn(K, L, T, D), "bias": torch.randn(K, L, T)}
TENSORS["weight"][0, 1, 2] = TENSORS["bias"][0, 1, 2] = torch.nan  # a cell without a probe
WHOLE = save(TENSORS, {"card": json.dumps(CONTENT)})


def end(path, data):
    """What becomes of a file of these bytes: it loads, or the one line."""
    path.write_bytes(data)
    try:
        load_probes(path)
    except ValueError as error:
        said = str(error)
    else:
        said = "loads"
    assert "\n" not in said
    return said


def change(name, value):
    return save(TENSORS | {name: value}, {"card": json.dumps(CONTENT)})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "probes.safetensors"


def test_bytes_that_were_cut_off_or_altered(path):
    random_ = random.Random(0)
    header = 8 + int.from_bytes(WHOLE[:8], "little")
    assert end(path, WHOLE) == "loads"
    for _ in range(60):
        assert "which can't be read" in end(path, WHOLE[: random_.randrange(len(WHOLE))])
        altered = bytearray(WHOLE)
        altered[random_.randrange(header)] ^= 1 << random_.randrange(8)
        end(path, bytes(altered))  # names may still be names; nothing but a ValueError comes


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (
            change("weight", torch.randn(K, L, T, D + 1)),
            r"weight \[1, 2, 3, 7\] where its card asks for \[1, 2,",
        ),
        (
            change("bias", torch.randn(K, L, T + 1)),
            r"with bias \[1, 2, 4\] where its card asks for \[1, 2, 3\]; run",
        ),
        (change("weight", TENSORS["weight"].double()), "weight in torch.float64 instead of torch.float32"),
        (change("weight", TENSORS["weight"].nan_to_num(0)), "probes that are NaN in part"),
        (change("bias", TENSORS["bias"].nan_to_num(0)), "probes that are NaN in part"),
        (change("bias", torch.full((K, L, T), torch.inf)), "infinity in bias"),
        (save(TENSORS, {"card": "[" * 100_000}), "with another card"),
        (save(TENSORS, {"card": json.dumps(CARD.to_json())}), r"with another card \('auc'\)"),
        (b"\x80\x04c__builtin__\nexec\n(Vopen('ran', 'w')\ntR.", "which can't be read"),
        (b"", "which can't be read"),
    ],
)
def test_what_does_not_fit(data, line, path):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^expected the probes of a run, got .*probes.safetensors.*{line}"):
        load_probes(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("width",), 7), (("width",), "6"), (("width",), True), (("layers",), [0]), (("layers",), [0, 0]),
        (("layers",), [0, 1.5]), (("layers",), None), (("positions",), ["a", "b", 3]), (("positions",), "abc"[:2]),
        (("model",), 3), (("revision",), []), (("n_valid",), [1]), (("n_valid",), []), (("classes",), ["one"]),
        (("cache",), {"answers": 1}),
        (("coincidence",), [[1.0]]), (("coincidence",), [["x"] * T] * T), (("targets",), []), (("targets",), 3),
        (("targets", 0, "name"), None), (("targets", 0, "seed"), 1.5), (("targets", 0, "counts"), []),
        (("targets", 0, "counts", "test", "n"), -1), (("targets", 0, "counts", "test", "n_positive"), 101),
        (("auc",), []), (("auc",), {}), (("auc", "test"), []),
        (("auc", "test"), [[[0.5]]]), (("auc", "test", 0, 1, 2), 1.5), (("auc", "test", 0, 1, 2), "a"),
    ],
)  # fmt: skip
def test_a_card_that_contradicts_itself_or_the_probes(place, value, path):
    content = copy.deepcopy(CONTENT)
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    assert end(path, save(TENSORS, {"card": json.dumps(content)})).startswith("expected the probes of a run, got ")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "no regular file"), (tmp_path, "a folder")):
        with pytest.raises(ValueError, match=f"expected the probes of a run, got {path}, {what}; point to its probes"):
            load_probes(path)
    with pytest.raises(FileNotFoundError, match=r"expected the probes of a run, got .*absent: no such file"):
        load_probes(tmp_path / "absent")
