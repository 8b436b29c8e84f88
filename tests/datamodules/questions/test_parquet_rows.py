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
    whole = ParquetRows._read

    def count(self, parts):
        groups = [group.id for part in parts for group in part.row_groups]
        for batch in whole(self, parts):
            read.append((groups, batch.schema.names, len(batch)))
            yield batch

    monkeypatch.setattr("datamodules.questions.parquet_rows.BATCH", 300)
    monkeypatch.setattr(ParquetRows, "_read", count)
    questions = FileQuestions(path=str(path), kind="parquet", answer="answer.aliases", limit=1).load()
    row = int(questions[0].id.rpartition("-")[2])
    assert all(columns == ["question", "answer"] for _, columns, _ in read)
    assert max(rows for _, _, rows in read) <= 300
    assert sum(rows for groups, _, rows in read if len(groups) > 1) == N
    assert {groups[0] for groups, _, _ in read if len(groups) == 1} <= {row // 700, (row + 1) // 700}


def test_a_folder_of_parts_is_one_table_in_which_names_of_folders_are_columns(tmp_path):
    table = pa.table(
        {"question": [f"Q {i}?" for i in range(60)], "answer": ["a"] * 60, "year": [2019, 2020, 2021] * 20}
    )
    pq.write_to_dataset(table, tmp_path / "own", partition_cols=["year"])
    settings = {"path": str(tmp_path / "own"), "kind": "parquet", "answer": ["answer", "year"]}
    found = FileQuestions(**settings).load()
    rows = pq.read_table(tmp_path / "own").to_pylist()
    assert [(q.text, q.answers) for q in found] == [(row["question"], ("a", str(row["year"]))) for row in rows]
    assert len(found) == 60
    drawn = FileQuestions(**settings, limit=7).load()
    by_id = {question.id: question for question in found}
    assert [by_id[question.id] for question in drawn] == drawn


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
    n, path = 2_500, tmp_path / "long.parquet"
    table = {
        "question": [f"{i} " + "x" * 1_000 for i in range(n)],
        "answer": [None if i % 3 else "a" for i in range(n)],
    }
    pq.write_table(pa.table(table), path, row_group_size=1_000)
    monkeypatch.setattr("datamodules.questions.parquet_rows.BATCH", 100)
    tracemalloc.start()
    try:
        found = FileQuestions(path=str(path), kind="parquet", limit=10).load()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 10
    assert peak < 500_000  # the texts have 2.5 million characters, those of a batch 100,000


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
