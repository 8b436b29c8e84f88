"""examples.parquet and what else a run keeps of its examples; nothing of it stands in the cache."""

import errno
import logging
import os
import stat
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from datamodules import examples as examples_module
from datamodules.examples import LabelledExamples, Span, Verdict, write_examples, write_table
from datamodules.labels.rules import TextRule, judge_by_gold, judge_by_substring
from datamodules.language.generation import Answer
from datamodules.language.positions import Positions, Rule
from datamodules.questions.question import Question
from datamodules.split import GroupSplit
from datamodules.stream.whole_file import write_whole
from datamodules.targets import NO_SPLIT, Targets
from tests.datamodules.stream.test_accidents import in_a_small_disk, needs_mounts
from tests.datamodules.test_precomputed import N, make, tensors, write
from tests.support.activations import make as make_model

PARTS = ("train", "val", "test", None)
RECORD = {"examples.parquet", "exact_answers.html", "labels.md"}


def targets_of(*names, n=3):
    labels = torch.stack([torch.arange(n) // 2**k % 2 for k in range(len(names))])
    splits = torch.stack([(torch.arange(n) + 3 * k) % (NO_SPLIT + 1) for k in range(len(names))]).to(torch.uint8)
    return Targets(names, names, (None,) * len(names), labels, splits, torch.arange(n))


def read(content):
    return pq.read_table(pa.BufferReader(content))


def labelled():
    questions = [
        Question(f"q{i}", f"g{i // 2}", f"Where is {i}?", ("Café", "Cafe"), split="test" if i else "") for i in range(3)
    ]
    answers = [
        Answer([1, 2 + i], [7, 8, 9], [-0.5, -0.25, -i - 1.0], "stop" if i else "length", f"the café {i}", [5] * i)
        for i in range(3)
    ]
    verdicts = [Verdict(True, "the gold answer occurs"), Verdict(False, "none occurs"), Verdict(True, "an alias")]
    exact = [Span((4, 8), "gold"), Span(None, "asked", ("a", "b")), Span((0, 0), "pattern")]
    return LabelledExamples(questions, answers, verdicts, exact, [(1, 1), None, (0, 0)])


TOKENS = torch.tensor([[[1, 1], [2, 4]], [[2, 2], [0, 0]], [[2, 2], [3, 5]]])
VALID = torch.tensor([[True, True], [True, False], [False, True]])


@pytest.mark.parametrize("rows", [1, 2, 1024])
def test_the_table_of_what_a_model_answered(rows, monkeypatch):
    """Each column against what it is made of, in pieces of any size."""
    monkeypatch.setattr(examples_module, "ROWS", rows)
    targets = targets_of("correctness")
    table = read(write_examples(labelled(), TOKENS, VALID, targets))
    assert table.column_names == [*examples_module.ANSWERED.names, "label", "split", "valid"]
    assert table.to_pydict() == {
        "id": ["q0", "q1", "q2"],
        "group": ["g0", "g0", "g1"],
        "source_split": ["", "test", "test"],
        "question": ["Where is 0?", "Where is 1?", "Where is 2?"],
        "gold": [["Café", "Cafe"]] * 3,
        "answer": ["the café 0", "the café 1", "the café 2"],
        "finish": ["length", "stop", "stop"],
        "prompt_ids": [[1, 2], [1, 3], [1, 4]],
        "thought_ids": [[], [5], [5, 5]],
        "answer_ids": [[7, 8, 9]] * 3,
        "logprobs": [[-0.5, -0.25, -1.0], [-0.5, -0.25, -2.0], [-0.5, -0.25, -3.0]],
        "exact_answer": ["café", None, ""],
        "exact_answer_by": ["gold", "asked", "pattern"],
        "first_token": [[1, 2], [2, 0], [2, 3]],
        "last_token": [[1, 4], [2, 0], [2, 5]],
        "exact_answer_tokens": [[1, 1], None, [0, 0]],
        "label_by": ["the gold answer occurs", "none occurs", "an alias"],
        "label": [0, 1, 0],
        "split": ["train", "val", "test"],
        "valid": [[True, True], [True, False], [False, True]],
    }
    assert table.schema.field("logprobs").type == pa.list_(pa.float32())


@pytest.mark.parametrize("names", [("truth",), ("truth, seed 0", "truth, seed 5", "long/short")])
def test_labels_and_splits_of_each_target(names):
    """`label` and `split` of one; of several with their names, null where the target leaves an example out."""
    n = 2500  # in several pieces
    targets = targets_of(*names, n=n)
    schema = pa.schema({"row": pa.int64()})
    table = read(write_table(lambda part: {"row": list(range(n)[part])}, schema, torch.ones(n, 2).bool(), targets))
    ends = [""] if len(names) == 1 else [f"/{name}" for name in names]
    assert table.column_names == ["row", *(f"{kind}{end}" for end in ends for kind in ("label", "split")), "valid"]
    for k, end in enumerate(ends):
        assert table[f"label{end}"].to_pylist() == targets.labels[k].tolist()
        assert table[f"split{end}"].to_pylist() == [PARTS[part] for part in targets.splits[k].tolist()]
        assert table[f"split{end}"].null_count == n // 4
    assert table["row"].to_pylist() == list(range(n))


@pytest.mark.parametrize("groups", [torch.arange(N) // 2 * 10 - 5, torch.arange(N) // 2 + 0.5, None])
def test_the_table_of_ones_own_activations(groups, tmp_path):
    path = write(tmp_path / "own", {"groups": groups})
    datamodule = make(path, folder=tmp_path / "run", split=GroupSplit(seed=[0, 5]))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["examples.parquet"]
    table = pq.read_table(tmp_path / "run" / "examples.parquet")
    targets = datamodule.targets
    assert table.column_names == ["row", "group", *(
        f"{kind}/label 1, seed {seed}" for seed in (0, 5) for kind in ("label", "split")
    ), "valid"]  # fmt: skip
    assert table["row"].to_pylist() == list(range(N))
    assert table["group"].to_pylist() == (torch.arange(N) if groups is None else groups).tolist()
    assert table["valid"].to_pylist() == tensors()["valid"].tolist()
    for k, seed in enumerate((0, 5)):
        parts = table[f"split/label 1, seed {seed}"].to_pylist()
        for name in ("train", "val", "test"):
            assert [i for i, part in enumerate(parts) if part == name] == targets.rows_of(k, name).tolist()
    block = next(iter(datamodule.val_dataloader()))
    labels = torch.tensor(table["label/label 1, seed 0"].to_pylist())
    assert torch.equal(labels[block["examples"]], block["labels"][0])  # blocks number the rows of this table


def test_without_a_folder_and_by_a_quiet_rank_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.precomputed.datamodule.write_table", lambda *_: pytest.fail("the table was made"))
    make(write(tmp_path / "own"))
    quiet = SimpleNamespace(
        is_global_zero=False,
        num_devices=2,
        global_rank=1,
        world_size=2,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    built = make(write(tmp_path / "own"), folder=tmp_path / "run", trainer=quiet)
    assert built.quiet
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def files(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and ".local" not in path.parts}


def test_runs_with_other_rules_share_a_cache_and_keep_their_own_files(
    language_model, questions_csv, tmp_path, monkeypatch, caplog
):
    """The cache has the same bytes after each, and no file of it says what a rule or a split made of the examples."""
    runs, cache = [tmp_path / "gold", tmp_path / "substring"], tmp_path / "cache"
    positions = Positions([Rule("first_answer", "answer", 0), Rule("exact_answer_first", "exact_answer", 0)])
    usual = {"positions": positions, "layers": [1]}
    caplog.set_level(logging.INFO)
    for run, rule, seed in zip(runs, (judge_by_gold, judge_by_substring), (0, [5, 26]), strict=True):
        split = GroupSplit(seed=seed)
        make_model(language_model, questions_csv, cache, rule=TextRule(rule), folder=run, split=split, **usual).setup()
        assert {path.name for path in run.iterdir()} == RECORD
        for name in ("labels.md", "exact_answers.html"):
            assert f"see {run / name}" in caplog.text
        if run == runs[0]:
            before, first = files(cache), files(run)
            assert {path.name for path in before} & (RECORD | {"index.parquet"}) == set()
            assert not [path for path, content in before.items() if b"the gold answer occurs" in content]
    assert files(cache) == before
    assert files(runs[0]) == first
    one, other = (pq.read_table(run / "examples.parquet") for run in runs)
    assert set(one["label_by"].to_pylist()) & set(other["label_by"].to_pylist()) == set()
    assert one["logprobs"] == other["logprobs"]
    assert "label" in one.column_names
    assert {"label/correctness, seed 5", "split/correctness, seed 26"} <= set(other.column_names)
    monkeypatch.chdir(tmp_path)
    make_model(language_model, questions_csv, cache, **usual).setup()  # without a folder
    assert files(cache) == before
    assert {path.name for path in tmp_path.iterdir()} == {"gold", "substring", "cache"}


def full(monkeypatch):
    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("datamodules.stream.whole_file.os.fsync", fsync)


def test_a_file_is_written_whole_over_what_was_there(tmp_path):
    path = tmp_path / "deep" / "er" / "some.txt"
    for content in (b"first, and longer", b"second"):
        assert write_whole(path, content) == path
        assert path.read_bytes() == content
    assert [path.name for path in path.parent.iterdir()] == ["some.txt"]
    assert stat.S_ISREG(path.stat().st_mode)


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "some.txt", b"before")
    full(monkeypatch)
    with pytest.raises(OSError, match="No space left") as refused:
        write_whole(path, b"x" * 2_500_000)
    assert str(refused.value) == (
        f"{path}: expected a folder that can be written, with room for 2.5 MB, got: No space left on device; free some "
        "space, or choose another folder"
    )
    assert files(tmp_path) == {path: b"before"}


@pytest.mark.parametrize("where", ["run", "run/deep"])
def test_a_run_folder_that_cannot_be_written_is_one_line(where, tmp_path):
    (tmp_path / "run").write_text("a file stands here")
    before = files(tmp_path)
    path = write(tmp_path / "own")
    with pytest.raises(OSError, match=r"examples\.parquet: expected a folder that can be written, .*; free") as refused:
        make(path, folder=tmp_path / where)
    assert "\n" not in str(refused.value)
    assert files(tmp_path).keys() == before.keys() | {tmp_path / "own"}


def test_a_run_folder_that_is_full_keeps_nothing_half(tmp_path, monkeypatch):
    path = write(tmp_path / "own")
    full(monkeypatch)
    with pytest.raises(OSError, match="No space left on device"):
        make(path, folder=tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


KEEPS = """
import sys
from pathlib import Path
from datamodules.stream.whole_file import write_whole

disk = Path(sys.argv[1])
write_whole(disk / "some.txt", b"before")
for path, size in ((disk / "some.txt", 2_000_000), (disk / "frozen" / "run" / "some.txt", 1)):
    try:
        write_whole(path, bytes(size))
    except OSError as error:
        print(error)
print((disk / "some.txt").read_bytes(), sorted(path.name for path in disk.rglob("*")))
"""


@needs_mounts
def test_a_real_disk_that_is_full_and_one_that_is_read_only(tmp_path):
    frozen = f"mkdir '{tmp_path}/frozen' && mount -t tmpfs -o ro tmpfs '{tmp_path}/frozen'"
    done = in_a_small_disk(tmp_path, f"{frozen} && '{sys.executable}' -c '{KEEPS}' '{tmp_path}'")
    assert done.returncode == 0, done.stderr
    full, read_only, left = done.stdout.splitlines()
    expected = "expected a folder that can be written, with room for"
    assert full == (
        f"{tmp_path}/some.txt: {expected} 2.0 MB, got: No space left on device; free some space, or choose another "
        "folder"
    )
    assert read_only.startswith(f"{tmp_path}/frozen/run/some.txt: {expected} 0.0 MB, got: Read-only file system; free")
    assert left == "b'before' ['frozen', 'some.txt']"
