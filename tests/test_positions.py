import math

import pytest
import torch

from datamodules.positions import NAMES, Positions, coincidence


def by_name(names, prompt, answer, span, into_prompt=False):
    index, valid = Positions(names, into_prompt).index([prompt], [answer], [span])
    return {name: int(i) if v else None for name, i, v in zip(names, index[0], valid[0], strict=True)}


def test_every_name_of_one_example():
    # prompt 0..9, answer 10..21, exact answer at its tokens 4..6
    found = by_name(NAMES, 10, 12, (4, 6))
    assert found == {
        "last_q": 9,
        "first_answer": 10,
        "second_answer": 11,
        "exact_answer_before_first": 13,
        "exact_answer_first": 14,
        "exact_answer_last": 16,
        "exact_answer_after_last": 17,
        **{str(-k): 22 - k for k in range(8, 0, -1)},
    }


def test_absent_positions_are_invalid_never_another_token():
    found = by_name(NAMES, 10, 3, None)
    assert [name for name in NAMES if found[name] is None] == [
        "exact_answer_before_first",
        "exact_answer_first",
        "exact_answer_last",
        "exact_answer_after_last",
        "-8",
        "-7",
        "-6",
        "-5",
        "-4",
    ]
    one = by_name(NAMES, 10, 1, (0, 0))
    assert one["second_answer"] is None
    assert one["exact_answer_before_first"] is None
    assert one["exact_answer_after_last"] is None
    assert one["exact_answer_first"] == one["exact_answer_last"] == one["-1"] == 10


def test_into_prompt_lets_the_last_tokens_reach_back():
    found = by_name(NAMES, 10, 3, (0, 0), into_prompt=True)
    assert found["-8"] == 5
    assert found["exact_answer_before_first"] == found["last_q"] == 9
    assert by_name(["-8"], 2, 3, None, into_prompt=True)["-8"] is None


def test_coincidence_against_counting():
    index = torch.tensor([[3, 3, 5], [3, 4, 4], [2, 2, 0]])
    valid = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    shares = coincidence(index, valid)
    assert shares[0, 1] == pytest.approx(2 / 3)
    assert shares[1, 2] == pytest.approx(1 / 2)
    assert shares[0, 0] == 1
    nobody = coincidence(index, valid & torch.tensor([True, True, False]))
    assert math.isnan(nobody[0, 2])


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["last_q", "third_answer"], r"expected names among last_q, first_answer, .*-1; got third_answer"),
        (["-1", "-1"], "expected different names"),
        ([], "at least one"),
        ("last_q", r"expected a list of names, got 'last_q'; write \[last_q\]"),
    ],
)
def test_wrong_names_are_refused(names, text):
    with pytest.raises(ValueError, match=text):
        Positions(names)
