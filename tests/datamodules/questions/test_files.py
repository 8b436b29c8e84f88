import datetime
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.questions.files import FileQuestions
from tests.support.places import ROOT

ROWS = [
    {"question": 'She said "no", twice?', "answer": ["Ann", "Anna"], "id": "1"},
    {"question": "Two\nlines?\u2028Three?", "answer": ["Bob"], "id": "2"},
]


def write(folder, kind):
    path = folder / f"own.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    else:
        lines = ['"' + '","'.join(str(v).replace('"', '""') for v in row) + '"' for row in (
            (row["question"], json.dumps(row["answer"]), row["id"]) for row in ROWS)]  # fmt: skip
        path.write_text("\ufeffquestion,answer,id\n" + "\n".join(lines) + "\n\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_three_kinds_give_the_same(tmp_path, kind):
    questions = FileQuestions(path=write(tmp_path, kind), kind=kind).load()
    assert [(q.id, q.text, q.answers) for q in questions] == [
        ("own-00000", 'She said "no", twice?', ("Ann", "Anna")),
        ("own-00001", "Two\nlines?\u2028Three?", ("Bob",)),
    ]


@pytest.mark.parametrize(
    ("cell", "golds"),
    [
        ('["x", "y"]', ("x", "y")),
        ("['x', 'y']", ("x", "y")),  # as pandas writes a list
        ("[9.0]", ("9",)),
        ("['Paris' 'City of Light']", ("Paris", "City of Light")),  # as numpy writes an array
        ("['Paris'\n 'City of Light']", ("Paris", "City of Light")),
        ("[1. 2.]", ("1", "2")),
        ("[sic]", ("[sic]",)),
        ("[...]", ("[...]",)),
        ("[" * 5000 + "]" * 5000, None),
    ],
)
def test_a_cell_of_a_csv_file_may_be_a_list(tmp_path, cell, golds):
    path = tmp_path / "own.csv"
    path.write_text('question,answer\nWho?,"' + cell.replace('"', '""') + '"\n')
    (asked,) = FileQuestions(path=str(path)).load()
    assert asked.answers == (golds or (cell,))


def test_an_abbreviated_array_is_refused_where_it_is_used(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("question,answer,vector\nWho?,['a' 'b' ... 'z'],[0 1 ... 8 9]\n")
    with pytest.raises(
        ValueError, match=r"dataset: column answer of own: expected a list with all its el.*'b' ... 'z'"
    ):
        FileQuestions(path=str(path)).load()
    path.write_text("question,answer,vector\n['a' 'b' ... 'z'] ends with?,z,[0 1 ... 8 9]\n")
    assert FileQuestions(path=str(path)).load()[0].answers == ("z",)


def test_a_list_in_a_question_or_an_option_of_a_csv_file_is_text(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text('question,answer,a,b,context\n"[3, 1, 2]","[1, 2]","[1, 2]","[2, 1]","[""One."", ""Two.""]"\n')
    (asked,) = FileQuestions(path=str(path), options=["a", "b"], context="context").load()
    assert asked.text == "One.\nTwo.\n[3, 1, 2]"
    assert asked.answers == ("[1, 2]",)
    assert asked.options == (("[1, 2]",), ("[2, 1]",))


DIGITS = [3.14159265, 1234567.5, 299792.458, 0.10000000149011612, 9.0]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_numbers_keep_their_digits(tmp_path, kind):
    path, rows = tmp_path / "own", [{"question": f"q{i}", "answer": number} for i, number in enumerate(DIGITS)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        path.write_text("question,answer\n" + "\n".join(f"{row['question']},[{row['answer']}]" for row in rows))
    golds = [q.answers[0] for q in FileQuestions(path=str(path), kind=kind).load()]
    assert golds == ["3.14159265", "1234567.5", "299792.458", "0.10000000149011612", "9"]


def test_columns_of_parquet_say_what_is_short_and_what_is_a_date(tmp_path):
    day = datetime.datetime(2020, 1, 2)
    table = pa.table(
        {
            "question": ["a", "b"],
            "single": pa.array([0.1, 3.14159265], pa.float32()),
            "half": pa.array([0.1, None], pa.float32()).cast(pa.float16()),
            "list": pa.array([[0.1], [0.2]], pa.list_(pa.float32())),
            "price": pa.array([Decimal("9.50"), Decimal("9.00")], pa.decimal128(5, 2)),
            "date": pa.array([day.date()] * 2),
            "time": pa.array([day, day.replace(hour=3)], pa.timestamp("ns", "UTC")),
        }
    )
    pq.write_table(table, tmp_path / "own")
    columns = table.column_names[1:]
    questions = FileQuestions(path=str(tmp_path / "own"), kind="parquet", answer=columns).load()
    assert [q.answers for q in questions] == [
        ("0.1", "9.50", "2020-01-02"), ("3.1415927", "0.2", "9.00", "2020-01-02", "2020-01-02 03:00:00+00:00"),
    ]  # fmt: skip


def test_digits_that_no_float_holds_are_kept_in_json(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "pi?", "answer": [3.14159265358979323846, "2020-01-02T00:00:00Z"]}')
    assert FileQuestions(path=str(path), kind="jsonl").load()[0].answers == ("3.14159265358979323846", "2020-01-02")


def test_what_excel_leaves_empty_is_dropped_with_a_count(tmp_path):
    path, told = tmp_path / "own.csv", []
    path.write_text(",,,,\n\nquestion,answer,,,\nWho?,Ann,,,\n,,,,\n  \nWhen?,now,,seen,,\n,,,,\n")
    questions = FileQuestions(path=str(path)).load(told.append)
    assert [(q.id, q.text, q.answers) for q in questions] == [
        ("own-00000", "Who?", ("Ann",)), ("own-00001", "When?", ("now",)),
    ]  # fmt: skip
    assert told == [
        f"{path}: dropped 5 blank lines",
        f"{path}: dropped 1 rows' empty fields beyond the header",
        f"{path}: dropped 2 empty columns without a name",
        f"{path}: dropped 1 columns that hold text but have no name",
    ]


def test_empty_fields_behind_the_last_named_column_may_be_left_out(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("question,answer,,\nWho?,Ann,,\nWhere?,Rome\nWhen?,Now,\n")
    told = []
    assert [one.answers for one in FileQuestions(path=str(path)).load(told.append)] == [("Ann",), ("Rome",), ("Now",)]
    assert told == [f"{path}: dropped 2 empty columns without a name"]


def test_a_time_that_python_cannot_hold_is_told(tmp_path):
    path = tmp_path / "own.parquet"
    pq.write_table(pa.table({"question": ["When?"], "answer": pa.array([10**12], pa.timestamp("s"))}), path)
    with pytest.raises(ValueError, match=r"expected a parquet file, got .*: date value out of range"):
        FileQuestions(path=str(path), kind="parquet").load()


def test_blank_lines_of_json_are_counted(tmp_path):
    path, told = tmp_path / "own.jsonl", []
    path.write_text('{"question": "a", "answer": "b"}\n\n  \n{"question": "c", "answer": "d"}\n')
    assert len(FileQuestions(path=str(path), kind="jsonl").load(told.append)) == 2
    assert told == [f"{path}: dropped 2 blank lines"]


def test_a_test_file_gives_the_test_split(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"question,answer\n{name}?,x\n")
    questions = FileQuestions(path=str(tmp_path / "a.csv"), test_path=str(tmp_path / "b.csv"), name="ab").load()
    assert [(q.id, q.split) for q in questions] == [("ab-train-00000", "train"), ("ab-test-00000", "test")]


def test_another_encoding_is_read_where_it_is_named(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("question,answer\ncafé?,né\n".encode("latin-1"))
    assert FileQuestions(path=str(path), encoding="latin-1").load()[0].text == "café?"


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        (b"", "csv", "dataset.path: expected questions, got .*own: an empty file"),
        (b"question,answer\n", "csv", "expected rows with a question and an answer, got none"),
        (
            b'question,answer\nx,y\n"a,b\nc,d\n',
            "csv",
            r"a broken row from line 3 on \(unexpected end of data\); close its",
        ),
        (b'question,answer\n"a"b,c\n', "csv", "a broken row from line 2 on .*double those within a text"),
        (
            b"question,answer\nWho?,Ann\nWhere, now?,Rome\n",
            "csv",
            "expected 2 fields a row in .*, got 3 in line 3; quote",
        ),
        (b'question,answer\n"Who\nis?",Ann\nRome\n', "csv", "expected 2 fields a row in .*, got 1 in line 4; quote"),
        (
            b"question,answer,answer\na,b,c\n",
            "csv",
            "expected different column names in .*, got question, answer, answer",
        ),
        (
            "question,answer\na,b\ncafé?,né\n".encode("latin-1"),
            "csv",
            r"expected text in utf-8, got byte 0xe9 in line 3 of .*; save it as UTF-8, or set its encoding",
        ),
        (
            b'{"question": "a"}\n{"question": \n',
            "jsonl",
            "expected a JSON object a line in .*, got line 2: Expecting value",
        ),
        (b'{"question": "a"}\n\n[1]\n', "jsonl", "got line 3: list instead of an object"),
        (
            b'{"question": "a\\ud800"}\n',
            "jsonl",
            "expected a JSON object a line in .*, got line 1: .*surrogates not allow",
        ),
        (
            "question,answer\n".encode("utf-16"),
            "csv",
            "got .*own in UTF-16; save it as UTF-8, or set dataset.encoding=utf-16",
        ),
        (b"PAR1", "parquet", "dataset.path: expected a parquet file, got .*own: "),
    ],
)
def test_bad_files_are_refused_with_the_row(tmp_path, content, kind, text):
    path = tmp_path / "own"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text) as error:
        FileQuestions(path=str(path), kind=kind).load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"path": "nowhere.csv"}, "dataset.path: expected a CSV file, got nowhere.csv: no such file"),
        ({"path": "nowhere.parquet", "kind": "parquet"}, "expected a parquet file, got nowhere.parquet: no such file"),
        ({"path": "tests"}, "dataset.path: expected a CSV file, got tests: .*Is a directory"),
        (
            {"path": "README.md", "encoding": "klingon"},
            "dataset.encoding: expected one such as utf-8 or latin-1, got 'kling",
        ),
        ({"path": "README.md", "encoding": None}, "dataset.encoding: expected a text, got None; quote it"),
        ({"path": 5}, "dataset.path: expected a text, got 5"),
        ({"path": "~nobody-here/a.csv"}, "dataset.path: expected a path, got ~nobody-here/a.csv: this machine has no"),
        ({"path": "a", "kind": "xls"}, "dataset.kind: expected one of csv, jsonl, parquet, auto; got 'xls'"),
        (
            {"path": "a.csv", "test_path": "./a.csv"},
            "dataset.test_path: expected another file than dataset.path, got a.csv",
        ),
    ],
)
def test_settings_are_checked(settings, text, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=text):
        FileQuestions(**settings).load()
