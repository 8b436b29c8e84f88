from datamodules.correctness import Verdict, gold
from datamodules.label_report import SHOWN, label_report
from datamodules.questions import Question


def test_the_report_counts_branches_and_where_the_substring_differs():
    questions = [Question(f"q{i}", "g", f"Which\n{i}?", ("1", "one hundred")) for i in range(20)]
    said = ["It is 1."] * 4 + ["In 1999."] * 7 + ["100 of them"] * 2 + ["nothing " * 40] * 7
    report = label_report(questions, said, [gold(a, q) for a, q in zip(said, questions, strict=True)])
    assert "6 of 20 answers are right, 30.0%; always guessing the larger class is right in 70.0%." in report
    assert "| the gold answer occurs (right) | 4 | 20.0% |" in report
    assert "| an alias occurs (right) | 2 | 10.0% |" in report
    assert "| none occurs (wrong) | 14 | 70.0% |" in report
    # 100 holds the substring 1, as 1999 does
    assert "would give 7 of 20 labels otherwise" in report
    assert "- wrong, by substring right: 7" in report
    assert "- right, by substring wrong: 0" in report
    parts = report.split("\n## ")[1:]
    assert [part.count("- **q") for part in parts] == [2, 4, SHOWN, SHOWN]
    assert parts[3].startswith("Where the substring differs: wrong, by substring right")
    assert "- **q4** Which 4?\n  - gold: 1 / one hundred\n  - said: In 1999.\n" in parts[3]
    assert max(map(len, report.splitlines())) < 220


def test_examples_are_spread_over_the_set():
    questions = [Question(f"q{i:03}", "g", "Which?", ("1",)) for i in range(100)]
    report = label_report(questions, ["2"] * 100, [Verdict(False, "no")] * 100)
    assert [line[4:8] for line in report.splitlines() if line.startswith("- **")] == [
        "q000",
        "q020",
        "q040",
        "q060",
        "q080",
    ]
