"""Finds test questions that nearly repeat a question of train or val, which suggests that a group is missing.

It finds texts that differ in one word, in the order of their words, or in their numbers. It does not find paraphrases.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.questions.question import Tell

LETTERS_PER_EDIT = 12  # he for she in a sentence of 80 letters, but not Lome for Rome in a question of 30
LARGEST_FAMILY = 8  # more texts than this that differ in one word are a template, and the word is the topic
KEYS_AT_ONCE = 2**20  # bounds the memory of long contexts
SHOWN, SHOWN_CHARS, SHOWN_BEFORE = 2, 80, 30  # examples; characters of each; those before the first that differs
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # scripts without blanks: a character is a word
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


@dataclass(frozen=True)
class NearDuplicate:
    """A test question and the question that it nearly repeats.

    Attributes:
        test: row number of the test question.
        other: row number of the train or val question.
        edits: number of letters and digits that differ, ignoring the order of words.

    Example:
        >>> NearDuplicate(test=1, other=0, edits=1).edits
        1
    """

    test: int
    other: int
    edits: int


def tell_near_duplicates(texts: Sequence[str], test: Sequence[int] | np.ndarray, tell: Tell) -> None:
    """Tell in one line how many test questions nearly repeat one of train or val, with two examples; else nothing.

    Args:
        texts: [N] questions.
        test: rows of the test split.
        tell: takes the line.

    Example:
        >>> texts = ["The nurse said that he was late again.", "The nurse said that she was late again."]
        >>> lines: list[str] = []
        >>> tell_near_duplicates(texts, [1], lines.append)
        >>> lines[0][:32]
        'split: 1 of 1 test questions dif'
    """
    found = find_near_duplicates(texts, test)
    if found:
        shown = "; ".join(_show_side_by_side(texts[one.test], texts[one.other]) for one in found[:SHOWN])
        tell(
            f"split: {len(found)} of {len(test)} test questions differ from one that trains or validates by at most "
            f"one letter in {LETTERS_PER_EDIT}, such as {shown}; if they belong together, set dataset.group to what "
            "they share"
        )


def find_near_duplicates(texts: Sequence[str], test: Sequence[int] | np.ndarray) -> list[NearDuplicate]:
    """Find for each test question the nearest question outside the test split, if one is near.

    Two texts are near if they differ in one word, in one place or in all, and in numbers, by at most one letter or
    digit in twelve; case, punctuation and the order of words do not count. Where more than eight texts differ in that
    one word, as in "In which country is the city of X?", they are a template and not near. The time grows with the
    number of words, not of pairs.

    Args:
        texts: [N] questions.
        test: rows of the test split.

    Returns:
        those found, the fewest edits first.

        >>> texts = ["The nurse said that he was late again.", "The nurse said that she was late again."]
        >>> find_near_duplicates(texts, [1])
        [NearDuplicate(test=1, other=0, edits=1)]
    """
    in_test = np.zeros(len(texts), dtype=bool)
    in_test[np.asarray(test, dtype=np.int64)] = True
    nearest: dict[int, NearDuplicate] = {}
    for one, other in sorted(_find_alike(texts, in_test)):
        words = _split_words(texts[one])
        most = sum(map(len, words)) // LETTERS_PER_EDIT
        edits = _count_edits(words, _split_words(texts[other]))
        edits = None if edits is None else edits + _count_digits(texts[one], texts[other])
        if edits is not None and edits <= most and (one not in nearest or edits < nearest[one].edits):
            nearest[one] = NearDuplicate(one, other, edits)
    return sorted(nearest.values(), key=lambda found: (found.edits, found.test))


def _split_words(text: str) -> list[str]:
    """Words of a text, folded; all numbers are the same word."""
    text = text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(_NUMBER.sub(" 0 ", text))


def _find_alike(texts: Sequence[str], in_test: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of a test row and another whose words are the same but for one, of families that are no template."""
    keys_of = [_compute_keys(_split_words(text)) for text in texts]
    owners = np.repeat(np.arange(len(texts), dtype=np.int32), [len(keys) for keys in keys_of])
    keys = np.concatenate(keys_of) if keys_of else np.empty(0, dtype=np.uint64)
    del keys_of
    parts = 1 + len(keys) // KEYS_AT_ONCE  # 10,000 contexts of 900 words have 9 million
    share = (keys % np.uint64(parts)).astype(np.int64)
    return set().union(*(_find_pairs(keys[share == part], owners[share == part], in_test) for part in range(parts)))


def _find_pairs(keys: np.ndarray, owners: np.ndarray, in_test: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of a test row and another that have one of these keys in common with few others."""
    order = np.argsort(keys)
    keys, owners = keys[order], owners[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    if not len(starts):
        return set()
    sizes = np.diff(starts, append=len(keys))
    n_test = np.add.reduceat(in_test[owners].astype(np.int64), starts)
    crossing = (sizes <= LARGEST_FAMILY) & (n_test > 0) & (n_test < sizes)
    pairs: set[tuple[int, int]] = set()
    for start, size in zip(starts[crossing].tolist(), sizes[crossing].tolist(), strict=True):
        members = owners[start : start + size].tolist()
        pairs.update((one, other) for one in members if in_test[one] for other in members if not in_test[other])
    return pairs


def _compute_keys(words: Sequence[str]) -> np.ndarray:
    """Compute keys that a text shares with texts that differ in one word: sums of word hashes, modulo 2**64.

    Returns:
        [keys] uint64 of all words, and of all without each of them, in one place or, where it has several, in all.
    """
    counts = Counter(map(hash, words))
    hashes = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts)).view(np.uint64)
    times = np.fromiter(counts.values(), dtype=np.uint64, count=len(counts))
    whole = (hashes * times).sum(keepdims=True)
    several = times > 1
    return np.concatenate([whole, whole - hashes, whole - (hashes * times)[several]]) if words else hashes


def _count_edits(one: Sequence[str], other: Sequence[str]) -> int | None:
    """Count the letters to change, remove or add between the words of two texts; None if several words differ."""
    counts, other_counts = Counter(one), Counter(other)
    more, other_more = counts - other_counts, other_counts - counts
    if max(len(more), len(other_more)) > 1:  # equal sums of hashes by chance
        return None
    (word, times), (other_word, other_times) = (next(iter(side.items()), ("", 0)) for side in (more, other_more))
    longer = word if times > other_times else other_word
    return min(times, other_times) * _measure_distance(word, other_word) + abs(times - other_times) * len(longer)


def _count_digits(one: str, other: str) -> int:
    """Count the digits of numbers that occur in only one of the texts."""
    numbers, other_numbers = Counter(_NUMBER.findall(one)), Counter(_NUMBER.findall(other))
    more, other_more = numbers - other_numbers, other_numbers - numbers
    return max(sum(map(len, more.elements())), sum(map(len, other_more.elements())))


def _measure_distance(one: str, other: str) -> int:
    """Levenshtein's distance of two words."""
    row = list(range(len(other) + 1))
    for i, char in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, other_char in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (char != other_char))
    return row[-1]


def _show_side_by_side(one: str, other: str) -> str:
    """Show two texts from shortly before the first different character."""
    one, other = " ".join(one.split()), " ".join(other.split())
    same = next((i for i, (char, its) in enumerate(zip(one, other, strict=False)) if char != its), None)
    begin = max(0, (min(len(one), len(other)) if same is None else same) - SHOWN_BEFORE)
    return " and ".join(
        repr(f"{'...' * (begin > 0)}{text[begin : begin + SHOWN_CHARS]}{'...' * (len(text) > begin + SHOWN_CHARS)}")
        for text in (one, other)
    )
