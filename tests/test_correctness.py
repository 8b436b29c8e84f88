import pytest

from datamodules.correctness import is_correct


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("It is Paris, of course.", ["Paris"], True),
        ("it is PARIS", ["paris"], True),
        ("the city of  New\nYork", ["New York"], True),
        ("In 1999.", ["1"], False),
        ("a party", ["art"], False),
        ("the answer: 42", ["41", "42"], True),
        ("the STRASSE", ["straße"], True),
        ("U+FF21: Ａbc", ["abc"], True),  # full-width letters fold to plain ones
        ("C++ it is", ["C++"], True),
        ("what (a) mess", ["(a)"], True),
        ("nothing of the kind", ["Paris"], False),
        ("anything", [""], False),
        ("", ["Paris"], False),
    ],
)
def test_whole_words_folded(answer, gold, right):
    assert is_correct(answer, gold) is right
