import pytest

from datamodules.labels.rules import judge_by_gold, judge_by_options
from datamodules.questions.letter_case import compares_case
from datamodules.questions.question import Question
from datamodules.questions.words import find_words, fold


@pytest.mark.parametrize(
    ("word", "compared"),
    [
        ("A", True), ("Z", True), ("US", True), ("WHO", True), ("LED", True), ("May", True), ("Will", True),
        ("You", True), ("USA", True), ("THIS", True), ("AIDS", True),
        ("a", False), ("us", False), ("Copper", False), ("NASA", False), ("POSITIVE", False), ("H2O", False),
        ("TV", False), ("Yes", False), ("NO", False), ("Up", False), ("北", False), ("7", False), ("", False),
    ],
)  # fmt: skip
def test_whose_case_is_compared(word, compared):
    assert compares_case(word) is compared


# What a careful reader would say.
@pytest.mark.parametrize(
    ("accepted", "right", "wrong"),
    [
        (
            "B",
            "B | b | B. | (b) | b) | b) Paris | b. Paris | b: Paris | B because it is | "
            "The answer is b. | It is 'b'. | "
            "the answer is b because it rains | Option b is right. | **b** | "
            "It is B, not A. | answer: b | It is b) Paris",
            "Let b be a number. | A | Bob | In the band b rings a bell",
        ),
        (
            "A",
            "A | a | (a) | a) Rome | A) Rome | A. | It is A. | vitamin A is | Option A | "
            "A is correct. | The answer is a. | "
            "A, because of Rome | the answer is A | So a: it is 'a'",
            "A dog barked. | It is a dog. | It is B. A dog barked. | the answer is a dog | it is a dog | B) A dog | "
            "THIS IS A DOG. | a dog",
        ),
        ("I", "I | (i) | The symbol is I. | i) Rome", "I think it is B. | Well, I think so. | i think it is b"),
        ("S", "S | The symbol is S. | the answer is s", "It's sulfur. | it's sulfur | IT'S SULFUR"),
        ("T", "T", "I don't know. | don't"),
        (
            "US",
            "US | us | the US | The us. | He moved to the US. | US troops | "
            "it is in the us today | THE US IT IS | 'us'",
            "Let us see. | Give it to us. | It tells us so. | give it to us now | Us two. We left | LET US SEE",
        ),
        (
            "IT",
            "IT | it | She works in IT. | IT is her job. | the answer is it",
            "It is cold. | I like it. | it is cold | IT IS COLD | The answer is it depends.",
        ),
        (
            "WHO",
            "WHO | who | The WHO said so. | the who said so",
            "Who knows? | I do not know who. | the answer is who you are | The man who left. | Who?",
        ),
        ("LED", "LED | the LED lamp | led", "He led them. | Led by her, they left."),
        ("PC", "PC | My pc broke. | The PC.", "The party of pcs."),
        (
            "May",
            "May | may | May. | May 5 | May 5th | May, 1945 | May is the fifth month. | It was in May. | In MAY 1945 | "
            "Mr. May is | the answer is may | 'may' | It rained. May was warm.",
            "May I help? | It may be June. | May the best win. | May be June. | it may be june | YOU MAY GO | "
            "It is June. May I help? | May Day comes first?",
        ),
        (
            "Will",
            "Will | will | Will worried about it. | Will is the one who left. | "
            "It is Will. | Will's father | Will Smith",
            "Will it rain? | It will rain. | Will they, or not? | it will",
        ),
        ("You", "You | You. | The film was called You.", "You are right. | Are you? | you are right"),
        ("The Who", "The Who | it was the Who | The Who.", "I know the one who left. | I know who"),
        ("the US", "the US | The US.", "In the end us two left. | give us the key"),
        ("AIDS", "AIDS | aids | It is AIDS. | of Aids it is", "It aids them. | Hearing aids"),
        ("NASA", "NASA | Nasa | It was nasa.", "Nas"),
        ("POSITIVE", "The sentiment is positive. | Positive", "negative"),
        ("YES", "Yes, it is. | I say yes to that.", "eyes"),
        ("Copper", "The element is copper. | COPPER", "Cop"),
        ("may", "It may be.", "It is."),
        ("us", "Give us | US", "bus"),
        ("U.S.", "U.S. | the u.s. | in the U. S. | u s", "us | you s"),
        ("T.I.", "T.I. | by T. I. | T I", "I can't. I think so. | It isn't I. | can't i"),
    ],
)  # fmt: skip
def test_a_word_in_a_careful_reader_s_eyes(accepted, right, wrong):
    question = Question("q0", "g", "?", (accepted,))
    judged = {text: judge_by_gold(text, question).right for text in (*right.split(" | "), *wrong.split(" | "))}
    assert [text for text in right.split(" | ") if not judged[text]] == []
    assert [text for text in wrong.split(" | ") if judged[text]] == []


@pytest.mark.parametrize(
    ("accepted", "right", "wrong"),
    [
        ("∞", "∞ | It is ∞. | x→∞, of course", "infinity | 8"),
        ("→", "the sign → | (→)", "← | -"),
        ("😀", "😀 | it is 😀😀!", "😁 | smile"),
        ("❤️", "I ❤ it | ❤️", "♥"),
        ("👍", "👍🏽", "👎"),
        ("🇷🇺", "flag 🇷🇺", "🇫🇷🇺🇸"),
        ("👨", "a 👨", "👨‍👩‍👧"),
        ("+", "+ | 1 + 1 | 1+1 | **+**", "1 - 1 | ++"),
        ("%", "20% | %", "20"),
        ("=", "a = b", "a != b | a == b"),
        ("!=", "a != b", "a = b"),
        ("->", "a -> b", "a > b | a - b"),
        ("?", "It is the sign ?", "It is."),
        ("−", "the sign -", "+"),
        ("...", "then ...", "then."),
    ],
)
def test_signs_alone_are_compared_as_text(accepted, right, wrong):
    question = Question("q0", "g", "?", (accepted,))
    assert [text for text in right.split(" | ") if not judge_by_gold(text, question).right] == []
    assert [text for text in wrong.split(" | ") if judge_by_gold(text, question).right] == []


def test_where_signs_stand_among_words():
    assert find_words("→", fold("the sign is → and ∞")) == 3
    assert find_words("∞", fold("the sign is → and ∞")) == 4
    assert find_words("→", fold("→ it is")) == 0
    assert find_words(" ", fold("a b")) is None


def test_options_compare_case_as_gold_answers_do():
    letters = Question("q0", "g", "?", ("B",), options=(("A",), ("B",), ("C",)))
    assert judge_by_options("It is a hard question, so B.", letters).right is True
    assert judge_by_options("A dog has it, so B.", letters).right is True
    assert judge_by_options("(a), not b", letters).branch == "another option first"
    assert judge_by_options("b) Rome", letters).right is True
    arrows = Question("q0", "g", "?", ("→",), options=(("→",), ("←",)))
    assert [judge_by_options(text, arrows).branch for text in ("it is →, not ←", "←", "none")] == [
        "the gold option first", "another option first", "no option named",
    ]  # fmt: skip
