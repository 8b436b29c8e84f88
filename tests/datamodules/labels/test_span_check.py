from typing import Any, Literal

import pytest

from datamodules.base import MIN_PER_CLASS
from datamodules.examples import Span
from datamodules.labels.span_check import SpanCount, advise, check_spans, count_spans
from datamodules.language.generation import Answer
from datamodules.questions.question import Question

TEXT = "It is the red stone."


class Run:
    """Examples added kind by kind, and what the check says of them."""

    def __init__(self):
        self.questions, self.answers, self.labels, self.exact = [], [], [], []
        self.told, self.warned = [], []

    def add(
        self,
        n,
        right,
        words="",
        text=TEXT,
        how="pattern",
        finish: Literal["stop", "length"] = "stop",
        replies=(),
        **asked,
    ):
        span = (text.index(words), text.index(words) + len(words)) if words else None
        for _ in range(n):
            self.questions.append(Question(f"q{len(self.questions)}", "g", "which?", ("gold",), **asked))
            self.answers.append(Answer([1], [2], [0.0], finish, text))
            self.labels.append(right)
            self.exact.append(Span(span, how, replies))
        return self

    def check(self):
        check_spans(self.questions, self.answers, self.labels, self.exact, 24, self.told.append, self.warned.append)
        return self

    def stop(self):
        with pytest.raises(ValueError, match="spans: expected exact answers in") as error:
            self.check()
        return str(error.value)

    def advice(self):
        lacking = [i for i, one in enumerate(self.exact) if one.characters is None]
        return advise(self.questions, self.answers, self.exact, lacking, 24)


def test_counts_are_by_way_and_label_with_the_median_share_of_words_and_parts_of_words():
    run = Run().add(3, True, "red").add(1, True, "red stone").add(1, True).add(2, False, "stone", text="A stone")
    run.add(1, True, "Japan", text="A Japanese word", how="gold").add(2, False, how="model", replies=("no",))
    run.add(1, False, "re", how="model")
    assert count_spans([answer.text for answer in run.answers], run.labels, run.exact) == [
        SpanCount("gold", "right", 1, 1, 1, 1 / 3),
        SpanCount("model", "wrong", 3, 1, 1, 0.2),
        SpanCount("pattern", "right", 5, 4, 0, 0.2),
        SpanCount("pattern", "wrong", 2, 2, 0, 0.5),
    ]


def test_what_a_pattern_or_a_number_marks_is_no_fallback():
    run = Run().add(1, True, "9", text="9kg", how="number").add(1, True, "re", how="pattern")
    assert [row.parts for row in count_spans(["9kg", "red"], run.labels, run.exact)] == [0, 0]


def test_the_run_says_how_often_each_way_found_something_and_how_much_it_marks():
    run = Run().add(20, True, "red stone").add(10, False, "red").add(10, False)
    run.add(2, True, "Japan", text="In  Japanese, then", how="gold").check()
    assert run.told == [
        "exact answers: gold, right answers: found in 2 of 2, 100.0%; median share of the answer's words 33.3%",
        "exact answers: pattern, right answers: found in 20 of 20, 100.0%; median share of the answer's words 40.0%",
        "exact answers: pattern, wrong answers: found in 10 of 20, 50.0%; median share of the answer's words 20.0%",
        "exact answers: 2 of 32 are parts of a word, as 'Japan' of 'Japanese,': their answers do not contain it "
        "as a whole word",
    ]
    assert run.warned == []


def test_over_half_without_stops():
    run = Run().add(30, True, "red").add(30, False)
    run.exact[0] = Span(None, "pattern")
    assert run.stop() == (
        "spans: expected exact answers in over half of 60 answers, got 29 (29 of 30 right and 0 of 30 wrong); "
        "the pattern '' matches nothing in 31 of 31 without one: widen dataset.pattern, or positions=answer, which "
        "needs none; none in: " + "; ".join(f"q{i} 'It is the red stone.'" for i in (0, 30, 31, 32, 33))
    )


@pytest.mark.parametrize("right", [True, False])
def test_a_class_with_too_few_stops_though_most_answers_have_one(right):
    run = Run().add(90, right, "red", how="options").add(9, not right, "red", how="options")
    run.add(21, not right, how="options")
    counts = "90 of 90 right and 9 of 30 wrong" if right else "9 of 30 right and 90 of 90 wrong"
    assert MIN_PER_CLASS == 10
    assert run.stop().startswith(
        f"spans: expected exact answers in at least 10 right and 10 wrong answers, got {counts}; 21 of 21 without one "
        "name no option: let the question"
    )
    assert "none in: q99 'It" in run.stop()
    run.exact[99] = run.exact[0]
    run.check()
    assert len(run.warned) == 1


def test_a_class_with_fewer_than_half_is_warned_of_with_both_shares():
    run = Run().add(80, True, "red").add(20, False, "red").add(21, False, pattern="blue").check()
    assert run.warned == [
        "exact answers: found in 100.0% of right and 48.8% of wrong answers, so 80.0% of the rows in their columns are "
        "right, and 66.1% of all; the pattern 'blue' matches nothing in 21 of 21 without one: widen dataset.pattern"
    ]
    assert Run().add(80, True, "red").add(20, False, "red").add(20, False).check().warned == []


def test_exact_answers_that_are_most_of_long_answers_are_warned_of():
    whole: dict[str, Any] = {"words": "It is the red stone", "how": "model"}
    run = Run().add(20, True, "red").add(10, False, **whole).check()
    assert run.warned == [
        "exact answers: in wrong answers of over 3 words they are 100.0% of the words (median): they look like the "
        "answer itself; see exact_answers.html, and narrow dataset.pattern or choose another way with spans"
    ]
    # Short answers are exact answers as they are, and ten long ones are the least that is told of.
    run = Run().add(20, True, "The Red Stone", text="The Red Stone.").add(9, False, **whole)
    assert run.add(1, False, "red", text="red").check().warned == []
    # One half is not above a half.
    assert Run().add(20, True, "so red", text="It is so red").add(20, False, "red").check().warned == []


@pytest.mark.parametrize(
    ("examples", "advice"),
    [
        (
            [{"n": 5, "how": "options", "finish": "length"}, {"n": 4, "how": "options"}],
            "5 of 9 without one are cut off at model.max_new_tokens=24: raise it",
        ),
        (
            [{"n": 4, "how": "options", "finish": "length"}, {"n": 4, "how": "options"}],
            "8 of 8 without one name no option: let the question ask for one of them, add spellings to dataset.labels, "
            "or set spans=model",
        ),
        (
            [{"n": 2, "how": "pattern", "pattern": r"\d+ feet"}, {"n": 1, "how": "gold"}],
            r"the pattern '\d+ feet' matches nothing in 2 of 3 without one: widen dataset.pattern",
        ),
        (
            [{"n": 2, "how": "pattern", "pattern": "x" * 61}],
            f"the pattern '{'x' * 60}…' matches nothing in 2 of 2 without one: widen dataset.pattern",
        ),
        (
            [{"n": 3, "how": "number"}],
            "3 of 3 without one hold no number: let the question ask for one, or set spans=model",
        ),
        (
            [{"n": 3, "how": "gold"}],
            "3 of 3 without one do not hold the gold answer, and spans=rule seeks nothing else here: set "
            "spans=model, which asks the model, or dataset.pattern, dataset.options, dataset.labels or spans=number",
        ),
        (
            [
                {"n": 3, "how": "model", "replies": ("red", "blue"), "finish": "length"},
                {"n": 2, "how": "model", "replies": ("blue", "It is the red stone")},
                {"n": 1, "how": "model", "replies": ("No Answer",)},
            ],
            "of the last replies about 6 of 6 without one, 3 do not occur in the answer, 2 copy too much of the "
            "answer, 1 say that there is none: ask another model with +model@spans.model=NAME, or set spans=rule with "
            "dataset.pattern",
        ),
        (
            [{"n": 2, "how": "model", "replies": ("red", "")}],
            "of the last replies about 2 of 2 without one, 2 are empty: ask another model with "
            "+model@spans.model=NAME, or set spans=rule with dataset.pattern",
        ),
        (
            [{"n": 3, "how": "model", "replies": ("NO ANSWER",), "finish": "length"}],
            "3 of 3 without one are cut off at model.max_new_tokens=24: raise it",
        ),
        ([{"n": 3, "how": "mine"}], "choose another way with spans"),
    ],
)
def test_what_to_do_is_said_for_the_case_at_hand(examples, advice):
    run = Run()
    for one in examples:
        settings: dict[str, Any] = {"right": False} | one
        run.add(**settings)
    assert run.advice() == advice


def test_a_reply_is_shown_where_there_was_one():
    run = Run().add(10, True, "red", how="model").add(11, False, how="model", replies=("blue", "green"))
    assert run.stop().endswith("; q14 'It is the red stone.' (replied 'green')")
