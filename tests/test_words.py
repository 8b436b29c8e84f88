import pytest

from datamodules.words import first, group_key, numbers, words


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("It is  PARIS,\nof course!", "it is paris of course"),
        ("Marie-Josée Croze; García", "marie josee croze garcia"),
        ("straße Ａbc", "strasse abc"),
        ("がか 北京市", "が か 北 京 市"),  # the mark in が is no accent
        ("C++ for $5 & 20%", "c + + for $ 5 & 20 %"),
        ("9.0, 9.50 and 1,500.00", "9 9.5 and 1500"),
        ("007 or 7", "007 or 7"),
        ("1999-2000, -5, 3-2, covid-19", "1999 2000 -5 3 2 covid 19"),
        ("21st, 3rd and x2", "21st 3rd and x2"),
        ("nine", "9"),
        ("Twenty-one or ninety nine", "21 or 99"),
        ("twenty thirty", "20 30"),
        ("two and three", "2 and 3"),
        ("one hundred and twenty-three", "123"),
        ("two hundred thousand", "200000"),
        ("three thousand four hundred", "3400"),
        ("5 million", "5000000"),
        ("hundred men", "hundred men"),
        ("zero", "0"),
        ("one wife", "1 wife"),
        ("no one, the one who, one of them", "no one the one who one of them"),
        ("", ""),
    ],
)
def test_words(text, folded):
    assert words(text) == folded.split()


@pytest.mark.parametrize(
    ("sought", "within", "at"),
    [
        ("new york", "It is New-York.", 2),
        ("The Lord of the Rings", "lord of the rings", 0),
        ("the lord of the rings", "The Lord of the Rings", 1),
        ("The Who", "I know who", None),
        ("The Who", "it was the Who", 2),
        ("Vitamin A", "vitamin C", None),
        ("art", "party art", 1),
        ("1", "in 1999", None),
        ("9", "nine lives", 0),
        ("北京", "我住在北京市", 3),
        ("?!", "what?!", None),
        ("york new", "new york", None),
    ],
)
def test_first(sought, within, at):
    assert first(sought, words(within)) == at


def test_numbers():
    assert numbers("From -5 to 1,200.50, or nine; x2 and 3.14.15") == [-5, 1200.5, 9, 3.14, 15]


def test_group_keys_fold_case_punctuation_and_blanks_only():
    assert group_key("Who's  there?") == group_key("who s there") == "who s there"
    assert group_key("García") != group_key("Garcia")
    assert group_key("?!") != group_key("...")
