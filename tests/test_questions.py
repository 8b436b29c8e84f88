import pytest

from datamodules.questions import CsvQuestions


def write(tmp_path, text):
    path = tmp_path / "own.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_rows_become_questions(tmp_path):
    rows = [
        '"Where, then?",Rome,x',
        "where,  then?".join('""') + ",007,y",
        '"Where, then?",Rome,x',
        ",Oslo,z",
        "When?,,z",
        "Who?,Ann,",
    ]
    path = write(tmp_path, "q,a,who\n" + "\n".join(rows) + "\n")
    questions = CsvQuestions(path, "q", "a", pattern="R.me").load()
    assert [(q.text, q.answers) for q in questions] == [("Where, then?", ("Rome", "007")), ("Who?", ("Ann",))]
    assert [q.id for q in questions] == ["own-00000", "own-00001"]
    assert [q.group for q in questions] == ["where, then?", "who?"]
    assert questions[0].pattern == "R.me"
    assert [q.group for q in CsvQuestions(path, "q", "a", "who").load()] == ["x", "who?"]


def test_limit_draws_from_a_seed(tmp_path):
    path = write(tmp_path, "question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(50)))
    draws = [[q.text for q in CsvQuestions(path, limit=10, seed=s).load()] for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 10
    assert len(CsvQuestions(path, limit=80).load()) == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("question,answer\n", "expected rows with a question and an answer, got none"),
        (
            "Question,Answer\na,b\n",
            "expected column question, answer in .*, got Question, Answer; set dataset.question",
        ),
        ('question,answer\n"a,b\n', "expected a CSV file in UTF-8"),
        ("question,answer\nWho, then?,Ann\nWhere, now?,Rome\n", "expected 2 fields a row in .*, got more; quote texts"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        CsvQuestions(write(tmp_path, text)).load()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected a CSV file, got .*nowhere.csv: no such file"):
        CsvQuestions(str(tmp_path / "nowhere.csv")).load()


def test_another_encoding_is_refused(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("question,answer\ncafé?,né\n".encode("latin-1"))
    with pytest.raises(ValueError, match="expected a CSV file in UTF-8"):
        CsvQuestions(str(path)).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "dataset.limit: expected a number of questions above 0, got 0"),
        ({"pattern": "(abc"}, r"dataset.pattern: expected a regular expression, got '\(abc'"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        CsvQuestions("some.csv", **settings)
