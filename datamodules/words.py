"""Words and numbers of a text, folded so that spelling does not decide whether an answer is right.

Folded are: case; accents of Latin, Greek and Cyrillic letters; punctuation; and numbers, written in words or digits.
Kept are symbols that mean something, such as those of C++ or $5.
"""

import re
import unicodedata
from collections.abc import Sequence

_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_VALUES = _TENS | {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
# `one` beside these is no number: "no one", "the one who", "one of".
_BEFORE_PRONOUN = {"no", "any", "every", "some", "the", "this", "that", "which", "each"}
_AFTER_PRONOUN = {"of", "another", "who", "that", "day"}

_ACCENTS = re.compile("[\u0300-\u036f]")
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # scripts that put no blanks between words
_WORD = re.compile(
    r"(?<!\w)-?\d+(?:,\d{3})+(?:\.\d+)?(?!\w)"  # 12,500.5
    r"|(?<!\w)-?\d+(?:\.\d+)?(?!\w)"  # 12500.5
    rf"|[{_UNSPACED}]"
    rf"|[^\W{_UNSPACED}]+"
    r"|[+#%$€£&@*/=<>^~°]"
)


def words(text: str) -> list[str]:
    """Folded words of a text, in order.

    A number is one word in its plainest digits (`9.0`, `nine` and `9` are alike, as are `1,500` and `1500`); digits
    after a leading zero stay as written. A character of a script without blanks is a word of its own.
    """
    plain = unicodedata.normalize("NFKC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text))).casefold()
    return _numerals([_plain_number(word) for word in _WORD.findall(plain)])


def first(sought: str, within: Sequence[str]) -> int | None:
    """Index at which the words of `sought` first stand in the words of a text, one after the other; None if nowhere.

    A leading article of what is sought may be missing where two words or more remain: `The Lord of the Rings` is in
    `lord of the rings`, but `The Who` is not in `who`.
    """
    needle = words(sought)
    if len(needle) > 2 and needle[0] in ("a", "an", "the"):
        needle = needle[1:]
    if not needle:
        return None
    n = len(needle)
    return next((i for i in range(len(within) - n + 1) if within[i] == needle[0] and within[i : i + n] == needle), None)


def numbers(text: str) -> list[float]:
    """Numbers in a text, in order; words for numbers count."""
    return [float(word) for word in words(text) if _is_number(word)]


def group_key(text: str) -> str:
    """What texts have in common that differ in case, punctuation and blanks only; a text of signs is its own."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", word) is not None


def _plain_number(word: str) -> str:
    bare = word.replace(",", "")
    if not _is_number(bare) or re.match(r"-?0\d", bare):
        return word
    return re.sub(r"\.?0+$", "", bare) if "." in bare else bare


def _numerals(tokens: list[str]) -> list[str]:
    """Replace each run of number words by its digits."""
    out: list[str] = []
    i = 0
    while i < len(tokens):
        may_count = tokens[i] in _VALUES or tokens[i][-1].isdigit()  # most words do not
        value, end = _numeral(tokens, i) if may_count else (None, i)
        pronoun = end == i + 1 and tokens[i] == "one"
        pronoun &= tokens[max(i - 1, 0)] in _BEFORE_PRONOUN or (end < len(tokens) and tokens[end] in _AFTER_PRONOUN)
        if value is None or pronoun:
            out.append(tokens[i])
            i += 1
        else:
            out.append(value)
            i = end
    return out


def _numeral(tokens: list[str], start: int) -> tuple[str | None, int]:
    """Value of the number words from `start` on, in digits, and the index behind them; None where there are none."""
    total, part, i = 0, None, start
    previous = ""
    if re.fullmatch(r"-?\d+", tokens[i]) and tokens[i + 1 : i + 2] and tokens[i + 1] in _SCALES:
        part, i = int(tokens[i]), i + 1  # 5 million
    while i < len(tokens):
        word = tokens[i]
        if word in _VALUES and (
            part is None or previous == "hundred" or (previous in _TENS and 0 < _VALUES[word] < 10)
        ):
            part = (part or 0) + _VALUES[word]
        elif word == "hundred" and part is not None:
            part *= 100
        elif word in _SCALES and part is not None:
            total, part = total + part * _SCALES[word], None
        elif not (word == "and" and previous in _SCALES and tokens[i + 1 : i + 2] and tokens[i + 1] in _VALUES):
            break
        else:
            i += 1
            continue  # `and` leaves the scale before it standing
        previous, i = word, i + 1
    if i == start:
        return None, start
    return str(total + (part or 0)), i
