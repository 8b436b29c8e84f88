from dataclasses import replace

import pytest

from tests.support.rows import Rows, load, pairs


def test_rows_become_questions_each_text_once():
    rows = pairs(
        ("Where, then?", "Rome"), ("where,  then", "007"), ("Where, then?", "Rome"), ("", "Oslo"), ("When?", " "),
        ("Who?", "Ann"), ("Where, then?", "Roma"), (" Who? ", "Ann"), ("When?", None),
    )  # fmt: skip
    questions, told = load(Rows(rows, pattern="R.me"))
    assert [(q.id, q.text, q.answers, q.group) for q in questions] == [
        ("own-00000", "Where, then?", ("Rome", "Roma"), "where then"),
        ("own-00001", "where,  then", ("007",), "where then"),
        ("own-00005", "Who?", ("Ann",), "who"),
    ]
    assert {q.pattern for q in questions} == {"R.me"}
    assert {q.split for q in questions} == {""}
    assert told == [
        "own: skipped 1 of 9 rows with no question: own-00003",
        "own: skipped 2 of 9 rows with no gold answer: own-00004, own-00008",
        "own: dropped 2 of 9 rows that repeat another",
        "own: 1 rows give further gold answers to a question asked before; each is accepted",
    ]


def test_what_test_asks_too_is_left_out_of_train():
    train = pairs(("Who is A?", "x"), ("who is a", "x"), ("Who is B?", "x"), ("Who is C?", "x"))
    test = pairs(("Who is A?", "x"), ("Who is A?", "y"), ("WHO is B!", "x"), ("Who is D?", "x"))
    questions, told = load(Rows(train, test))
    assert [(q.id, q.split) for q in questions] == [
        ("own-train-00003", "train"), ("own-test-00000", "test"), ("own-test-00002", "test"),
        ("own-test-00003", "test"),
    ]  # fmt: skip
    assert told[-1] == (
        "own: 2 of 4 test rows also occur in train letter by letter; 3 train questions that are also in test, apart "
        "from case and punctuation, are left out"
    )


def test_a_question_is_a_column_or_a_text_with_columns():
    row = {"s": "She {x} left.", "who": {"pronoun": "She", "n": 3.0}, "a.b": "dotted", "answer": ["A", "", "B", "A"]}
    (asked,), _ = load(Rows([row], question="{s} Who is '{who.pronoun}' {who.n}, {a.b}?"))
    assert asked.text == "She {x} left. Who is 'She' 3, dotted?"
    assert asked.answers == ("A", "B")
    assert load(Rows([row], question="who.pronoun"))[0][0].text == "She"
    assert load(Rows([row, {"answer": "A"}], question="{s} and {who.n}"))[1] == [
        "own: skipped 1 of 2 rows with no question: own-00001"
    ]


def test_context_stands_before_the_question_and_does_not_decide_the_group():
    rows = [
        {"question": "Who?", "answer": "x", "context": {"sentences": [["One.", " Two."], ["Three."]]}},
        {"question": "Who?", "answer": "x", "context": {"sentences": [["Four."]]}},
    ]
    questions, _ = load(Rows(rows, context="context.sentences"))
    assert [q.text for q in questions] == ["One. Two.\nThree.\nWho?", "Four.\nWho?"]
    assert [q.group for q in questions] == ["who", "who"]


@pytest.mark.parametrize(
    ("settings", "row", "gold", "options"),
    [
        ({"options": ["a", "b"], "answer": "a"}, {"a": "Ann ", "b": "Bob"}, "Ann", (("Ann",), ("Bob",))),
        (
            {"options": ["a", "b"], "first_option": 1},
            {"a": "Ann", "b": "Bob", "answer": "2"},
            "Bob",
            (("Ann",), ("Bob",)),
        ),
        ({"labels": {"yes": ["ja"], "no": []}}, {"answer": "No"}, "no", (("yes", "ja"), ("no",))),
        ({"labels": {"yes": ["ja"], "no": []}}, {"answer": "ja"}, "yes", (("yes", "ja"), ("no",))),
        ({"labels": {"neg": [], "pos": []}, "first_option": 0}, {"answer": 1}, "pos", (("neg",), ("pos",))),
        ({"labels": {"neg": [], "pos": []}, "first_option": 0}, {"answer": "1.0"}, "pos", (("neg",), ("pos",))),
    ],
)
def test_options_and_label_words(settings, row, gold, options):
    (asked,), _ = load(Rows([{"question": "Which?"} | row], **settings))
    assert asked.answers == (gold,)
    assert asked.options == options


@pytest.mark.parametrize(
    ("settings", "row", "reason"),
    [
        ({"options": ["a", "b"]}, {"a": "Ann", "b": "ánn!", "answer": "Ann"}, "options equal to each other"),
        (
            {"options": ["a", "b"]},
            {"a": "Ann", "b": "Bob", "answer": "Cid"},
            "a gold answer that is none of the options",
        ),
        ({"options": ["a", "b"]}, {"a": "Ann", "b": " ", "answer": "Ann"}, "an empty option"),
        ({"options": ["a", "b"]}, {"a": "→", "b": " → ", "answer": "→"}, "options equal to each other"),
        ({"labels": {"neg": [], "pos": []}, "first_option": 0}, {"answer": -1}, "no gold answer"),
        ({"labels": {"neg": [], "pos": []}, "first_option": 0}, {"answer": 2}, "no gold answer"),
        ({"labels": {"neg": [], "pos": []}, "first_option": 0}, {"answer": "x"}, "no gold answer"),
    ],
)
def test_rows_that_give_no_choice_are_skipped(settings, row, reason):
    good = {"question": "Well?", "a": "Ann", "b": "Bob", "answer": {None: "Ann", 0: 0}[settings.get("first_option")]}
    questions, told = load(Rows([good, {"question": "Which?"} | row], **settings))
    assert len(questions) == 1
    assert told == [f"own: skipped 1 of 2 rows with {reason}: own-00001"]


@pytest.mark.parametrize("pair", [("→", "←"), ("=", "!="), ("C", "C++")])
def test_options_may_be_signs(pair):
    row = {"question": "Which?", "a": pair[0], "b": pair[1], "answer": pair[1]}
    questions, told = load(Rows([row], options=["a", "b"]))
    assert [question.answers for question in questions] == [(pair[1],)]
    assert told == []


def test_rows_of_one_question_that_contradict_each_other_are_left_out():
    rows = pairs(("Is it?", "yes"), ("Is it?", "no"), ("Was it?", "no"))
    questions, told = load(Rows(rows, labels={"yes": [], "no": []}))
    assert [q.text for q in questions] == ["Was it?"]
    assert told == ["own: left out 1 texts whose rows contradict each other"]


def test_repeated_labels_and_contradicting_ones_of_statements():
    class Stated(Rows):
        def read_record(self, row):
            record = super().read_record(row)
            return record if isinstance(record, str) else replace(record, answers=(), label=row["label"])

    rows = [{"question": q, "answer": "x", "label": label} for q, label in (("a", True), ("a", True), ("b", True))]
    questions, told = load(Stated([*rows, {"question": "b", "answer": "x", "label": False}]))
    assert [q.text for q in questions] == ["a"]
    assert told == [
        "own: dropped 1 of 4 rows that repeat another",
        "own: left out 1 texts whose rows contradict each other",
    ]


def test_limit_draws_from_a_seed_of_train_and_test_each():
    rows, other = pairs(*((f"q{i}", "a") for i in range(50))), pairs(*((f"r{i}", "a") for i in range(5)))
    draws = [[q.id for q in load(Rows(rows, limit=10, seed=s))[0]] for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 10
    questions, told = load(Rows(rows, other, limit=10))
    assert [q.split for q in questions] == ["train"] * 10 + ["test"] * 5
    assert told == ["own test: dataset.limit=10, but there are 5; all are taken"]


def test_a_list_in_the_question_is_text():
    row = {"question": ["a", "b"], "n": [3, 1, 2], "answer": ["x", "y"]}
    (asked,), _ = load(Rows([row]))
    assert (asked.text, asked.answers) == ('["a", "b"]', ("x", "y"))
    assert load(Rows([row], question="Sort {n}."))[0][0].text == "Sort [3, 1, 2]."


def test_gold_answers_of_several_columns():
    row = {"question": "Who?", "answer": {"value": "Ann", "aliases": ["Anna", "Ann"]}}
    (asked,), _ = load(Rows([row], answer=["answer.value", "answer.aliases"]))
    assert asked.answers == ("Ann", "Anna")


def test_a_column_may_begin_late():
    rows = [{"question": f"q{i}", "answer": "a"} for i in range(150)] + [{"question": "r", "answer": "a", "c": "Text."}]
    assert load(Rows(rows, context="c"))[0][-1].text == "Text.\nr"


@pytest.mark.parametrize(
    ("rows", "settings", "text"),
    [
        (pairs(("", "")), {}, "expected rows with a question and an answer, got none in own"),
        ([], {}, "expected rows with a question and an answer, got none in own"),
        (
            [{"Question": "a", "Answer": "b"}],
            {"options": ["c"]},
            "expected column question, answer, c in own, got Question, Answer; set the option of dataset",
        ),
        (
            [{"question": "a", "answer": {"value": "b"}}],
            {"answer": "answer.alias"},
            "expected column answer.alias in own, got question, answer, answer.value; set",
        ),
        ([{"question": "a", "answer": {"value": "b"}}], {}, "expected a column with text, got one with value; name"),
        (
            [{"question": "a", "answer": "b", "wrong": "c"}],
            {"group": "{answer}|{incorrect}"},
            "^dataset.group: expected column incorrect in own, got question, answer, wrong; name one of these$",
        ),
        ([{"question": "a", "answer": "b"}], {"group": ["answer", "no"]}, "^dataset.group: expected column no in own"),
        ([], {"group": 5}, "dataset.group: expected a column, a text with columns in braces, or a list of such, got 5"),
        ([], {"group": ["a", 5]}, "dataset.group: expected a column, .*, got .*5"),
        ([], {"group": {"a": 5}}, "dataset.group: expected a column, .*, got .*5"),
        ([], {"group": {"a": "(b"}}, r"dataset.group: expected a regular expression, got '\(b': "),
        ([], {"labels": {True: []}}, "dataset.labels: expected spellings by label word, .*, yes and no quoted, got"),
        ([], {"first_option": "0"}, "dataset.first_option: expected a whole number, or null, got '0'"),
        ([], {"context": ["a"]}, "dataset.context: expected a column, or null, got"),
        ([], {"name": 5}, "dataset.name: expected a text, got 5"),
        ([], {"seed": None}, "dataset.seed: expected a whole number of at least 0, got None"),
        ([], {"limit": 0}, "dataset.limit: expected a number of questions above 0, got 0"),
        ([], {"limit": "3"}, "dataset.limit: expected a number of questions above 0, got '3'"),
        ([], {"pattern": "(abc"}, r"dataset.pattern: expected a regular expression, got '\(abc'"),
        ([], {"options": ["a", "b"], "labels": {"a": []}}, "expected options or labels, got both"),
        ([], {"options": "ab"}, r"dataset.options: expected a list of columns, such as \[a,b\], got 'ab'"),
        ([], {"labels": ["a"]}, r"dataset.labels: expected spellings by label word, .*, got \['a'\]"),
    ],
)
def test_mistakes_are_named(rows, settings, text):
    with pytest.raises(ValueError, match=text):
        load(Rows(rows, **settings))
