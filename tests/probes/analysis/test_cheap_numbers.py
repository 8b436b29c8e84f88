"""Log-probabilities and lengths from a table of examples, against numbers by hand."""

import numpy as np
import pandas as pd
import pytest

from probes.analysis.cheap_numbers import find_exact_answers, is_stated, measure_lengths, read_logprobs

POSITIONS = ("last_q", "exact_answer_first", "exact_answer_last")
NAN = float("nan")


def record(**columns):
    """Four answers: an exact answer of two tokens, one of one token, none, and an empty answer after a thought."""
    usual = {
        "question": ["Who?", "Where is it?", "Why?", "When?"],
        "answer": ["It is Bob.", "Rome", "No idea", ""],
        "prompt_ids": [[1, 2], [1, 2, 3], [1], [1]],
        "thought_ids": [[], [8, 8], [], [8]],
        "answer_ids": [[4, 5, 6, 7], [9], [4, 4], []],
        "logprobs": np.array([[-1.0, -4.0, -2.0, -0.5], [-0.25], [-3.0, -1.0], []], dtype=object).tolist(),
        "first_token": [[1, 3, 4], [2, 5, 5], [0, 0, 0], [0, 0, 0]],
        "last_token": [[1, 3, 4], [2, 5, 5], [0, 0, 0], [0, 0, 0]],
        "valid": [[True, True, True], [True, True, True], [True, False, False], [True, False, False]],
        "exact_answer_tokens": [[1, 2], [0, 0], None, None],
    }
    return pd.DataFrame(usual | columns)


@pytest.mark.parametrize("older", [False, True], ids=["tokens recorded", "from positions"])
def test_log_probabilities_by_hand(older):
    """The record without the tokens of exact answers finds them by its positions; a thought shifts them."""
    examples = record().drop(columns="exact_answer_tokens") if older else record()
    assert find_exact_answers(examples, POSITIONS) == [(1, 3), (0, 1), None, None]
    numbers, missing = read_logprobs(examples, POSITIONS)
    assert missing == []
    expected = {
        "logprob mean, answer": [-1.875, -0.25, -2.0, NAN],
        "logprob min, answer": [-4.0, -0.25, -3.0, NAN],
        "logprob max, answer": [-0.5, -0.25, -1.0, NAN],
        "logprob sum, answer": [-7.5, -0.25, -4.0, NAN],
        "logprob first, answer": [-1.0, -0.25, -3.0, NAN],
        "logprob mean, exact answer": [-3.0, -0.25, NAN, NAN],
        "logprob min, exact answer": [-4.0, -0.25, NAN, NAN],
        "logprob max, exact answer": [-2.0, -0.25, NAN, NAN],
        "logprob sum, exact answer": [-6.0, -0.25, NAN, NAN],
        "logprob first, exact answer": [-4.0, -0.25, NAN, NAN],
    }
    assert list(numbers) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(numbers[name], values, name)


def test_what_is_not_finite_is_missing():
    numbers, missing = read_logprobs(record(logprobs=[[-1.0, -np.inf, -2.0, -0.5], [-0.25], [NAN, -1.0], []]))
    np.testing.assert_array_equal(numbers["logprob max, answer"], [NAN, -0.25, NAN, NAN])
    # The tokens of the exact answer decide for themselves.
    np.testing.assert_array_equal(numbers["logprob max, exact answer"], [NAN, -0.25, NAN, NAN])
    assert missing == ["2 of 4 answers have log-probabilities that are not finite"]


@pytest.mark.parametrize(
    ("examples", "n_numbers", "said"),
    [
        (record(logprobs=[[]] * 4), 0, "no log-probabilities"),
        (record().drop(columns="logprobs"), 0, "no log-probabilities"),
        (record(exact_answer_tokens=[None] * 4), 5, "no exact answers"),
        (record().drop(columns=["exact_answer_tokens", "first_token"]), 5, "no exact answers"),
    ],
)
def test_what_the_record_lacks_is_left_out_and_said_once(examples, n_numbers, said):
    numbers, (missing,) = read_logprobs(examples, POSITIONS)
    assert len(numbers) == n_numbers
    assert missing.startswith(said)


def test_lengths_in_tokens_or_in_characters():
    lengths, missing = measure_lengths(record())
    assert {name: list(values) for name, values in lengths.items()} == {
        "answer length": [4, 1, 2, 0],
        "question length": [2, 3, 1, 1],
    }
    lengths, _ = measure_lengths(record(answer=["a b", "", None, "  c "]).drop(columns=["answer_ids", "prompt_ids"]))
    assert {name: list(values) for name, values in lengths.items()} == {
        "answer length": [3, 0, 0, 1],
        "question length": [4, 12, 4, 5],
    }
    assert missing == []
    assert measure_lengths(pd.DataFrame({"row": [0, 1]})) == (
        {},
        ["no texts are recorded; the baselines from texts and lengths are left out"],
    )


def test_a_statement_has_one_length():
    texts = ["It rains.", "It snows today."]
    examples = pd.DataFrame(
        {"question": texts, "answer": texts, "answer_ids": [[1, 2], [1, 2, 3]], "prompt_ids": [[]] * 2}
    )
    assert is_stated(examples)
    assert not is_stated(record())
    assert list(measure_lengths(examples)[0]) == ["answer length"]
