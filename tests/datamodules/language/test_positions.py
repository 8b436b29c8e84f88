import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.language.positions import Positions, Rule, compute_coincidence
from tests.support.positions import shipped


def found(rules, prompt, answer, span, tokenizer: Any = None, into_prompt=False, **more) -> dict[str, Any]:
    """Tokens of one example with so many prompt and answer tokens, or with these ids; None where invalid."""
    ids = [part if isinstance(part, list) else [7] * part for part in (prompt, answer)]
    positions = Positions(rules, into_prompt, **more)
    tokens, valid = positions.resolve(tokenizer, [ids[0]], [ids[1]], [span])
    at = [
        (first if first == last else (first, last)) if v else None
        for (first, last), v in zip(tokens[0].tolist(), valid[0], strict=True)
    ]
    return dict(zip(positions.names, at, strict=True))


def test_every_column_of_the_paper_for_one_example():
    # prompt 0..9, answer 10..21, exact answer at its tokens 4..6
    assert found(shipped("paper"), 10, 12, (4, 6)) == {
        "last_q": 9,
        "first_answer": 10,
        "second_answer": 11,
        "exact_answer_before_first": 13,
        "exact_answer_first": 14,
        "exact_answer_last": 16,
        "exact_answer_after_last": 17,
        **{str(-k): 22 - k for k in range(8, 0, -1)},
    }


def test_the_other_lists_are_columns_of_the_paper():
    paper = shipped("paper")
    assert shipped("imdb") == [
        rule for rule in paper if rule["name"] not in ("first_answer", "second_answer", "exact_answer_before_first")
    ]
    assert shipped("exact") == [rule for rule in paper if rule["of"] == "exact_answer"]
    assert len(paper) == 15
    assert len(shipped("imdb")) == 12


def test_absent_positions_are_invalid_never_another_token():
    three = found(shipped("paper"), 10, 3, None)
    assert [name for name, at in three.items() if at is None] == [
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
    one = found(shipped("paper"), 10, 1, (0, 0))
    assert one["second_answer"] is None
    assert one["exact_answer_before_first"] is None
    assert one["exact_answer_after_last"] is None
    assert one["exact_answer_first"] == one["exact_answer_last"] == one["-1"] == 10


def test_into_prompt_lets_the_last_tokens_reach_back():
    reaching = found(shipped("paper"), 10, 3, (0, 0), into_prompt=True)
    assert reaching["-8"] == 5
    assert reaching["exact_answer_before_first"] == reaching["last_q"] == 9
    assert found(shipped("paper"), 2, 3, None, into_prompt=True)["-8"] is None


@pytest.mark.parametrize(
    ("rule", "span", "token"),
    [
        ({"at": "after"}, (0, 2), 12),  # the exact answer ends the answer
        ({"at": "after"}, (0, 1), 12),
        ({"at": "after"}, (0, 0), 11),
        ({"at": "after"}, None, None),
        ({"at": "last", "offset": 1}, (0, 2), None),  # the study has no such column
        ({"at": "after", "offset": 1}, (0, 2), None),
    ],
)
def test_into_prompt_keeps_the_one_after_the_exact_answer_on_the_last_token(rule, span, token):
    rules = [{"name": "x", "of": "exact_answer", **rule}]
    assert found(rules, 10, 3, span, into_prompt=True) == {"x": token}
    assert found(rules, 10, 3, (0, 2)) == {"x": None}


def test_rows_are_chosen_by_the_exact_answer_by_any_position_or_by_all():
    rules = [Rule("end", "answer", -1), Rule("second", "answer", 1), Rule("exact", "exact_answer")]
    spans = [(0, 0), None, (0, 0)]
    valid = torch.tensor([[True, False, True], [True, True, False], [True, True, True]])

    def chosen(rows, rules=rules, valid=valid):
        return Positions(rules, rows=rows).choose_rows(valid, spans).tolist()

    assert chosen("exact_answer") == [True, False, True]
    assert chosen("any") == [True] * 3
    assert chosen("common") == [False, False, True]
    assert chosen("exact_answer", rules[:2], valid[:, :2]) == [True] * 3  # no column uses the exact answer
    assert not Positions(rules[:2]).need_exact_answers
    with pytest.raises(ValueError, match=r"rows=common: .* got none of 2; second is the rarest, in 0; leave it out"):
        chosen("common", valid=torch.tensor([[True, False, True], [True, False, False]]))


@pytest.mark.parametrize(
    ("rule", "at"),
    [
        ({"of": "prompt", "at": 0}, 0),
        ({"of": "prompt", "at": 9}, 9),
        ({"of": "prompt", "at": 10}, None),
        ({"of": "prompt", "at": -10}, 0),
        ({"of": "prompt", "at": -11}, None),
        ({"of": "prompt", "at": "after"}, None),
        ({"of": "whole", "at": 0}, 0),
        ({"of": "whole", "at": -22}, 0),
        ({"of": "whole", "at": -13}, 9),
        ({"of": "whole", "at": "mean"}, (0, 21)),
        ({"of": "answer", "at": "mean"}, (10, 21)),
        ({"of": "answer", "at": "last", "offset": -2}, 19),
        ({"of": "answer", "at": "before"}, None),
        ({"of": "exact_answer", "at": "mean"}, (14, 16)),
        ({"of": "exact_answer", "at": 1}, 15),
        ({"of": "exact_answer", "at": "before", "offset": -1}, 12),
        ({"of": "exact_answer", "at": "before", "offset": -3}, 10),
        ({"of": "exact_answer", "at": "before", "offset": -4}, None),
        ({"of": "exact_answer", "at": "after", "offset": 4}, 21),
        ({"of": "exact_answer", "at": "after", "offset": 5}, None),
    ],
)
def test_each_kind_of_rule(rule, at):
    assert found([{"name": "here", **rule}], 10, 12, (4, 6)) == {"here": at}


def test_a_text_is_found_in_the_template_special_tokens_too(language_model):
    tokenizer = language_model.load_tokenizer()
    prompt = tokenizer("<s>Q: red A: blue river stone?\nA:").input_ids
    answer = tokenizer("the green A: key</s>").input_ids
    pieces = [tokenizer.decode(i) for i in prompt + answer]

    def text(rule) -> Any:
        at = found([{"name": "here", **rule}], prompt, answer, None, tokenizer)["here"]
        first, last = at if isinstance(at, tuple) else (at, at)
        return None if at is None else "".join(pieces[first : last + 1])

    assert text({"of": "prompt", "find": "A:", "at": "mean"}) == "A:"
    at = found([{"name": "end", "of": "prompt", "find": "A:", "at": "last"}], prompt, answer, None, tokenizer)["end"]
    assert at == len(prompt) - 1  # the last such text of the prompt
    earlier = found(
        [{"name": "end", "of": "prompt", "find": "A:", "at": "last", "nth": 0}], prompt, answer, None, tokenizer
    )["end"]
    assert earlier < at
    assert tokenizer.decode(prompt[: earlier + 1]).endswith("red A:")
    assert text({"of": "prompt", "find": "red A:", "at": "after"}) == " blue"
    assert text({"of": "whole", "find": "<s>", "at": "first"}) == "<s>"
    assert text({"of": "answer", "find": "</s>", "at": "first"}) == "</s>"
    assert text({"of": "answer", "find": "green", "at": "first"}).strip() == "green"
    assert text({"of": "answer", "find": "lamp", "at": "first"}) is None
    assert text({"of": "prompt", "find": "red", "at": "first", "nth": 1}) is None


def test_exact_answers_are_needed_only_by_what_counts_from_them():
    assert Positions(shipped("paper")).need_exact_answers
    assert not Positions([Rule("end", "answer", -1)]).need_exact_answers


def test_coincidence_against_counting():
    index = torch.tensor([[3, 3, 5], [3, 4, 4], [2, 2, 0]])
    valid = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])
    tokens = index[..., None].repeat(1, 1, 2)
    shares = compute_coincidence(tokens, valid)
    assert shares[0, 1] == pytest.approx(2 / 3)
    assert shares[1, 2] == pytest.approx(1 / 2)
    assert shares[0, 0] == 1
    tokens[0, 1, 1] += 1  # a mean that begins at a token is not that token
    assert compute_coincidence(tokens, valid)[0, 1] == pytest.approx(1 / 3)
    nobody = compute_coincidence(tokens, valid & torch.tensor([True, True, False]))
    assert math.isnan(nobody[0, 2])


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (
            [{"name": "x", "of": "question"}],
            "x: expected of among prompt, answer, text, whole, exact_answer, system, user, assistant; got 'question'",
        ),
        ([{"name": "x", "of": "answer", "at": "middle"}], "first, before, last, after, mean, max; got 'middle'"),
        ([{"name": "x", "of": "answer", "at": True}], "got True"),
        ([{"name": "x", "of": "answer", "offset": 0.5}], "x: expected offset and nth to be whole numbers, got 0.5"),
        ([{"name": "x", "of": "answer", "at": "mean", "offset": 1}], "x: expected no offset of a mean, got 1"),
        ([{"name": "x", "of": "exact_answer", "find": "a"}], "expected find to be a text in the prompt, .* got 'a'"),
        ([{"name": "x", "of": "answer", "find": ""}], "expected find to be a text"),
        ([{"name": "x", "of": "answer", "find": 5}], "expected find to be a text"),
        ([{"name": "x", "of": "answer", "find": ["A"]}], "expected find to be a text"),
        ([{"name": "x", "of": "answer", "at": 10**20}], "expected at and offset below 1,000,000,000, got 100000"),
        ([{"name": None, "of": "answer"}], "expected a name for each, got None"),
        (None, "expected a list of rules such as"),
        (3, "expected a list of rules such as"),
        ([{"name": "x", "where": "answer"}], "expected name, of, and what it needs .* got name, where"),
        ([{"of": "answer"}], "expected name, of, and what it needs .* got of"),
        ([{"name": 1, "of": "answer"}] * 2, r"expected different names, at least one; got \['1', '1'\]"),
        ([], "at least one"),
        ("last_q", "expected a list of rules such as .* got last_q"),
        (["last_q"], "expected a list of rules such as"),
    ],
)
def test_wrong_rules_are_refused(rules, text):
    with pytest.raises(ValueError, match=text) as error:
        Positions(rules)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "end", "run"),
    [([7, 8, 2], 4, (3, 4)), ([7, 8, 2, 2], 4, (3, 4)), ([7, 2, 8], 5, (3, 5)), ([2], None, None), ([7], 3, 3)],
)
def test_the_text_of_an_answer_ends_before_special_tokens(answer, end, run):
    rules = [{"name": "end", "of": "text", "at": "last"}, {"name": "all", "of": "text", "at": "mean"}]
    assert found(rules, 3, answer, None, SimpleNamespace(all_special_ids=[2])) == {"end": end, "all": run}


@pytest.mark.parametrize(
    ("rule", "into_prompt", "token"),
    [
        ({"of": "exact_answer", "at": 1}, False, 16),
        ({"of": "exact_answer", "at": 2}, False, None),  # of two tokens
        ({"of": "exact_answer", "at": -3}, False, None),
        ({"of": "exact_answer", "at": 1, "offset": 2}, False, 18),
        ({"of": "answer", "at": -13}, False, None),
        ({"of": "answer", "at": -13}, True, 9),
        ({"of": "exact_answer", "at": -3}, True, None),
    ],
)
def test_a_run_has_no_more_tokens_than_it_is_long(rule, into_prompt, token):
    assert found([{"name": "x", **rule}], 10, 12, (5, 6), into_prompt=into_prompt)["x"] == token


def test_switches_are_checked():
    with pytest.raises(ValueError, match=r"positions.into_prompt: expected true or false, got 5"):
        Positions([{"name": "x", "of": "answer"}], into_prompt=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"positions.rows: expected one of exact_answer, any, common; got 'all'"):
        Positions([{"name": "x", "of": "answer"}], rows="all")  # pyright: ignore


def test_positions_that_are_read_as_well_are_no_columns():
    """A sweep reads the same in all jobs, in one order, whatever their columns are."""
    end, start = Rule("end", "answer", -1), Rule("start", "answer", 0)
    exact = {"name": "exact", "of": "exact_answer", "at": "first"}
    also = [start, exact, {"name": "end", "of": "answer", "at": -1}]
    ends, exacts = Positions([end], also=also), Positions([exact, end], also=also)
    assert [ends.names, exacts.names] == [["end"], ["exact", "end"]]
    assert [rule.name for rule in exacts.read] == ["start", "exact", "end"]
    assert exacts.columns == [1, 2]
    assert [rule.name for rule in ends.read] == ["start", "end"]  # its exact answers are not looked for
    assert not ends.need_exact_answers
    tokens, valid = exacts.resolve(None, [[7] * 4], [[7] * 3], [(1, 1)])  # type: ignore[arg-type]
    assert tokens[0, :, 0].tolist() == [4, 5, 6]
    assert valid.all()
    alone = Positions([exact, end]).resolve(None, [[7] * 4], [[7] * 3], [(1, 1)])  # type: ignore[arg-type]
    assert torch.equal(tokens[:, exacts.columns], alone[0])
    assert Positions([end]).columns == [0]
    with pytest.raises(ValueError, match=r"^positions.also: expected a list of rules such as .*, got z$"):
        Positions([end], also="z")  # type: ignore[arg-type]
