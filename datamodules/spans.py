"""Where in the generated ids the exact answer stands.

Indices come from decoding the stored ids token by token, never from tokenising text again.
"""

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence

import regex
from transformers import PreTrainedTokenizerBase

from datamodules.letter_case import compares_case, is_said

MOST_BYTES = 4  # of a character in UTF-8


# A whole word begins and ends here; underscores, which mark emphasis, are beside words and not in them.
_STARTS = regex.compile(r"(?V1)(?<![[\w\p{M}]--_])")
_ENDS = regex.compile(r"(?V1)(?![\w--_])")
# Where scripts have no blanks between words, letters on both sides do not say that a word is cut.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー"
_MAY_START = regex.compile(rf"(?V1)(?<![[\w\p{{M}}]--[_{_UNSPACED}]])")
_MAY_END = regex.compile(rf"(?V1)(?![\w--[_{_UNSPACED}]])")


def find(text: str, words: str) -> tuple[int, int] | None:
    """Character range of `words` in `text`, case-folded: the first whole-word occurrence, else the first at all.

    Blanks and line breaks between the words are alike. A letter with an accent is another than the letter without.
    Words whose case decides (`letter_case`), such as US, are sought where they are meant first, and not in `us`.

    >>> find("Japanese trains of Japan", "Japan")
    (19, 24)
    """
    return find_first(text, [words])


def find_first(text: str, sought: Sequence[str], meant: bool = False) -> tuple[int, int] | None:
    """Character range of whichever of several words, or runs of words, stands first in a text, each as `find` has it.

    A whole-word occurrence of any goes before parts of words, wherever these stand; of two at one place the longer.
    With `meant`, words whose case decides are found only where they are meant, as the label rules have it.
    """
    folded, origin = _folded(text)
    found = []
    for words in sought:
        needle = [_folded(word)[0] for word in words.split()]
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

    It never does within a script that has no blanks between words.
    """
    return not (_MAY_START.match(text, span[0]) and _MAY_END.match(text, span[1]))


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """A text with its case folded and its accents apart, and for each of its characters where it came from."""
    if text.isascii():
        return text.casefold(), range(len(text))
    parts = []
    for char in text:
        apart = unicodedata.normalize("NFD", char)
        accented = all(map(unicodedata.combining, apart[1:]))
        parts.append((apart if accented else char).casefold())
    # Folding can lengthen a character (ß to ss), so each folded one remembers its origin.
    return "".join(parts), [i for i, part in enumerate(parts) for _ in part]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], special: bool = False) -> str:
    """Text of ids as they stand: no blanks tidied away, and no special tokens unless asked for."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False))


def locate(tokenizer: PreTrainedTokenizerBase, answer_ids: Sequence[int], exact_answer: str) -> tuple[int, int] | None:
    """Find the first and last token of the exact answer.

    Args:
        tokenizer: the tokenizer that the ids belong to.
        answer_ids: generated ids, as stored.
        exact_answer: words to find; surrounding blanks do not count.

    Returns:
        indices into `answer_ids` of the first and the last token whose text overlaps the first whole-word, case-folded
        occurrence, else the first occurrence at all; None where there is none. Blanks before a word belong to no
        answer, but a token that holds blank and word together does.
    """
    span = find(decode(tokenizer, answer_ids), exact_answer)
    return covering(tokenizer, answer_ids, span) if span else None


def covering(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], span: tuple[int, int], special: bool = False
) -> tuple[int, int] | None:
    """First and last token whose text overlaps a range of characters of the decoded ids; None where none does.

    `special` says whether the characters are those of a text with special tokens.
    """
    text = decode(tokenizer, ids, special)
    # Token after token the text only grows, so the two ends are found by halving.
    first = bisect_left(range(len(ids)), True, key=lambda i: _end(tokenizer, ids, i, text, special) > span[0])
    last = bisect_left(
        range(len(ids)), True, first, key=lambda i: _grown(tokenizer, ids[:i], text, special)[0] >= span[1]
    )
    return (first, last - 1) if first < last else None


def token_ranges(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """Decode ids one by one.

    Returns:
        the text, and for each id the range of characters it adds, end exclusive. Every token that carries bytes of one
        character has that character in its range; special tokens add none.
    """
    text = decode(tokenizer, ids)
    starts = (_grown(tokenizer, ids[:i], text, False)[0] for i in range(len(ids)))
    return text, [(start, _end(tokenizer, ids, i, text, False)) for i, start in enumerate(starts)]


def _end(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], i: int, text: str, special: bool) -> int:
    """One past the last character of `text`, the decoded ids, of which token i carries bytes."""
    end, whole = _grown(tokenizer, ids[: i + 1], text, special)
    return end if whole else end + 1


def _grown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str, special: bool) -> tuple[int, bool]:
    """How many characters of `text` its beginning `ids` has whole, and whether nothing of a further one.

    A decoder shows the first bytes of a character as one or several marks, and some show the whole characters of the
    same run of bytes as marks too. So the length is the most that these ids, or fewer of them by up to the bytes of a
    character, have in common with the text.
    """
    beginning = decode(tokenizer, ids, special)
    if text.startswith(beginning):
        return len(beginning), True
    fewer = (decode(tokenizer, ids[:-n], special) for n in range(1, MOST_BYTES) if n <= len(ids))
    return max(_in_common(one, text) for one in (beginning, *fewer)), False


def _in_common(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
