import pytest

from datamodules.labels.judge import Judge, build_study_rule, read_verdict, write_judge_prompt
from datamodules.labels.rules import TextRule
from datamodules.questions.question import Question

QUESTIONS = [Question(f"q{i}", "g", f"Who is {i}?", ("Ann", "Anna")) for i in range(4)]


def test_only_answers_without_gold_are_judged_and_unclear_ones_again_then_left_out():
    asked = []

    def ask(ids, texts, model):
        asked.append(list(ids))
        replies = {"q1": ["Yes."], "q2": ["hm", " no, it is not"], "q3": ["", "perhaps", "nobody knows"]}
        return [replies[i][len(asked) - 1] for i in ids]

    verdicts = Judge(tries=3)(QUESTIONS, ["Anna", "her", "him", "it"], ask)
    assert [verdict.right for verdict in verdicts] == [True, True, False, None]
    assert [verdict.branch for verdict in verdicts] == [
        "an alias occurs", "the judge says yes", "the judge says no", "the judge does not say",
    ]  # fmt: skip
    assert asked == [["q1", "q2", "q3"], ["q2", "q3"], ["q3"]]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("yes", True), (' "No."', False), ("Yes, the same", True), ("nothing", None), ("It is: yes", None), ("", None)],
)
def test_a_verdict_is_the_first_word(reply, verdict):
    assert read_verdict(reply) is verdict


def test_each_try_shows_other_examples_and_one_of_each_verdict():
    prompts = [write_judge_prompt(QUESTIONS[0], "it is\nher", k) for k in range(8)]
    assert len(set(prompts)) == 8
    for prompt in prompts:
        assert prompt.count("Verdict: yes") == prompt.count("Verdict: no") == 1
        assert prompt.endswith("Question: Who is 0?\nReference answer: Ann or Anna\nGiven answer: it is her\nVerdict:")


@pytest.mark.parametrize("tries", [0, 9, 1.5])
def test_tries_are_checked(tries):
    with pytest.raises(ValueError, match=rf"rule.tries: expected 1 to 8, got {tries}"):
        Judge(tries=tries)


def test_the_study_takes_substrings_and_asks_a_judge_in_some_sets_only():
    answers = ["Annabel", "her", "him", "it"]  # Ann as written, inside a word
    plain = build_study_rule("movies", ["nq"])
    assert isinstance(plain, TextRule)
    assert [one.right for one in plain(QUESTIONS, answers, None)] == [True, False, False, False]
    asked = []

    def ask(ids, texts, model):
        asked.extend(ids)
        return ["yes"] * len(ids)

    judge = build_study_rule("nq", ["nq"], tries=2)
    assert [one.right for one in judge(QUESTIONS, answers, ask)] == [True] * 4
    assert asked == ["q1", "q2", "q3"]
