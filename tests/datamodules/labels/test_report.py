import pytest

from datamodules.examples import Verdict
from datamodules.labels.report import LENGTH, SHOWN, summarise_labels, write_label_report
from datamodules.labels.rules import judge_by_gold, judge_by_number
from datamodules.questions.question import Question


def test_the_report_counts_branches_and_where_the_substring_differs():
    questions = [Question(f"q{i}", "g", f"Which\n{i}?", ("1", "one hundred")) for i in range(20)]
    said = ["It is 1."] * 4 + ["In 1999."] * 7 + ["100 of them"] * 2 + ["nothing " * 40] * 7
    report = write_label_report(questions, said, [judge_by_gold(a, q) for a, q in zip(said, questions, strict=True)])
    assert "6 of 20 answers are right, 30.0%; always guessing the larger class is right in 70.0%." in report
    assert "| the gold answer occurs (right) | 4 | 20.0% |" in report
    assert "| an alias occurs (right) | 2 | 10.0% |" in report
    assert "| none occurs (wrong) | 14 | 70.0% |" in report
    # 100 holds the substring 1, as 1999 does
    assert "a substring in any case, would label 7 of 20 answers otherwise" in report
    assert "- wrong here, right by substring: 7" in report
    assert "- right here, wrong by substring: 0" in report
    parts = report.split("\n## ")[1:]
    assert [part.count("- **q") for part in parts] == [2, 4, SHOWN, SHOWN]
    assert parts[3].startswith("Where the substring differs: wrong here, right by substring\n\nUsual reason: the gold")
    assert "- **q4** Which 4?\n  - gold: 1 / one hundred\n  - said: In 1999.\n" in parts[3]
    assert max(map(len, parts[0].splitlines() + parts[2].splitlines())) < 220


def test_examples_are_spread_over_the_set():
    questions = [Question(f"q{i:03}", "g", "Which?", ("1",)) for i in range(100)]
    report = write_label_report(questions, ["2"] * 100, [Verdict(False, "no")] * 100)
    assert [line[4:8] for line in report.splitlines() if line.startswith("- **")] == [
        "q000",
        "q020",
        "q040",
        "q060",
        "q080",
    ]


def test_demonyms_are_named_and_counted():
    questions = [Question(f"q{i}", "g", "Where?", ("Japan", "Nippon")) for i in range(6)]
    said = ["It is a Japanese city.", "the Japanese", "Japanesque", "Japan", "In Nippon.", "日本"]
    verdicts = [judge_by_gold(a, q) for a, q in zip(said, questions, strict=True)]
    report = write_label_report(questions, said, verdicts)
    assert (
        "Longer words with the gold answer inside: `Japanese` for `Japan` (2), `Japanesque` for `Japan` (1)." in report
    )
    assert summarise_labels(questions, said, verdicts) == (
        "a plain substring would label 3 of 6 answers otherwise (3 right, 0 wrong)"
    )


def test_a_word_of_another_case_is_no_longer_word():
    question, said = Question("q0", "g", "Where?", ("US",)), ["Give it to us."]
    report = write_label_report([question], said, [judge_by_gold(said[0], question)])
    assert "- wrong here, right by substring: 1" in report
    assert "Longer words" not in report


def test_the_other_way_round_is_counted_too():
    questions = [Question(f"q{i}", "g", "Who?", ("Andy García",)) for i in range(2)]
    verdicts = [judge_by_gold("Andy Garcia", question) for question in questions]
    assert summarise_labels(questions, ["Andy Garcia"] * 2, verdicts) == (
        "a plain substring would label 2 of 2 answers otherwise (0 right, 2 wrong)"
    )


@pytest.mark.parametrize(
    ("text", "accepted", "line"),
    [
        ("He has 3 and buys 6. How many?", "3", "1 of 1"),
        ("He has three.", "3.0", "1 of 1"),
        ("She has $1,200 left of 1,500", "$1200", "1 of 1"),
        ("He has 13 of 30.", "3", "0 of 1"),
        ("Who has 3?", "3 men", None),
        ("Who has 3?", "Ann", None),
    ],
)
def test_a_gold_number_that_stands_in_the_question_is_counted(text, accepted, line):
    questions, said = [Question("q0", "g", text, (accepted,))], ["nine"]
    verdicts = [Verdict(True, "yes")]
    told = f"n {line} questions the gold number already stands in the question"
    report, summary = write_label_report(questions, said, verdicts), summarise_labels(questions, said, verdicts)
    assert (f"I{told}" in report) == (line is not None)
    assert (f"; i{told}" in summary) == (line == "1 of 1")


def test_the_part_of_a_long_answer_that_decided_is_shown():
    questions = [Question("q0", "g", "How many?", ("18",)), Question("q1", "g", "How many?", ("7",))]
    said = ["many words " * 40 + "3 * 6 = 18 " + "more words " * 40, "long " * 80 + "1,234"]
    report = write_label_report(questions, said, [judge_by_number(a, q) for a, q in zip(said, questions, strict=True)])
    lines = [line for line in report.splitlines() if line.startswith("  - said")]
    assert "3 * 6 = 18 more" in lines[0]
    assert lines[0].startswith("  - said: … ")
    assert lines[0].endswith(" …")
    assert lines[1].endswith("long 1,234")
    assert "  - number said: 18\n" in report
    assert "  - number said: 1,234\n" in report
    assert max(map(len, lines)) <= LENGTH + 16
