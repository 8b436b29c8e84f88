"""Finds the numbers of a text, and the one that is its answer, which `rule=number` and `spans=number` use."""

import itertools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import regex

from datamodules.questions.words import WORD, is_number, read_numerals, simplify_number

MOST_POWER = 64  # largest exponent that is computed
_THOUSANDS = regex.compile(r"(?<=\d)\{,\}(?=\d)")  # 1{,}950, as in LaTeX
_UNIT = regex.compile(  # 9kg, not 9th
    r"(?<![\w.,])((?:\d|\.\d)[\d.,]*)(?!(?:st|nd|rd|th|s|x|d)\b)(?!e[+-]\d)(?=[^\W\d]{1,5}\b)"
)
_SCIENTIFIC = regex.compile(r"(?<![\w.,])-?\d+(?:\.\d+)?e[+-]?\d{1,3}(?!\w|\.\d)")  # 1.5e-12
_WORD = regex.compile(f"{_SCIENTIFIC.pattern}|{WORD.pattern}")
_MINUS_CURRENCY = regex.compile(r"(?<!\w)-\s?[$€£]\s?$")  # before the 5 of -$5
_MINUS_FRACTION = regex.compile(r"(?<!\w)- $")  # before -½, which is "- 1⁄2 " in plain digits
_FRACTION_SLASH = "\u2044"
_SLASH, _POWER, _TIMES = r"\s?/\s?", r"\s?\^\s?[{(]?|\*\*| \*\* ", r"\s?[×x*·]\s?"
_FRACTION = r"\d+\s?[/\u2044]\s?\d+"
_LATEX_FRACTION = regex.compile(r"\\[dt]?frac\{$")
_MARKER = regex.compile(r"^[ \t]*(\d{1,2})[.)](?=\s|$)", regex.M)  # 1. of a list
_STEP = regex.compile(r"\bstep\s+$", regex.I)
_CALLED = regex.compile(
    r"\banswer(?:\s+to\s+(?:the|this|your)\s+\w+)?[*\s]*(?:(?:is|was|(?:will|would|should|must)\s+be)\b(?!\s+not\b)|[:=])"
    r"|####|\\boxed\s*\{",
    regex.I,
)
_SENTENCE_END = regex.compile(r"[.!?][\p{P}*]*\s")
_EQUALS = regex.compile(r"(?<![=<>!])=(?!=)[\s($\\€£*{]*")
_OPERATION = regex.compile(  # text between two numbers of a calculation: 3 apples * $6 = 18
    r"\s*[^\W\d]*[\s%)\]}$\\]*(?P<sign>[-−+*/×÷·=≈]|\bx\b|(?<=%\s)of\b|\b(?:plus|minus|times)\b|\\(?:times|div|cdot)\b)"
    r"[\s($\\€£{\[]*"
)
_CLAUSE = regex.compile(r"[.;,:!?](?=\s)|\n|\b(?:and|are|gives?|has|have|hence|is|makes?|so|then|therefore|thus)\b")


@dataclass(frozen=True)
class Number:
    """A number in a text.

    Attributes:
        value: of all its signs and words, so 2.5 for `2½`.
        characters: its first character and one past its last. A unit or currency sign next to it is not included,
            except the one in `-$5`.

    Example:
        >>> find_numbers("It costs $5.")
        [Number(value=5.0, characters=(10, 11))]
    """

    value: float
    characters: tuple[int, int]


@dataclass
class _Part:
    value: Fraction
    start: int
    end: int
    power_of_ten: bool = False
    scale: Fraction = Fraction(1)  # of a fraction: a million in 3/4 million


def find_answer_number(text: str) -> Number | None:
    """Find the number that a text gives as its answer; None where it has no number.

    The first of these that exists is taken:

    1. the number after the last `answer is`, `answer:`, `####` or `\\boxed{` that a number follows in the same
       sentence; if a calculation follows, its result: 18 in `The answer is 3 * 6 = 18. I checked it 2 times.`
    2. the number after the last `=`, where no other clause with a number follows: 18 in `3 * 6 = 18 for 6 days`;
    3. the last number: 7 in `x = 3, y = 4, so the sum is 7`.

    >>> find_answer_number("3 * 6 = 18")
    Number(value=18.0, characters=(8, 10))
    """
    found = find_numbers(text)
    for called in reversed(list(_CALLED.finditer(text))):
        after = [number for number in found if number.characters[0] >= called.end()]
        if after and not _SENTENCE_END.search(text[called.end() : after[0].characters[0]]):
            result = _find_result(text, after)
            if result:
                return result
    signs = list(_EQUALS.finditer(text))
    after = [number for number in found if signs and number.characters[0] >= signs[-1].end()]
    if after and after[0].characters[0] == signs[-1].end():
        result = _find_result(text, after)
        if result and not _CLAUSE.search(text[result.characters[1] : after[-1].characters[0]]):
            return result
    return found[-1] if found else None


def find_numbers(text: str) -> list[Number]:
    """Numbers of a text in order: digits and words for numbers, fractions, powers, numbers with an exponent (1.5e-12),
    and numbers with a unit behind them.

    Ordinals (9th), the numbers of list items and steps, and exponents of units (cm²) are not included.

    >>> [number.value for number in find_numbers("-$5, nine, 1,500.0, 3 1/2, 2½, 9kg, 1.5 million")]
    [-5.0, 9.0, 1500.0, 3.5, 2.5, 9.0, 1500000.0]
    """
    plain, origin = _simplify(text)
    words, gaps, spans, end = [], [], [], 0
    for match in _WORD.finditer(plain):
        words.append(f"{Decimal(match[0]):f}" if _SCIENTIFIC.fullmatch(match[0]) else simplify_number(match[0]))
        gaps.append(plain[end : match.start()].strip())
        spans.append(match.span())
        end = match.end()
    counted, at = read_numerals(words, gaps)
    parts = []
    for word, first, behind in zip(counted, at, [*at, len(words)][1:], strict=True):
        if is_number(word):
            parts.append(_Part(Fraction(word), spans[first][0], spans[behind - 1][1]))
    markers = _find_list_markers(plain)
    numbers = []
    for part in _merge(plain, parts):
        before = plain[: part.start]
        if part.start in markers or _STEP.search(before) or regex.search(r"\^\s?[{(]?$", before):
            continue
        minus = _MINUS_CURRENCY.search(before)
        if _FRACTION_SLASH in plain[part.start : part.end]:
            minus = minus or _MINUS_FRACTION.search(before)
        if minus:
            part.value, part.start = -part.value, minus.start()
        numbers.append(Number(_to_float(part.value), (origin[part.start], origin[part.end - 1] + 1)))
    return numbers


def is_same_number(one: float, other: float) -> bool:
    """Whether two numbers are equal, apart from rounding in the 9th digit.

    >>> is_same_number(1 / 3, 0.3333333333), is_same_number(28, 28.26)
    (True, False)
    """
    return abs(one - other) <= 1e-9 * abs(other)


def _to_float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:  # hundreds of digits
        return math.inf if value > 0 else -math.inf


def _find_result(text: str, numbers: Sequence[Number]) -> Number | None:
    """Return the result of the calculation that starts at the first number, or that number; None if unfinished."""
    sides = [[numbers[0]]]
    for last, number in itertools.pairwise(numbers):
        match = _OPERATION.fullmatch(text[last.characters[1] : number.characters[0]])
        if not match:
            break
        if match["sign"] in "=≈":
            sides.append([])
        sides[-1].append(number)
    return next((side[0] for side in reversed(sides) if len(side) == 1), None)


def _simplify(text: str) -> tuple[str, Sequence[int]]:
    """Return a text in plain digits and lower case, and the original index of each character."""
    chars = [(plain, i) for i, char in enumerate(text) for plain in _simplify_char(char)]
    joined = "".join(char for char, _ in chars)
    dropped = {i for match in _THOUSANDS.finditer(joined) for i in (match.start(), match.end() - 1)}
    units = {match.end() - 1 for match in _UNIT.finditer(joined)}
    kept = [
        one
        for i, (char, at) in enumerate(chars)
        if i not in dropped
        for one in ([(char, at), (" ", at)] if i in units else [(char, at)])
    ]
    return "".join(char for char, _ in kept), [at for _, at in kept]


def _simplify_char(char: str) -> str:
    if char.isascii():
        return char.lower()
    plain = unicodedata.normalize("NFKC", char).casefold()
    if _FRACTION_SLASH in plain:  # ½ is 1⁄2, apart from a digit beside it
        return f" {plain} "
    if unicodedata.decomposition(char).startswith("<super>") and plain.isdigit():
        return f"^{plain}"
    return "-" if char == "−" else plain


def _find_list_markers(plain: str) -> set[int]:
    """Return where the numbers of list items are: at the start of lines, counting from 1, at least two."""
    starts = []
    for match in _MARKER.finditer(plain):
        if int(match[1]) == len(starts) + 1:
            starts.append(match.start(1))
    return set(starts) if len(starts) > 1 else set()


def _merge(plain: str, parts: Sequence[_Part]) -> list[_Part]:
    """Merge numbers that belong together: 3/4, 2 1/2, 10^6, 3 × 10^8."""
    for signs in (_FRACTION_SLASH, ""):  # first ½, which must not be split
        done: list[_Part] = []
        for part in parts:
            done.append(part)
            while len(done) > 1 and signs in plain[done[-2].end : done[-1].start] and (one := _join(plain, *done[-2:])):
                done[-2:] = [one]
        parts = done
    return list(parts)


def _join(plain: str, a: _Part, b: _Part) -> _Part | None:
    """Join two neighbouring numbers, or return None if they are separate."""
    gap, left, right = plain[a.end : b.start], plain[a.start : a.end], plain[b.start : b.end]
    whole = left.removeprefix("-").isdigit()
    below = regex.match(r"(\d+)(?:[\s-]+\p{L}|$)", right)  # 4 in 4 million
    if whole and below and int(below[1]):
        bottom = int(below[1])
        scale = b.value / bottom
        value = a.value / bottom * scale
        latex = gap == "}{" and plain[b.end : b.end + 1] == "}" and _LATEX_FRACTION.search(plain[: a.start])
        if latex:
            return _Part(value, latex.start(), b.end + 1)
        alone = not regex.search(r"[\w./,]$", plain[: a.start]) and not regex.match(r"[\w/]|[.,]\d", plain[b.end :])
        if gap == _FRACTION_SLASH or (alone and regex.fullmatch(_SLASH, gap)):
            return _Part(value, a.start, b.end, scale=scale)
    if whole and 0 < b.value < b.scale and regex.match(_FRACTION, right) and regex.fullmatch(r"[^\S\n]+", gap):
        value = a.value * b.scale
        return _Part(value - b.value if left[0] == "-" else value + b.value, a.start, b.end)
    if regex.fullmatch(_POWER, gap) and b.value.denominator == 1 and abs(b.value) <= MOST_POWER and a.value:
        end = b.end + (gap[-1] in "{(" and plain[b.end : b.end + 1] in ("}", ")"))
        return _Part(a.value ** int(b.value), a.start, end, a.value == 10)
    if b.power_of_ten and regex.fullmatch(_TIMES, gap):
        return _Part(a.value * b.value, a.start, b.end)
    return None
