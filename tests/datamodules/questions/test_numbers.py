import random

import pytest

from datamodules.labels.rules import judge_by_number
from datamodules.labels.spans import RuleSpans
from datamodules.questions.numbers import find_answer_number, find_numbers
from datamodules.questions.question import Question


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("From -5 to 1,200.50, or nine; x2", {"-5": -5, "1,200.50": 1200.5, "nine": 9}),
        ("3/4 or 2 1/2, 1/2/2003", {"3/4": 0.75, "2 1/2": 2.5, "1": 1, "2": 2, "2003": 2003}),
        ("12 / 3 = 4", {"12 / 3": 4, "4": 4}),
        ("9kg, x=8cm, .5m, 9th, 9x, 1990s, covid-19", {"9": 9, "8": 8, ".5": 0.5, "19": 19}),
        ("1{,}950 and $1,950.00", {"1{,}950": 1950, "1,950.00": 1950}),
        ("−5, minus six, -$7, - $8, 10-5", {"−5": -5, "minus six": -6, "-$7": -7, "- $8": -8, "10": 10, "5": 5}),
        ("2½, ¾, 18/2, 3 1/2 cups", {"2½": 2.5, "¾": 0.75, "18/2": 9, "3 1/2": 3.5}),
        ("1.5 million or two hundred and five; 5 thousand", {"1.5 million": 1.5e6, "two hundred and five": 205,
                                                           "5 thousand": 5000}),
        ("Twenty-one men, no one else", {"Twenty-one": 21}),
        ("25 cm², 30 cm^2, 5², 2^3, 2**4, **6**, 10^{4}", {"25": 25, "30": 30, "5²": 25, "2^3": 8, "2**4": 16,
                                                           "6": 6, "10^{4}": 10000}),
        ("3 × 10^8, 1.5*10^-3", {"3 × 10^8": 3e8, "1.5*10^-3": 0.0015}),
        (r"\frac{3}{4} and \$9 and 20\%", {r"\frac{3}{4}": 0.75, "9": 9, "20": 20}),
        ("９ and Straße 7", {"９": 9, "7": 7}),
        ("1. He has 5.\n2. He eats 3.\n3.", {"5": 5, "3": 3}),
        ("1. He has 5.", {"1": 1, "5": 5}),
        ("18.\nI am sure.", {"18": 18}),
        ("Step 2: 8 apples", {"8": 8}),
        ("-3/4, -2 1/2, -½, -1½, 3 - ½", {"-3/4": -0.75, "-2 1/2": -2.5, "-½": -0.5, "-1½": -1.5, "3": 3, "½": 0.5}),
        ("½ million, 3/4 million, 2½ million", {"½ million": 5e5, "3/4 million": 7.5e5, "2½ million": 2.5e6}),
        ("½kg/2, ¾3", {"½": 0.5, "2": 2, "¾": 0.75, "3": 3}),
        ("5 6/3 and 3/0", {"5": 5, "6/3": 2, "3": 3, "0": 0}),
        ("10^9999", {"10": 10}),
        ("1.5e-12, 1e+22 or -2.5E3 m; 5em, x1e3", {"1.5e-12": 1.5e-12, "1e+22": 1e22, "-2.5E3": -2500, "5": 5}),
        ("none", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_numbers_and_where_they_stand(text, found):
    assert [(text[slice(*one.characters)], one.value) for one in find_numbers(text)] == list(found.items())


ANSWERS = [
    ("3 * 6 = 18", "18", 18),
    ("18", "18", 18),
    ("The answer is 18. I checked it 2 times.", "18", 18),
    ("x = 3, y = 4, so the sum is 7", "7", 7),
    ("x = 3 and y = 4 so the sum is 7", "7", 7),
    ("12 - 5 = 7 apples, so he has 7.", "7", 7),
    ("He has 12 - 5 = 7 (see step 2).", "7", 7),
    ("He has 12 - 5 = 7 (12 less 5).", "7", 7),
    ("3 * 6 = 18 dollars for 6 hours.", "18", 18),
    ("3 * 6 = $18 a day. She works 2 days.", "2", 2),
    ("The answer is 3 * 6 = 18. It took 2 steps.", "18", 18),
    ("The answer is 18 = 3 * 6.", "18", 18),
    ("The answer is 20% of 50 = 10, from 3 boxes.", "10", 10),
    ("The answer is 3 apples x 6 dollars = 18 dollars, or 2 tens.", "18", 18),
    ("The answer is 5 + 2. So he has 9.", "9", 9),
    ("The answer is 18 (since 20 - 2 = 18 and 18 + 2 = 20).", "18", 18),
    ("The answer is not 5. It is 7.", "7", 7),
    ("The answer is unknown. He has 3 cows.", "3", 3),
    ("The answer is: 5. No, the answer is 6, not 7.", "6", 6),
    ("The answer to the question is 6, not 7.", "6", 6),
    ("**Answer:** 18\n\nThis took 2 steps.", "18", 18),
    ("Answer: he has\n18 left of 20", "18", 18),
    ("5 + 4 = 9\n#### 9", "9", 9),
    (r"So \boxed{18}, which is 2 nines.", "18", 18),
    ("He had 3 and got 6: nine in all", "nine", 9),
    ("It costs -$5", "-$5", -5),
    ("It weighs 9kg", "9", 9),
    ("a == 3 or b >= 4, 5 in all", "5", 5),
    ("= 1.5 million", "1.5 million", 1.5e6),
    ("2½", "2½", 2.5),
    ("nobody knows", None, None),
    ("", None, None),
]


@pytest.mark.parametrize(("answer", "words", "value"), ANSWERS)
def test_the_number_that_is_judged_is_the_one_that_is_marked(answer, words, value):
    said = find_answer_number(answer)
    assert (said and said.value) == value
    marked = RuleSpans("number").find_one(Question("q0", "g", "?", ("1",)), answer).characters
    assert (marked and answer[slice(*marked)]) == words
    values = {one.value for one in find_numbers(answer)} | {123456.0}
    assert [v for v in values if judge_by_number(answer, Question("q0", "g", "?", (str(v),))).right] == (
        [] if said is None else [value]
    )


def test_numbers_of_any_length_and_script_can_be_read():
    assert find_numbers("9" * 400)[0].value == float("inf")
    assert find_numbers("-" + "9" * 400)[0].value == -float("inf")
    assert find_numbers("٣ and ४")[0].value == 3


def test_where_a_number_stands_in_a_text_of_any_signs():
    random.seed(0)
    pieces = [*"½²-−$€ \n/^=x×().}%éßﬁ", "3", "18", "1,500.0", "**", "9" * 30,
              "answer is ", "####", "\\boxed{", "\\frac{", "}{", "two", "million", "kg", "1."]  # fmt: skip
    for _ in range(3000):
        text = "".join(random.choices(pieces, k=12))
        found = find_numbers(text)
        ends = [0, *(end for number in found for end in number.characters)]
        assert ends == sorted(ends)
        assert ends[-1] <= len(text)
        assert (find_answer_number(text) is None) == (not found)
        assert find_answer_number(text) in (*found, None)
