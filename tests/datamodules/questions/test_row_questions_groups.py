"""Which questions belong together, so that a split keeps them on one side."""

import re

import pytest

from datamodules.questions.sets.sums import SumQuestions
from tests.support.rows import Rows, load


def of(who, *questions):
    return [{"question": question, "answer": "x", "who": who} for question in questions]


def test_groups_of_a_column_join_those_of_the_wording():
    """One is asked of two people, who are then one group with all that is asked of them."""
    rows = of("A a", "Who?", "When?") + of(" ", "Where?") + of("B", "who", "How?") + of("C", "Why?")
    assert [q.group for q in load(Rows(rows, group="who"))[0]] == ["who=B"] * 2 + ["where"] + ["who=B"] * 2 + ["who=C"]


def test_a_row_that_repeats_another_still_joins_its_group():
    rows = of("A", "Who?", "When?") + of("B", "Who?", "Where?")
    assert [q.group for q in load(Rows(rows, group="who"))[0]] == ["who=B"] * 3


def test_neither_a_text_nor_a_group_stands_in_train_and_test():
    train, test = of("A", "Who?") + of("B", "Who is it?") + of("C", "Why?"), of("D", "who") + of("B", "How?")
    questions, told = load(Rows(train, test, group="who"))
    assert [(q.text, q.split) for q in questions] == [("Why?", "train"), ("who", "test"), ("How?", "test")]
    assert told == [
        "own: 0 of 2 test rows also occur in train letter by letter; 2 train questions that are also in test, apart "
        "from case and punctuation, or of the same who, are left out"
    ]


def test_a_group_of_columns_in_a_text_joins_where_all_are_equal_and_none_is_empty():
    rows = [
        {"question": f"q{i}?", "answer": "x", "a": a, "b": b}
        for i, (a, b) in enumerate([("p", "q"), ("p", "r"), ("p", "q"), ("p", ""), ("p", None), ("", ""), ("", "")])
    ]
    assert [q.group for q in load(Rows(rows, group="{a}|{b}"))[0]] == [
        "{a}|{b}=p|q", "{a}|{b}=p|r", "{a}|{b}=p|q", "q3", "q4", "q5", "q6",
    ]  # fmt: skip


def test_a_list_of_groups_joins_where_any_is_equal_within_its_column():
    rows = [
        {"question": f"q{i}?", "answer": "x", "a": a, "b": b}
        for i, (a, b) in enumerate([(1, 5), (2, 5), (2, 6), (3, 7), (None, None), (4, 1), (None, None)])
    ]
    groups = [q.group for q in load(Rows(rows, group=["a", "b"]))[0]]
    assert len(set(groups[:3])) == 1  # linked by b=5 and a=2
    assert len(set(groups)) == 5  # 1 in column b is not 1 in column a


@pytest.mark.parametrize("group", [{"q": r"the (\w+) of"}, [{"q": r"the (\w+) of"}, "none"]])
def test_of_a_group_with_a_pattern_only_the_match_counts(group):
    rows = [
        {"question": f"q{i}?", "answer": "x", "q": q, "none": ""}
        for i, q in enumerate(["the king of A", "the king of B", "the queen of A, the king of B", "a king", "a king"])
    ]
    assert [q.group for q in load(Rows(rows, group=group))[0]] == ["q=king", "q=king", "q=queen|king", "q3", "q4"]


def test_a_pattern_without_brackets_counts_with_all_its_matches():
    rows = [
        {"question": q, "answer": "x"} for q in ("Ann has 3 cats, 4 dogs.", "Bo has 5 cats, 6 dogs.", "Ann: 3 cats.")
    ]
    assert [q.group for q in load(Rows(rows, group={"question": r"\b[a-z]+\b"}))[0]] == [
        "question=has|cats|dogs", "question=has|cats|dogs", "question=cats",
    ]  # fmt: skip


def test_a_group_that_joins_nothing_is_told():
    _, told = load(Rows(of("", "Who?", "When?"), group=["who"]))
    assert told == ["own: dataset.group joins no rows: none has a value, or a match, of who"]


def test_long_values_of_a_group_have_short_names():
    rows = of("p" * 5000, "Who?", "When?") + of("p" * 4999 + "r", "Where?")
    groups = [q.group for q in load(Rows(rows, group="who"))[0]]
    assert groups[0] == groups[1] != groups[2]
    assert max(map(len, groups)) < 150


def test_the_column_of_a_split_joins_beside_the_groups_of_the_set():
    cells = [("a", "F"), ("a", "G"), ("b", "G"), ("c", "H"), ("d", "H"), ("e", ""), ("f", None)]
    rows = [{"question": f"q{i}?", "answer": "x", "who": who, "land": land} for i, (who, land) in enumerate(cells)]
    own = Rows(rows, group="who")
    groups = [q.group for q in load(own.group_by("land"))[0]]
    assert len(set(groups[:3])) == 1  # linked by a and G
    assert groups[3] == groups[4]
    assert len(set(groups)) == 4
    assert len({q.group for q in load(own)[0]}) == 6  # the set itself is as before


def test_a_column_of_a_split_that_is_not_there_is_named_with_those_that_are():
    line = "split.by: expected question, gold, exact_answer or a column of own, got 'land'; its columns are question, "
    with pytest.raises(ValueError, match=rf"^{re.escape(line)}answer, who$"):
        load(Rows(of("A", "Who?"), group="who").group_by("land"))
    with pytest.raises(ValueError, match=r"split.by: expected question, gold or exact_answer for sums, which has no"):
        SumQuestions().group_by("land")
