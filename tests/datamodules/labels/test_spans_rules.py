from typing import Any

import pytest

from datamodules.examples import Span
from datamodules.labels.rules import judge_by_options
from datamodules.labels.spans import (
    REPLY_TOKENS,
    ModelSpans,
    RuleSpans,
    clean_reply,
    prepare_for_replies,
    write_extraction_prompt,
)
from datamodules.language.language_model import LanguageModel
from datamodules.questions.question import Question


def question(i=0, gold=("grey heron",), **settings):
    return Question(id=f"q{i}", group=f"g{i}", text=f"question {i}?", answers=tuple(gold), **settings)


def nobody(*_):
    pytest.fail("a model was asked")


def words(answer, exact):
    return answer[slice(*exact.characters)] if exact.characters else None


@pytest.mark.parametrize(
    ("settings", "asked", "answer", "found", "how"),
    [
        ({}, {"pattern": r"grey \w+"}, "a grey owl here", "grey owl", "pattern"),
        ({}, {"pattern": r"(?<=of )\w+"}, "stone river of stone", "stone", "pattern"),
        ({}, {"pattern": "x*"}, "nothing", None, "pattern"),
        ({}, {"pattern": r"is (?P<exact>\w+)"}, "it is Ann", "Ann", "pattern"),
        ({}, {"options": (("Ann",), ("Bob",))}, "Bob, because Ann left", "Bob", "options"),
        ({}, {}, "a grey owl here", None, "gold"),
        ({}, {"gold": ["owl", "grey heron"]}, "a Grey Heron here", "Grey Heron", "gold"),
        ({"rule": "number"}, {}, "3 and 4 make 7.", "7", "number"),
        ({"rule": "number"}, {}, "it is -3.5, not x2", "-3.5", "number"),
        ({"rule": "number"}, {}, "10-5 is 1,000", "1,000", "number"),
        ({"rule": "number"}, {}, "The answer is 7. 3 and 4 make it.", "7", "number"),
        ({"rule": "number"}, {}, "it is seven", "seven", "number"),
        ({"rule": "number"}, {}, "many", None, "number"),
        ({"rule": "options"}, {"options": (("Ann",), ("Bob",))}, "Bob, because Ann left", "Bob", "options"),
        ({"rule": "options"}, {"options": (("Ann",), ("Bob",))}, "Annie saw ann and Bob", "ann", "options"),
        ({"rule": "options"}, {"options": (("Ann",), ("Ann Lee",))}, "It is Ann Lee.", "Ann Lee", "options"),
        ({"rule": "options"}, {"options": (("Ann",), ("Bob",))}, "neither", None, "options"),
        # The alias that stands first in the answer, not in the list; of two at one place the longer.
        ({}, {"gold": ["England", "UK"]}, "Oxford is in the UK, in England.", "UK", "gold"),
        ({}, {"gold": ["York", "New York"]}, "It is New York.", "New York", "gold"),
        ({}, {"gold": ["New York", "New York City"]}, "It is New York City.", "New York City", "gold"),
        # Whole words of any alias before parts of words, and these where nothing else is there.
        ({}, {"gold": ["Japan", "Nippon"]}, "A Japanese word: Nippon.", "Nippon", "gold"),
        ({}, {"gold": ["Japan", "Nippon"]}, "A Japanese word.", "Japan", "gold"),
        ({"rule": "options"}, {"options": (("art",), ("music",))}, "A party with music.", "music", "options"),
        ({"rule": "options"}, {"options": (("A",), ("B",))}, "It is a bird: B.", "B", "options"),
        (
            {"rule": "options"},
            {"options": (("positive",), ("negative", "bad"))},
            "Negative, not positive.",
            "Negative",
            "options",
        ),
        ({"rule": "options"}, {"options": (("positive",), ("negative", "bad"))}, "A bad one.", "bad", "options"),
    ],
)
def test_rules(settings, asked, answer, found, how):
    rule = RuleSpans(**settings)
    (exact,) = rule([question(**asked)], [answer], [True], nobody)
    assert words(answer, exact) == found
    assert exact.how == how
    assert rule([question(**asked)], [answer], [False], nobody) == [exact]  # whatever the label


class Scripted:
    """Replies from a table: what is asked about which answer, in turn."""

    def __init__(self, replies):
        self.replies, self.asked, self.texts = {answer: list(given) for answer, given in replies.items()}, [], []

    def __call__(self, ids, texts, model):
        self.asked.append((list(ids), model))
        self.texts.append(list(texts))
        return [self.replies[text.rsplit("\nAnswer: ", 1)[1].removesuffix("\nExact answer:")].pop(0) for text in texts]


ANSWERS = ["a grey heron stood there", "an owl, I think", "who knows", "it was a kite", "a crow"]
LABELS = [True, False, False, False, True]
REPLIES = {
    "a grey heron stood there": ["Grey heron."],
    "an owl, I think": ["a snowy owl", '"owl"\nbecause'],
    "who knows": ["NO ANSWER"],
    "it was a kite": ["bird", "hawk", ""],
    "a crow": ["crow", "crow"],
}
QUESTIONS = [question(i) for i in range(4)] + [question(4, gold=["raven"])]


def test_a_model_is_asked_about_every_answer_until_its_reply_stands_there():
    ask = Scripted(REPLIES)
    exact = ModelSpans(tries=3)(QUESTIONS, ANSWERS, LABELS, ask)
    assert [words(a, e) for a, e in zip(ANSWERS, exact, strict=True)] == ["grey heron", "owl", None, None, "crow"]
    assert [ids for ids, _ in ask.asked] == [["q0", "q1", "q2", "q3", "q4"], ["q1", "q3"], ["q3"]]
    assert [texts[-1] for texts in ask.texts[1:]] == [
        write_extraction_prompt("question 3?", ANSWERS[3], k) for k in (1, 2)
    ]
    assert exact[1].replies == ("a snowy owl", "owl")
    assert exact[2].replies == ("NO ANSWER",)
    assert exact[3] == Span(None, "model", ("bird", "hawk", ""))


def test_labels_do_not_decide_who_is_asked_but_where_the_paper_is_followed():
    ask = Scripted(REPLIES)
    ModelSpans(tries=1)(QUESTIONS, ANSWERS, [not label for label in LABELS], ask)
    assert ask.asked[0][0] == ["q0", "q1", "q2", "q3", "q4"]
    ask = Scripted(REPLIES)
    exact = ModelSpans(only_wrong=True, tries=1)(QUESTIONS, ANSWERS, LABELS, ask)
    # q4 is called right for another reason than the gold words, which its answer lacks
    assert ask.asked[0][0] == ["q1", "q2", "q3", "q4"]
    assert [one.how for one in exact] == ["gold", "model", "model", "model", "model"]
    assert words(ANSWERS[0], exact[0]) == "grey heron"


SENTENCE = "The capital of Australia is Sydney, as everybody knows."


@pytest.mark.parametrize(
    ("answer", "replies", "settings", "found"),
    [
        # A copied sentence is not taken, nor most of one.
        (SENTENCE, [SENTENCE, "The capital of Australia is Sydney", "Sydney"], {}, "Sydney"),
        (SENTENCE, [SENTENCE] * 3, {}, None),
        ("It was Herman Melville.", ["It was Herman Melville.", "Herman Melville", ""], {}, "Herman Melville"),
        # Half of the words may be.
        (
            "I say it was John Ronald Reuel Tolkien",
            ["John Ronald Reuel Tolkien", "", ""],
            {},
            "John Ronald Reuel Tolkien",
        ),
        # A short answer is its own exact answer.
        ("Paris.", ["Paris."], {}, "Paris"),
        ("Barack Obama", ["Barack Obama"], {}, "Barack Obama"),
        ("New York City", ["New York City"], {}, "New York City"),
        ("我住在北京的东边", ["我住在北京的东边", "北京", ""], {}, "北京"),  # each character is a word
        # The longest reply is an option.
        (SENTENCE * 3, [SENTENCE, "Sydney", ""], {}, "Sydney"),
        (SENTENCE * 3, ["capital of Australia is Sydney, as", "", ""], {}, "capital of Australia is Sydney, as"),
        (SENTENCE * 3, ["The capital of Australia is Sydney, as", "Sydney", ""], {}, "Sydney"),
        (SENTENCE * 3, ["is Sydney, as", "Sydney", ""], {"max_words": 2}, "Sydney"),
    ],
)
def test_a_reply_that_copies_the_answer_is_asked_for_again(answer, replies, settings, found):
    exact = ModelSpans(tries=3, **settings)([question()], [answer], [False], Scripted({answer: replies}))
    assert words(answer, exact[0]) == found


def test_another_model_may_be_asked(language_model):
    ask = Scripted(REPLIES)
    ModelSpans(tries=1, model=language_model)(QUESTIONS, ANSWERS, LABELS, ask)
    assert ask.asked[0][1] is language_model
    short = prepare_for_replies(language_model)
    assert (short.prompt, short.stop, short.id) == ("{question}", "\n", language_model.id)
    assert short.max_new_tokens == REPLY_TOKENS


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (" Paris.\nIt is the capital", "Paris"),
        ("“New York”", "New York"),
        ("Exact answer: 42", "42"),
        ("'ship's'", "ship's"),
        ("U.S.A", "U.S.A"),
        ("", ""),
        ("\n\nowl", "owl"),
    ],
)
def test_replies_are_cleaned(reply, kept):
    assert clean_reply(reply) == kept


def test_each_try_shows_other_examples_and_ends_where_the_model_goes_on():
    prompts = [write_extraction_prompt("Who?", "It was\nAnn.", k) for k in range(30)]
    assert len(set(prompts)) == 30
    assert all(p.endswith("Question: Who?\nAnswer: It was Ann.\nExact answer:") for p in prompts)
    assert all(p.count("\nExact answer:") == 3 for p in prompts)


GPT2: Any = {"model": "gpt2"}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: RuleSpans(rule="guess"), "spans.rule: expected one of auto, pattern, options, number; got 'guess'"),  # pyright: ignore
        (
            lambda: RuleSpans("pattern")([question()], ["a"], [True], nobody),
            "spans.rule=pattern: expected a regular expression for every question, got none for q0; set",
        ),
        (lambda: ModelSpans(only_wrong="maybe"), "spans.only_wrong: expected true or false, got 'maybe'"),  # type: ignore[arg-type]
        (
            lambda: ModelSpans(**GPT2),
            r"spans.model: expected null or a model, got 'gpt2'; give it with \+model@spans",
        ),  # type: ignore[arg-type]
        (lambda: ModelSpans(tries=0), "spans.tries: expected 1 to 30, got 0"),
        (lambda: ModelSpans(max_words=0), "spans.max_words: expected a whole number above 0, got 0"),
        (lambda: ModelSpans(tries=31), "spans.tries: expected 1 to 30, got 31"),
        (
            lambda: RuleSpans("options")([question(options=(("a",),))], ["a"], [True], nobody),
            r"expected options of every question, got \[\('a',\)\] for q0; name their columns with dataset.options",
        ),
    ],
)
def test_mistakes_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_as_the_study_does_options_and_patterns_tell_without_asking():
    choice = {"options": (("Ann",), ("Bob",))}
    asked = [question(0, gold=["Bob"], **choice), question(1, gold=["Bob"], **choice), question(2, pattern=r"grey \w+")]
    answers, labels = ["Ann, not Bob", "neither", "a grey owl"], [False, False, False]
    exact = ModelSpans(only_wrong=True)(asked, answers, labels, nobody)
    assert [words(a, e) for a, e in zip(answers, exact, strict=True)] == ["Ann", None, "grey owl"]
    assert [one.how for one in exact] == ["options", "options", "pattern"]


def test_who_is_asked_gets_a_turn_of_its_own_whatever_the_answers_had():
    model = LanguageModel("org/name", template={"add_generation_prompt": False, "enable_thinking": False})
    asked = prepare_for_replies(model).template
    assert asked is not None
    assert (asked["add_generation_prompt"], asked["enable_thinking"]) == (True, False)
    assert model.template == {"add_generation_prompt": False, "enable_thinking": False}


@pytest.mark.parametrize(
    ("answer", "marked"),
    [
        ("It is a hard one, but B.", "B"),
        ("I would take (a).", "a"),
        ("A dog is at the door: B", "B"),
        ("A is right.", "A"),
        ("That is a hard one.", None),
        ("about cats", None),
    ],
)
def test_the_option_that_is_marked_is_the_one_that_is_judged(answer, marked):
    question = Question("a", "a", "?", ("B",), options=(("A",), ("B",)))
    exact = RuleSpans("options").find_one(question, answer)
    assert (exact.characters and answer[slice(*exact.characters)]) == marked
    verdict = judge_by_options(answer, question)
    assert verdict.right is (marked == "B")
    assert (verdict.branch == "no option named") is (marked is None)


@pytest.mark.parametrize(
    ("answer", "marked", "right"),
    [
        ("The nurse.", "The nurse", True),
        ("Nurse, I think.", "Nurse", True),
        ("Mechanic, not the nurse", "Mechanic", False),
        ("Nobody", None, False),
    ],
)
def test_an_option_is_marked_without_its_article_as_it_is_judged(answer, marked, right):
    question = Question("a", "a", "?", ("the nurse",), options=(("the nurse",), ("the mechanic",)))
    exact = RuleSpans("options").find_one(question, answer)
    assert (exact.characters and answer[slice(*exact.characters)]) == marked
    assert judge_by_options(answer, question).right is right
