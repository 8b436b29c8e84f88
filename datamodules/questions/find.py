"""Finds words in a text: whole words first, then parts of words, with case folded."""

import unicodedata
from collections.abc import Sequence

import regex

from datamodules.questions.letter_case import compares_case, is_said

# Start and end of a whole word. Underscores mark emphasis, so they are not part of a word.
_STARTS = regex.compile(r"(?V1)(?<![[\w\p{M}]--_])")
_ENDS = regex.compile(r"(?V1)(?![\w--_])")
# In scripts without blanks between words, a letter next to a match does not mean that a word is cut.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
_MAY_START = regex.compile(rf"(?V1)(?<![[\w\p{{M}}]--[_{_UNSPACED}]])")
_MAY_END = regex.compile(rf"(?V1)(?![\w--[_{_UNSPACED}]])")


def find(text: str, words: str) -> tuple[int, int] | None:
    """Character range of `words` in `text`, case-folded: the first whole-word occurrence, else the first at all.

    Blanks and line breaks between words are equal. A letter with an accent differs from the letter without it. For
    words whose case matters (`letter_case`), such as US, the name is preferred to the ordinary word `us`.

    >>> find("Japanese trains of Japan", "Japan")
    (19, 24)
    """
    return find_first(text, [words])


def find_first(text: str, sought: Sequence[str], meant: bool = False) -> tuple[int, int] | None:
    """Character range of the first of several words, or runs of words, in a text; each is searched as in `find`.

    Whole words are preferred to parts of words at any place; of two matches at one place, the longer is taken. With
    `meant`, words whose case matters are found only where they are the name, as in the label rules.

    >>> find_first("Rome, not Oslo", ["Oslo", "Rome"])
    (0, 4)
    """
    folded, origin = _fold_case(text)
    found = []
    for words in sought:
        needle = [_fold_case(word)[0] for word in words.split()]
        if not needle or any(word not in folded for word in needle):  # most of a long list of aliases
            continue
        pattern = r"\s+".join(map(regex.escape, needle)) + r"(?!\p{M})"
        for match in regex.finditer(pattern, folded, overlapped=True):
            start, end = origin[match.start()], origin[match.end() - 1] + 1
            part = not (_STARTS.match(folded, match.start()) and _ENDS.match(folded, match.end()))
            ordinary = compares_case(words) and (part or not is_said(words, text, start, end))
            if not (meant and ordinary):
                found.append((part, ordinary, start, -end))
    _, _, start, end = min(found, default=(False, False, 0, 0))
    return (start, -end) if end else None


def cuts_word(text: str, span: tuple[int, int]) -> bool:
    """Whether a range of characters begins or ends within a word, as `Japan` does in `Japanese`.

    Always false in scripts without blanks between words.

    >>> cuts_word("Japanese trains", (0, 5)), cuts_word("Japan has trains", (0, 5))
    (True, False)
    """
    return not (_MAY_START.match(text, span[0]) and _MAY_END.match(text, span[1]))


def _fold_case(text: str) -> tuple[str, Sequence[int]]:
    """Return a text with case folded and accents separate, and the index of the origin of each character."""
    if text.isascii():
        return text.casefold(), range(len(text))
    parts = []
    for char in text:
        apart = unicodedata.normalize("NFD", char)
        accented = all(map(unicodedata.combining, apart[1:]))
        parts.append((apart if accented else char).casefold())
    # Folding can lengthen a character (ß to ss), so each folded one remembers its origin.
    return "".join(parts), [i for i, part in enumerate(parts) for _ in part]
