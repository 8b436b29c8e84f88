"""Words and numbers of a text, folded so that spelling does not decide whether an answer is right.

Folding removes differences in case, in accents of Latin, Greek and Cyrillic letters, in punctuation and underscores,
and in numbers written in words or digits. It keeps symbols with a meaning, such as those of C++ or $5.
"""

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import regex

from datamodules.questions.letter_case import compares_case, is_said

_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_VALUES = _TENS | {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_SIGNS = {"minus", "negative"}
# `one` next to these is not a number: "no one", "the one who", "one of".
_BEFORE_PRONOUN = {"no", "any", "every", "some", "the", "this", "that", "which", "each"}
_AFTER_PRONOUN = {"of", "another", "who", "that", "day"}

# Letters that do not decompose into letter and accent, and the minus sign.
_PLAIN = str.maketrans({"Ø": "O", "ø": "o", "Ł": "L", "ł": "l", "Æ": "Ae", "æ": "ae", "Œ": "Oe", "œ": "oe", "Đ": "D",
                        "đ": "d", "ı": "i", "−": "-"})  # fmt: skip
_ACCENTS = regex.compile("[\u0300-\u036f]")
_FRACTION = regex.compile(r"(\d*)([¼-¾⅐-⅞])")  # 2½
_POWER = regex.compile(r"(?<=\w)[²³¹⁰⁴-⁹]+")
_SIGN_BEFORE_CURRENCY = regex.compile(r"(?<!\w)-\s?(?=[$€£]\s?[\d.])([$€£])\s?")  # -$5
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # scripts without blanks between words
WORD = regex.compile(
    r"(?<![\w.])-?(?:\d+(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+)(?!\w)"  # 12,500.5 and 12500.5
    rf"|[{_UNSPACED}]"
    rf"|[^\W{_UNSPACED}](?:[^\W{_UNSPACED}]|\p{{M}})*(?:\+\+|\#)?"  # C++ and C# are words of their own
    r"|[+#%$€£&@*/=<>^~°]"
)
_LETTERS = regex.compile(r"\w+")
_NUMBER = regex.compile(r"-?\d+(\.\d+)?")
_LEADING_ZERO = regex.compile(r"-?0\d")
_SPOKEN = regex.compile(r"[\p{L}\p{N}]")
_APOSTROPHE = regex.compile(r"\w['’]$")
_VARIANTS = regex.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")
_OPERATORS = {*"+-/=<>!&|^~"}
_ARTICLES = {"a", "an", "the"}
_ARTICLE = regex.compile(r"^\W*(?:an?|the)\s+", regex.I)


@dataclass(frozen=True)
class Folded:
    """A text as words.

    Attributes:
        words: in order, numbers as they are written.
        counted: the same with each number as one word in its plainest digits: `9.0`, `nine` and `9` are alike.
        at: start of each of `counted` as an index into `words`.
        text: the text, its case kept, accents and forms of letters folded.
        characters: for each of `words` its characters in `text`, end exclusive.

    Example:
        >>> fold("Nine cats").counted
        ['9', 'cats']
    """

    words: list[str]
    counted: list[str]
    at: list[int]
    text: str
    characters: list[tuple[int, int]]


def fold(text: str) -> Folded:
    """Fold a text into words.

    >>> fold("The café's 12,500 cats").words
    ['the', 'cafe', 's', '12500', 'cats']

    Digits after a leading zero stay as written. A character of a script without blanks is a word of its own.
    """
    plain = make_plain(text)
    found, gaps, spans, end = [], [], [], 0
    for match in WORD.finditer(plain):
        found.append(simplify_number(match[0].casefold()))
        gaps.append(plain[end : match.start()].strip())
        spans.append(match.span())
        end = match.end()
    return Folded(found, *read_numerals(found, gaps), plain, spans)


def make_plain(text: str) -> str:
    """Write a text so that `WORD` finds its words: accents and forms of letters are folded, case is kept.

    >>> make_plain("Café_2½")
    'Cafe  2.5 '
    """
    if not text.isascii():
        text = _FRACTION.sub(lambda m: _format_decimal(int(m[1] or 0) + _read_sign(m[2])), text)
        text = _POWER.sub(r"^\g<0>", text)
        text = unicodedata.normalize("NFKC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text.translate(_PLAIN))))
    return _SIGN_BEFORE_CURRENCY.sub(r"\1-", text.replace("_", " "))


def find_words(sought: str, within: Folded) -> int | None:
    """Find the first index at which the words of `sought` occur in the words of a text; None if they do not occur.

    >>> find_words("The Lord of the Rings", fold("It is Lord of the Rings."))
    2

    Numbers may be spelt differently, but are not split: `twenty men` is not in `a hundred and twenty men`. A leading
    article of `sought` may be missing if two or more words remain: `The Lord of the Rings` is in `lord of the rings`,
    but `The Who` is not in `who`. Case counts if a name differs from an ordinary word only by case (`letter_case`):
    `US` is not in `give us`. Symbols alone, such as `∞` or an emoji, are matched exactly.
    """
    needle = fold(sought)
    if not _SPOKEN.search(needle.text):
        return _find_signs(needle.text.strip(), within)
    if len(needle.words) > 2 and needle.words[0] in _ARTICLES:
        needle = fold(drop_article(sought))
    n = len(needle.words)
    found = [within.at[i] for i in _find_places(needle.counted, within.counted)]
    numeric = [is_number(word) for word in needle.counted]
    if numeric != [True]:  # as written, for names such as Air Force One and Million Dollar Baby
        ends = {*within.at, len(within.words)}
        whole = _find_places(needle.words, within.words)
        found += [i for i in whole if (i in ends or not numeric[0]) and (i + n in ends or not numeric[-1])]
    name = needle.text[slice(*needle.characters[-1])]
    if (n == 1 or (n == 2 and needle.words[0] in _ARTICLES)) and compares_case(name):  # The Who has two
        found = [i for i in found if is_said(name, within.text, *within.characters[i + n - 1])]
    elif n > 1 and all(len(word) == 1 for word in needle.words):  # U.S., T.I.
        found = [i for i in found if _are_initials(needle, within, i)]
    return min(found, default=None)


def fold_name(text: str) -> str:
    """Normalise a name so that names which `find_words` treats as equal are equal texts; symbols are kept.

    >>> fold_name("Nine, Élan") == fold_name("9 elan")
    True
    """
    folded = fold(text)
    return " ".join(folded.counted) if _SPOKEN.search(folded.text) else folded.text.strip()


def drop_article(text: str) -> str:
    """Remove an article at the start of a text, unless the text is only an article.

    >>> drop_article("The Who"), drop_article("the")
    ('Who', 'the')
    """
    return _ARTICLE.sub("", text) or text


def fold_group(text: str) -> str:
    """Normalise a text so that texts which differ only in case, punctuation and blanks are equal; symbols alone stay.

    >>> fold_group("Who's  there?"), fold_group("!")
    ('who s there', '!')
    """
    return " ".join(_LETTERS.findall(unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def _find_signs(signs: str, within: Folded) -> int | None:
    """Find the index of the word at or after the first exact match of symbols; an emoji or `!=` is not split."""
    sought = [cluster for cluster, _ in _split_clusters(signs)]
    text = _split_clusters(within.text)
    for i in _find_places(sought, [cluster for cluster, _ in text]):
        beside = (text[i - 1][0] if i else "", (*text, ("", 0))[i + len(sought)][0])
        cut = any(a in _OPERATORS and b in _OPERATORS for a, b in zip((sought[0], sought[-1]), beside, strict=True))
        if not cut:
            return sum(end <= text[i][1] for _, end in within.characters)
    return None


def _split_clusters(text: str) -> list[tuple[str, int]]:
    """Split a text into user-perceived characters with their starts, without variants and skin tones of emoji."""
    return [(_VARIANTS.sub("", match[0]), match.start()) for match in regex.finditer(r"\X", text)]


def _are_initials(needle: Folded, within: Folded, i: int) -> bool:
    """Whether single letters are initials: equal in case, or with points between; the letters of "can't I" are not."""
    spans = within.characters[i : i + len(needle.words)]
    alike = [within.text[slice(*at)] for at in spans] == [needle.text[slice(*at)] for at in needle.characters]
    points = all(within.text[a[1] : b[0]] == "." for a, b in itertools.pairwise(spans))
    return (alike or points or within.text.islower()) and not _APOSTROPHE.search(within.text[: spans[0][0]])


def _find_places(needle: Sequence[str], words: Sequence[str]) -> list[int]:
    """Return every index at which one run of words occurs in another."""
    n = len(needle)
    return [i for i, word in enumerate(words) if word == needle[0] and words[i : i + n] == needle] if needle else []


def is_number(word: str) -> bool:
    """Whether a word is a number in digits, as `fold` writes it.

    >>> is_number("-9.5"), is_number("nine")
    (True, False)
    """
    return _NUMBER.fullmatch(word) is not None


def _read_sign(char: str) -> Fraction:
    """The value of ½ and its like."""
    return Fraction(unicodedata.numeric(char)).limit_denominator(10)


def _format_decimal(value: Fraction | int) -> str:
    """A number in digits, to fifteen of them."""
    return f" {float(value):.15g} "


def simplify_number(word: str) -> str:
    """Remove commas and trailing zeros from a word if it is a number.

    >>> simplify_number("1,500.50"), simplify_number("007")
    ('1500.5', '007')
    """
    if not word[-1].isdigit():  # most words
        return word
    bare = word.replace(",", "")
    bare = bare.replace(".", "0.", 1) if bare.lstrip("-").startswith(".") else bare
    if not is_number(bare) or _LEADING_ZERO.match(bare):
        return word
    return bare.rstrip("0").rstrip(".") if "." in bare else bare


def read_numerals(words: list[str], gaps: list[str]) -> tuple[list[str], list[int]]:
    """Replace each run of number words by digits; also return where each word begins. `gaps` is the text before a word.

    >>> read_numerals(["twenty", "one", "cats"], ["", "", ""])
    (['21', 'cats'], [0, 2])
    """
    out: list[str] = []
    at: list[int] = []
    i = 0
    while i < len(words):
        may_count = words[i] in _VALUES or words[i][-1].isdigit()  # most words do not
        value, end = _read_numeral(words, gaps, i) if may_count else (None, i)
        pronoun = end == i + 1 and words[i] == "one"
        pronoun &= (i > 0 and not gaps[i] and words[i - 1] in _BEFORE_PRONOUN) or (
            end < len(words) and not gaps[end] and words[end] in _AFTER_PRONOUN
        )
        at.append(i)
        if value is None or pronoun:
            out.append(words[i])
            i += 1
        else:
            out.append(value)
            i = end
        if out[-2:-1] and out[-2] in _SIGNS and is_number(out[-1]) and not gaps[at[-1]]:
            sum_ = out[-3:-2] and is_number(out[-3]) and not gaps[at[-2]]
            if not sum_:  # minus three, but not 9 minus 3
                out[-2:] = [f"-{out[-1].removeprefix('-')}"]
                at.pop()
    return out, at


def _read_numeral(words: list[str], gaps: list[str], start: int) -> tuple[str | None, int]:
    """Return the number words from `start` on as digits, and the index after them; None if there are none."""

    def runs_on(i: int) -> bool:
        """Whether word i can continue the number before it: only allowed punctuation is between them."""
        return i < len(words) and (gaps[i] in ("", "-") or (gaps[i] == "," and words[i - 1] in _SCALES))

    total, part, i = Decimal(0), None, start
    previous = ""
    if is_number(words[i]) and runs_on(i + 1) and words[i + 1] in _SCALES:
        part, i = Decimal(words[i]), i + 1  # 5 million, 1.5 million
    while i == start or runs_on(i):
        word = words[i]
        if word in _VALUES and (
            part is None or previous == "hundred" or (previous in _TENS and 0 < _VALUES[word] < 10)
        ):
            part = (part or 0) + _VALUES[word]
        elif word == "hundred" and part is not None:
            part *= 100
        elif word in _SCALES and part is not None:
            total, part = total + part * _SCALES[word], None
        elif not (word == "and" and previous in _SCALES and runs_on(i + 1) and words[i + 1] in _VALUES):
            break
        else:
            i += 1
            continue  # after `and` the scale before it still holds
        previous, i = word, i + 1
    if i == start:
        return None, start
    value = total + (part or 0)
    return f"{value.to_integral_value() if value == value.to_integral_value() else value.normalize():f}", i
