"""Finds the tokens of the exact answer in the generated ids.

Indices come from decoding the stored ids token by token, never from tokenising text again.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

from transformers import PreTrainedTokenizerBase

from datamodules.questions.find import find

MOST_BYTES = 4  # of a character in UTF-8


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], special: bool = False) -> str:
    """Decode ids without removing blanks; special tokens are included only where `special` is true.

    >>> decode(tokenizer, tokenizer("It is Paris.").input_ids)  # doctest: +SKIP
    'It is Paris.'
    """
    return str(tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False))


def locate(tokenizer: PreTrainedTokenizerBase, answer_ids: Sequence[int], exact_answer: str) -> tuple[int, int] | None:
    """Find the first and last token of the exact answer.

    Args:
        tokenizer: the tokenizer that the ids belong to.
        answer_ids: generated ids, as stored.
        exact_answer: words to find; surrounding blanks do not count.

    Returns:
        indices into `answer_ids` of the first and the last token whose text overlaps the first whole-word, case-folded
        occurrence, else the first occurrence of any kind; None where there is none. Blanks before a word are not part
        of the answer, but a token that contains both the blank and the word is.

    Example:
        >>> locate(tokenizer, tokenizer("It is Paris.").input_ids, "paris")  # doctest: +SKIP
        (2, 2)
    """
    span = find(decode(tokenizer, answer_ids), exact_answer)
    return find_tokens(tokenizer, answer_ids, span) if span else None


def find_tokens(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], span: tuple[int, int], special: bool = False
) -> tuple[int, int] | None:
    """First and last token whose text overlaps a range of characters of the decoded ids; None where none does.

    `special` says whether the characters are those of a text with special tokens.

    >>> find_tokens(tokenizer, tokenizer("It is Paris.").input_ids, (6, 11))  # doctest: +SKIP
    (2, 2)
    """
    text = decode(tokenizer, ids, special)
    # The text only grows with each token, so both ends are found by bisection.
    first = bisect_left(range(len(ids)), True, key=lambda i: _find_end(tokenizer, ids, i, text, special) > span[0])
    last = bisect_left(
        range(len(ids)), True, first, key=lambda i: _measure_growth(tokenizer, ids[:i], text, special)[0] >= span[1]
    )
    return (first, last - 1) if first < last else None


def decode_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """Decode ids one by one.

    Returns:
        the text, and for each id the range of characters it adds, end exclusive. Every token that carries bytes of one
        character has that character in its range; special tokens add none.

    Example:
        >>> decode_tokens(tokenizer, tokenizer("It is Paris.").input_ids)  # doctest: +SKIP
        ('It is Paris.', [(0, 2), (2, 5), (5, 11), (11, 12)])
    """
    text = decode(tokenizer, ids)
    starts = (_measure_growth(tokenizer, ids[:i], text, False)[0] for i in range(len(ids)))
    return text, [(start, _find_end(tokenizer, ids, i, text, False)) for i, start in enumerate(starts)]


def cut_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Cut the decoded ids into the text of each; a character that spans several tokens is in the first.

    >>> cut_text(tokenizer, tokenizer("It is Paris.").input_ids)  # doctest: +SKIP
    ['It', ' is', ' Paris', '.']
    """
    text, ranges = decode_tokens(tokenizer, ids)
    ends = list(accumulate((end for _, end in ranges), max, initial=0))
    return [text[start:end] for start, end in pairwise(ends)]


def _find_end(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], i: int, text: str, special: bool) -> int:
    """One past the last character of `text`, the decoded ids, of which token i carries bytes."""
    end, whole = _measure_growth(tokenizer, ids[: i + 1], text, special)
    return end if whole else end + 1


def _measure_growth(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str, special: bool
) -> tuple[int, bool]:
    """Count the complete characters of `text` in its first ids, and return whether no partial one follows.

    A decoder shows the first bytes of a character as one or several marks, and some show the whole characters of the
    same run of bytes as marks too. So the length is the most that these ids, or fewer of them by up to the bytes of a
    character, have in common with the text.
    """
    beginning = decode(tokenizer, ids, special)
    if text.startswith(beginning):
        return len(beginning), True
    fewer = (decode(tokenizer, ids[:-n], special) for n in range(1, MOST_BYTES) if n <= len(ids))
    return max(_count_in_common(one, text) for one in (beginning, *fewer)), False


def _count_in_common(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
