"""A Parquet file is read a batch at a time, only the columns in use; the questions are those of the whole table."""

import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.questions.arrow_rows import ArrowRows
from datamodules.questions.files import FileQuestions
from datamodules.questions.parquet_rows import ParquetRows

N = 5_000


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "own.parquet"
    nested = [{"aliases": [f"a{i % 7}", "b"], "id": i} for i in range(N)]
    table = {"question": [f"Q {i // 2}?" for i in range(N)], "answer": nested, "text": ["x" * 1_000] * N}
    pq.write_table(pa.table(table | {"share": pa.array([0.1] * N, pa.float32())}), path, row_group_size=700)
    return path


def test_the_questions_are_those_of_the_whole_table(path, monkeypatch):
    settings = {"path": str(path), "kind": "parquet", "answer": ["answer.aliases", "share"], "limit": 50, "seed": 3}
    told, before = [], []
    found = FileQuestions(**settings).load(told.append)
    table = pq.read_table(path)
    monkeypatch.setattr(FileQuestions, "_read", lambda *_: ArrowRows(table.to_pylist(), table.schema))
    assert FileQuestions(**settings).load(before.append) == found
    assert told == before
    assert len(found) == 50
    assert "0.1" in found[0].answers


def test_only_the_columns_in_use_are_read_and_only_the_groups_that_hold_a_drawn_row(path, monkeypatch):
    read = []
    whole = pq.ParquetFile.iter_batches

    def count(self, *args, **named):
        for batch in whole(self, *args, **named):
            read.append((tuple(named["row_groups"]), tuple(named["columns"]), len(batch)))
            yield batch

    monkeypatch.setattr("datamodules.questions.parquet_rows.BATCH", 300)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", count)
    questions = FileQuestions(path=str(path), kind="parquet", answer="answer.aliases", limit=1).load()
    row = int(questions[0].id.rpartition("-")[2])
    assert {columns for _, columns, _ in read} == {("question", "answer")}
    assert max(rows for _, _, rows in read) <= 300
    once = [one for one in read if len(one[0]) > 1]
    assert sum(rows for _, _, rows in once) == N
    assert {groups for groups, _, _ in read if len(groups) == 1} <= {(row // 700,), ((row + 1) // 700,)}


def test_rows_by_number_are_rows_of_the_table(path):
    rows = ParquetRows(path, ["question", "answer.id"], "")
    table = pq.read_table(path, columns=["question", "answer"]).to_pylist()
    assert len(rows) == N
    assert list(rows) == table
    assert rows.pick([4_999, 0, 699, 700, 700]) == {i: table[i] for i in (0, 699, 700, 4_999)}
    assert (rows[-1], rows[10:13]) == (table[-1], table[10:13])


def test_a_missing_column_lists_those_of_the_file(path):
    line = "expected column gold in own, got question, answer, answer.aliases, answer.id, text, share; set"
    with pytest.raises(ValueError, match=line):
        FileQuestions(path=str(path), kind="parquet", answer="gold").load()


def test_a_damaged_row_group_is_told_in_one_line(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[40:4_000] = bytes(3_960)
    (tmp_path / "own.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"dataset.path: expected a parquet file, got .*own.parquet: ") as error:
        FileQuestions(path=str(tmp_path / "own.parquet"), kind="parquet", answer="text").load()
    assert "\n" not in str(error.value)


def test_memory_does_not_grow_with_the_texts(tmp_path, monkeypatch):
    n, path = 5_000, tmp_path / "long.parquet"
    table = {"question": [f"{i} " + "x" * 1_000 for i in range(n)], "answer": [None if i % 3 else "a" for i in range(n)]}
    pq.write_table(pa.table(table), path, row_group_size=1_000)
    monkeypatch.setattr("datamodules.questions.parquet_rows.BATCH", 100)
    tracemalloc.start()
    try:
        found = FileQuestions(path=str(path), kind="parquet", limit=10).load()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 10
    print(peak)
    assert peak < 1_000_000  # the texts have 5 million characters, those of a batch 100,000


def test_the_rows_that_are_drawn_from_a_seed_stay_the_same(tmp_path):
    path = tmp_path / "own.parquet"
    table = {"question": [f"Q {i * 7 % 700}?" for i in range(1_000)], "answer": [f"{i % 3}" for i in range(1_000)]}
    pq.write_table(pa.table(table), path)
    found = FileQuestions(path=str(path), kind="parquet", limit=5, seed=3).load()
    assert [(int(q.id[-5:]), "".join(q.answers)) for q in found] == [
        (30, "012"),
        (75, "012"),
        (69, "012"),
        (16, "120"),
        (47, "201"),
    ]
