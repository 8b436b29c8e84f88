"""The report and the page of scored answers: numbers, words, colours, and texts that try to be more."""

import re
from html.parser import HTMLParser

import pytest

from datamodules.card import Card
from probes.analysis.calibration import Calibration, Threshold
from probes.scoring.ensemble import Ensemble
from probes.scoring.score_report import Outcome, describe_outcome, draw_outcome
from probes.scoring.scored_answer import ScoredAnswer
from probes.scoring.scored_page import write_page

HOSTILE = "</style><script>alert('x')</script>\u202e\x1b[31m\"'&\n"


class Texts(HTMLParser):
    """Every text of a page and every tag."""

    def __init__(self):
        super().__init__()
        self.texts, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data)


def make_record(**changes):
    usual = {
        "id": "q0", "question": "Q", "answer": "A", "score": 1.0, "probability": 0.75, "decision": True,
        "threshold": 0.5, "cell": "4:last", "exact_answer": None, "read_at": (0, 0), "tokens": ("A",),
        "token_scores": (1.0,), "token_probabilities": (0.75,), "finish": "stop",
    }  # fmt: skip
    return ScoredAnswer(**usual | changes)


@pytest.mark.parametrize(
    ("label", "lines", "ends"),
    [
        ("correctness", {"called right", "right by the gold answers", "wrong among the most probable 50%"}, "0 wrong"),
        ("label", {"called label 1", "label 1 in the set", "label 0 among the most probable 50%"}, "0 label 0"),
        (
            "colour: red",
            {"class", "put into the class", "in the class by the set", "outside among the most probable 50%"},
            "0 outside",
        ),
    ],
)
def test_the_words_are_those_of_the_label_set(label, lines, ends):
    calibration, threshold = Calibration(1.0, 0.0, 0.1, 0.1), Threshold(0.5, 0.05, 0.0, 0.2, 40)
    card = Card("m", "d", "resid_post", (4,), ("last",), 8, targets=(), n_valid=(9,))
    outcome = Outcome("run", card, "set", [Ensemble((), (), 0.0, calibration, threshold)], label=label)
    outcome.counts = {"4:last": 0, "": 0}
    for i in range(6):
        outcome.add(make_record(probability=0.1 + 0.1 * i, label=i > 2, decision=i > 3), f"g{i}")
    shown = describe_outcome(outcome)
    assert lines <= set(shown)
    page = "".join(write_page(shown, draw_outcome(outcome), [make_record(label=False).to_json()], outcome.wording))
    assert f"<small>{ends}</small>" in page
    text = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    for word in ("right", "wrong", "gold"):
        assert (word in text) == (label == "correctness"), word


def test_what_a_model_writes_is_nothing_but_text():
    record = make_record(id=HOSTILE, question=HOSTILE, tokens=(HOSTILE,), exact_answer=HOSTILE, cell=HOSTILE)
    page = "".join(write_page({"run": HOSTILE}, [], [record.to_json()]))
    parser = Texts()
    parser.feed(page)
    assert not parser.tags & {"script", "img", "a", "link"}
    shown = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    assert sum(shown in text for text in parser.texts) >= 3  # table, question and token
    assert "\u202e" not in page
    assert "\x1b" not in page


@pytest.mark.parametrize(("p", "step"), [(0.0, -10), (0.5, 0), (1.0, 10), (0.74, 5)])
def test_a_token_has_the_colour_of_its_probability(p, step):
    record = make_record(token_probabilities=(p,))
    page = "".join(write_page({}, [], [record.to_json()]))
    assert f"<i class='c{step} read' title='0: score 1, probability {p:.3f}'>A</i>" in page
    assert f".c{step}{{background:" in page


def test_answers_without_a_score_come_last_and_have_no_part_in_the_numbers():
    calibration, threshold = Calibration(1.0, 0.0, 0.1, 0.1), Threshold(0.5, 0.05, 0.0, 0.2, 40)
    ensemble = Ensemble((), (), 0.0, calibration, threshold)
    card = Card("m", "d", "resid_post", (4,), ("last",), 8, targets=(), n_valid=(9,))
    outcome = Outcome("run", card, "set", [ensemble], seen=2)
    outcome.counts = {"4:last": 0, "": 0}
    for p, label in ((0.9, True), (None, False), (0.2, False), (0.6, False)):
        none = {"score": None, "decision": None} if p is None else {"decision": p > 0.5}
        outcome.add(make_record(probability=p, label=label, **none), f"g{p}")
    assert outcome.rank() == [2, 3, 0, 1]
    found = outcome.measure()
    assert (found["answers"], found["scored"], found["judged"], found["right"]) == (4, 3, 3, 1)
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert found["risk"] == {"0.5": pytest.approx(1 / 2), "0.8": pytest.approx(2 / 3)}
    assert found["false_alarms"]["value"] == 0.5
    assert describe_outcome(outcome)["of the run's own texts"].startswith("2, whose scores are too good")
    assert describe_outcome(outcome)["without a score"] == "1, which lack the position"
