import pytest

from datamodules.labels.spans import count_words
from datamodules.questions.words import find_words, fold, fold_group


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("It is  PARIS,\nof course!", "it is paris of course"),
        ("Marie-Josée Croze; García", "marie josee croze garcia"),
        ("straße Ａbc", "strasse abc"),
        ("がか 北京市", "が か 北 京 市"),  # the mark in が is no accent
        ("C++ for $5 & 20%", "c++ for $ 5 & 20 %"),
        ("C# and _Jaws_, Øl in Łódź", "c# and jaws ol in lodz"),
        ("दिल्ली में", "दिल्ली में"),  # vowel signs are parts of a word
        ("−5, -$5, .5, $.50, 2½, 5²", "-5 $ -5 0.5 $ 0.5 2.5 5 ^ 2"),
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
        ("5 million, 1.5 million", "5000000 1500000"),
        ("two thousand, five hundred", "2500"),
        ("In 2004, Million Dollar Baby", "in 2004 million dollar baby"),
        ("She had twenty. Five were red", "she had 20 5 were red"),
        ("minus three, 9 minus 3; negative two hundred", "-3 9 minus 3 -200"),
        ("the song, One, of theirs", "the song 1 of theirs"),
        ("two billion and fourteen; fourteen", "2000000014 14"),
        ("twenty zero", "20 0"),
        ("one thousand and men", "1000 and men"),
        ("-007", "-007"),
        (
            "any one, every one, some one, this one, that one, which one, each one",
            "any one every one some one this one that one which one each one",
        ),
        ("one another, one that is, one day", "one another one that is one day"),
        ("hundred men", "hundred men"),
        ("zero", "0"),
        ("one wife", "1 wife"),
        ("no one, the one who, one of them", "no one the one who one of them"),
        ("", ""),
    ],
)
def test_words(text, folded):
    assert fold(text).counted == folded.split()


@pytest.mark.parametrize(
    ("sought", "within", "at"),
    [
        ("new york", "It is New-York.", 2),
        ("The Lord of the Rings", "lord of the rings", 0),
        ("the lord of the rings", "The Lord of the Rings", 1),
        ("A Beautiful Mind", "beautiful mind", 0),
        ("An American Tail", "american tail", 0),
        ("The Who", "I know who", None),
        ("The Who", "it was the Who", 2),
        ("Vitamin A", "vitamin C", None),
        ("art", "party art", 1),
        ("1", "in 1999", None),
        ("9", "nine lives", 0),
        ("北京", "我住在北京市", 3),
        ("?!", "what?!", 1),
        ("Air Force One", "on Air Force One that day", 1),  # a name, though `one` is a pronoun there
        ("Formula 1", "Formula One, of course", 0),
        ("21 Pilots", "by Twenty One Pilots", 1),
        ("Million Dollar Baby", "in 2004 Million Dollar Baby won", 2),
        ("twenty men", "one hundred and twenty men", None),
        ("one hundred", "one hundred and one", None),
        ("1", "1 million", None),
        ("one", "no one knows", None),
        ("three", "minus three", None),
        ("men", "twenty-one men and 2 men", 2),
        ("C", "in C++", None),
        ("C++", "in C++.", 1),
        ("york new", "new york", None),
    ],
)
def test_first(sought, within, at):
    assert find_words(sought, fold(within)) == at


def test_where_a_counted_word_begins():
    folded = fold("in all twenty-one men, minus three, of 1.5 million")
    assert folded.words == ["in", "all", "twenty", "one", "men", "minus", "three", "of", "1.5", "million"]
    begins = {word: folded.words[i] for word, i in zip(folded.counted, folded.at, strict=True)}
    assert begins == {
        "in": "in",
        "all": "all",
        "21": "twenty",
        "men": "men",
        "-3": "minus",
        "of": "of",
        "1500000": "1.5",
    }


def test_group_keys_fold_case_punctuation_and_blanks_only():
    assert fold_group("Who's  there?") == fold_group("who s there") == "who s there"
    assert fold_group("Ｗho") == "who"
    assert fold_group("García") != fold_group("Garcia")
    assert fold_group("?!") != fold_group("...")


def test_words_are_counted_as_they_are_folded():
    texts = [
        "",
        "It is  PARIS,",
        "C++ for $5 & 20%",
        "2½ of −5, -$5",
        "がか 北京市",
        "Herman_Melville's",
        "twenty one cats",
    ]
    assert [count_words(text) for text in texts] == [len(fold(text).words) for text in texts]
    assert count_words("2½ of −5, -$5") == 5  # 2.5 of -5 $ -5
