"""Where in the generated ids the exact answer stands.

Indices come from decoding the stored ids token by token, never from tokenising text again.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a decoder shows for the first bytes of a character that later tokens complete


def find(text: str, words: str) -> tuple[int, int] | None:
    """Character range of `words` in `text`, case-folded: the first whole-word occurrence, else the first at all."""
    needle = words.strip().casefold()
    if not needle:
        return None
    # Folding can lengthen a character (ß to ss), so each folded character remembers where it came from.
    origin = [i for i, char in enumerate(text) for _ in char.casefold()]
    folded = text.casefold()
    match = re.search(rf"(?<!\w){re.escape(needle)}(?!\w)", folded) or re.search(re.escape(needle), folded)
    return (origin[match.start()], origin[match.end() - 1] + 1) if match else None


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
    # Texts of longer and longer beginnings only grow, so the two ends are found by halving.
    first = bisect_left(range(len(ids)), True, key=lambda i: _range(tokenizer, ids, i, special)[1] > span[0])
    last = bisect_left(range(len(ids)), True, key=lambda i: _range(tokenizer, ids, i, special)[0] >= span[1]) - 1
    return (first, last) if first <= last else None


def token_ranges(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """Decode ids one by one.

    Returns:
        the text, and for each id the range of characters it adds, end exclusive. Every token that carries bytes of one
        character has that character in its range; special tokens add none.
    """
    return decode(tokenizer, ids), [_range(tokenizer, ids, i, False) for i in range(len(ids))]


def _range(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], i: int, special: bool) -> tuple[int, int]:
    """Characters that token i adds to what stands before it, a character that it only begins or continues included."""
    start = len(decode(tokenizer, ids[:i], special).rstrip(UNFINISHED))
    text = decode(tokenizer, ids[: i + 1], special)
    end = len(text.rstrip(UNFINISHED))
    return start, end + (len(text) > end)
