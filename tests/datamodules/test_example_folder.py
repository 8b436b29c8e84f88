"""Hidden states in a file for each example, in the layout of vLLM."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.datamodules.test_precomputed import make
from tests.support.runs import run_here, table

pytestmark = pytest.mark.usefixtures("_without_pictures")

N, L, D = 120, 3, 8
LABELS = [i % 2 for i in range(N)]


def make_states(dtype=torch.bfloat16, tokens_of=lambda i: 2 + i % 7):
    """Hidden states [tokens, L, D] of N examples; layer 1 tells the label at the last token, layer 2 on average."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(tokens_of(i), L, D, generator=generator) for i in range(N)]
    for state, label in zip(states, LABELS, strict=True):
        state[-1, 1, 0] += 6 * label
        state[:, 2, 1] += 1.5 * label
    return [state.to(dtype) for state in states]


def write(folder, states, layers_first=False, labels="labels.jsonl", **names):
    folder.mkdir(exist_ok=True)
    for i, state in enumerate(states):
        stored = state.transpose(0, 1).contiguous() if layers_first else state
        save_file({"hidden_states": stored, "token_ids": torch.arange(len(state))}, folder / f"cmpl-{i}-0.safetensors")
        (folder / f"cmpl-{i}-0.safetensors.lock").touch()
    if labels == "labels.jsonl":
        rows = [json.dumps({"id": f"cmpl-{i}-0", "label": label, "group": i // 2}) for i, label in enumerate(LABELS)]
    else:
        rows = ["id,label,group", *(f"cmpl-{i}-0,{bool(label)},{i // 2}" for i, label in enumerate(LABELS))]
    (folder / labels).write_text("\n".join(rows) + "\n")
    if names:
        (folder / "names.json").write_text(json.dumps(names))
    return str(folder)


@pytest.mark.parametrize(("layers_first", "dtype"), [(False, torch.bfloat16), (True, torch.float32)])
def test_tokens_and_means_are_those_of_the_files(layers_first, dtype, tmp_path):
    states = make_states(dtype)
    path = write(tmp_path / "states", states, layers_first)
    for block_bytes in (None, 1):
        datamodule = make(path, tokens=["last", "mean", -3, 0, 5], block_bytes=block_bytes)
        seen = 0
        for split in ("train", "val", "test"):
            for block in getattr(datamodule, f"{split}_dataloader")():
                assert block["acts"].dtype == torch.float32
                for c, cell in enumerate(block["cells"].tolist()):
                    layer, t = divmod(cell, 5)
                    for j, example in enumerate(block["examples"].tolist()):
                        state = states[example][:, layer].float()
                        n = len(state)
                        third, fifth = state[-3] if n >= 3 else None, state[5] if n > 5 else None
                        wanted = [state[-1], state.mean(0), third, state[0], fifth][t]
                        assert bool(block["valid"][0, c, j]) == (wanted is not None)
                        found = block["acts"][c, j]
                        torch.testing.assert_close(found, torch.zeros(D) if wanted is None else wanted)
                        seen += 1
        assert seen == N * L * 5
        card = datamodule.card
        assert card
        assert (card.positions, card.layers) == (("last", "mean", "-3", "0", "5"), (0, 1, 2))
        assert (card.dataset, card.site, card.n_valid) == ("states", "hidden states", (N, N, 102, N, 51))


def test_without_means_the_dtype_is_that_of_the_files(tmp_path):
    states = make_states()
    datamodule = make(write(tmp_path / "states", states))
    (block,) = datamodule.test_dataloader()
    assert block["acts"].dtype == torch.bfloat16
    assert torch.equal(block["acts"][1], torch.stack([states[row][-1, 1] for row in block["examples"].tolist()]))


def test_long_examples_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.precomputed.example_folder.SCRATCH", 100)
    states = make_states(torch.float32)
    for layers_first in (False, True):
        datamodule = make(write(tmp_path / f"{layers_first}", states, layers_first), tokens=["mean"])
        (block,) = datamodule.test_dataloader()
        wanted = torch.stack([states[row].mean(0) for row in block["examples"].tolist()], 1)
        torch.testing.assert_close(block["acts"], wanted)


def test_as_many_tokens_as_layers(tmp_path):
    """The order of the axes follows from the other files; where none tells, it is today's."""
    for layers_first in (False, True):
        states = make_states(torch.float32, lambda i: L if i < 50 else 5)
        datamodule = make(write(tmp_path / f"{layers_first}", states, layers_first))
        (block,) = datamodule.test_dataloader()
        assert torch.equal(block["acts"][0], torch.stack([states[row][-1, 0] for row in block["examples"].tolist()]))
    states = make_states(torch.float32, lambda i: L)
    (block,) = make(write(tmp_path / "alike", states)).test_dataloader()
    assert torch.equal(block["acts"][2], torch.stack([states[row][-1, 2] for row in block["examples"].tolist()]))


def test_labels_groups_and_ids(tmp_path, caplog):
    path = write(tmp_path / "states", make_states(), labels="labels.csv", layers=[8, 16, 24], model="m", target="truth")
    datamodule = make(path)
    assert datamodule.card
    assert datamodule.card.layers == (8, 16, 24)
    assert (datamodule.card.model, datamodule.card.targets[0].label) == ("m", "truth")
    assert datamodule.targets.labels[0].tolist() == LABELS
    sides = [set((datamodule.targets.rows(name) // 2).tolist()) for name in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == N // 2
    file = tmp_path / "states/labels.csv"
    file.write_text("\n".join(["id,label", *(f"cmpl-{i}-0,{i % 2}" for i in range(99, -1, -1))]))
    with caplog.at_level("INFO"):
        datamodule = make(path)
    assert "20 of 120 examples have no label, and are left out" in caplog.text
    assert datamodule.targets.labels[0].tolist() == [i % 2 for i in range(99, -1, -1)]
    assert "cmpl-99-0" in str(datamodule.make_table())


def test_a_run(tmp_path):
    path = write(tmp_path / "states", make_states(), layers=[8, 16, 24])
    options = ["datamodule=precomputed", f"datamodule.path={path}", "datamodule.tokens=[last,mean,-2]"]
    status, _, err = run_here(tmp_path, *options, "probe=mass_mean")
    assert status == 0, err
    auc = {(row["layer"], row["position"]): float(row["auc"]) for row in table(tmp_path) if row["split"] == "test"}
    assert len(auc) == 9
    assert auc["16", "last"] > 0.95 > 0.8 > auc["16", "-2"]
    assert auc["24", "mean"] > auc["24", "last"] > 0.6
    status, _, err = run_here(tmp_path, *options[:2], "datamodule.tokens=[first]")
    assert (status, err.count("\n")) == (1, 1)
    assert "datamodule.tokens: expected a list of last, mean and numbers of tokens" in err


@pytest.mark.parametrize("tokens", [[], "last", ["last", "last"], ["first"], [1.5], [True], 3])
def test_tokens_that_are_none(tokens, tmp_path):
    with pytest.raises(ValueError, match=r"datamodule.tokens: expected a list of different last, mean and whole num"):
        make(str(tmp_path), tokens=tokens)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("labels.jsonl", None, "expected labels.jsonl or labels.csv with id, label and perhaps group, got none"),
        ("labels.csv", "id,label\n", "expected labels.jsonl or labels.csv .*, got both"),
        ("labels.jsonl", "", "expected a row for each example, got none"),
        ("labels.jsonl", "{", "expected a JSON object a line, got line 1: "),
        ("labels.jsonl", "[1]", "expected a JSON object a line, got line 1: list instead of an object"),
        ("labels.jsonl", "[" * 100_000, "expected a JSON object a line, got line 1"),
        ("labels.jsonl", '{"id": "a"}', "expected id and label, got no label in line 1; add it"),
        ("labels.jsonl", '{"id": "a", "label": 2}', "expected labels 0 and 1, got '2' in line 1; map them"),
        ("labels.jsonl", '{"id": "a", "label": 1}\n' * 2, "expected different ids, got a in lines 1 and 2"),
        (
            "labels.jsonl",
            '{"id": "a", "label": 1, "group": 1}\n{"id": "b", "label": 1}',
            "or for none, got none in line 2",
        ),
        (
            "labels.jsonl",
            '{"id": "a", "label": 1}',
            "expected a file ID.safetensors for each id of its labels, got none",
        ),
        ("labels.jsonl", "\udcff", "expected text in UTF-8, got another encoding"),
        ("names.json", '{"positions": ["a"]}', "expected no positions, which datamodule.tokens gives; remove them"),
        ("names.json", '{"layers": [1]}', "expected layers as a list of L whole numbers, 3 different ones, got 1 ent"),
        ("cmpl-3-0.safetensors", "x", "expected a safetensors file, got .*cmpl-3-0.safetensors, whose header"),
    ],
)
def test_what_does_not_fit(name, content, line, tmp_path):
    path = write(tmp_path / "states", make_states())
    (tmp_path / "states" / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / "states" / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=line) as found:
        make(path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ({"hidden_states": torch.zeros(4, L, D)}, r"expected a tensor token_ids \[tokens\], got hidden_states"),
        ({"token_ids": torch.arange(4)}, r"expected a tensor hidden_states \[tokens, L, D\], got token_ids"),
        (
            {"hidden_states": torch.zeros(4, D), "token_ids": torch.arange(4)},
            r"expected hidden_states \[tokens, L, D\] and token_ids \[tokens\], got \[4, 8\] and \[4\]",
        ),
        ({"hidden_states": torch.zeros(4, L, D), "token_ids": torch.arange(9)}, r".*got \[4, 3, 8\] and \[9\]"),
        (
            {"hidden_states": torch.zeros(4, 2, D).bfloat16(), "token_ids": torch.arange(4)},
            r"expected hidden_states \[4, 3, 8\] in BF16, as in cmpl-0-0.safetensors, got \[4, 2, 8\] in BF16",
        ),
        (
            {"hidden_states": torch.zeros(4, L, D), "token_ids": torch.arange(4)},
            r"expected hidden_states \[4, 3, 8\] in BF16, as in cmpl-0-0.safetensors, got \[4, 3, 8\] in F32",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_others(tensors, line, tmp_path):
    path = write(tmp_path / "states", make_states())
    save_file(tensors, tmp_path / "states/cmpl-3-0.safetensors")
    with pytest.raises(ValueError, match=f"cmpl-3-0.safetensors: {line}"):
        make(path)
