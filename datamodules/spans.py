"""Where in the generated ids the exact answer stands.

Indices come from decoding the stored ids token by token, never from tokenising text again.
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a decoder shows for the first bytes of a character that later tokens complete


def exact_answer(answer: str, gold: Sequence[str], pattern: str = "") -> tuple[int, int] | None:
    """Find the words of an answer whose change would change the verdict.

    Args:
        answer: answer text.
        gold: gold answers; the first that occurs is taken where there is no pattern.
        pattern: regular expression whose first match is taken, right or wrong, without a look at the gold answer.

    Returns:
        first character and one past the last, or None. Without a pattern a wrong answer has none.
    """
    if pattern:
        match = re.search(pattern, answer)
        return match.span() if match and match.group() else None
    return next((span for words in gold if (span := find(answer, words))), None)


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


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of ids as they stand: no special tokens, no blanks tidied away."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def token_ranges(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """Decode ids one by one.

    Returns:
        the text, and for each id the range of characters it adds, end exclusive. Every token that carries bytes of one
        character has that character in its range; special tokens add none.
    """

    ranges, done = [], 0
    for k in range(1, len(ids) + 1):
        text = decode(tokenizer, ids[:k])
        finished = len(text.rstrip(UNFINISHED))
        ranges.append((done, max(finished, done + 1) if len(text) > finished else finished))
        done = max(done, finished)
    return decode(tokenizer, ids), ranges


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
    tokenizer: PreTrainedTokenizerBase, answer_ids: Sequence[int], span: tuple[int, int]
) -> tuple[int, int] | None:
    """First and last token whose text overlaps a range of characters of the decoded answer; None where none does."""
    _, ranges = token_ranges(tokenizer, answer_ids)
    hits = [i for i, (start, end) in enumerate(ranges) if start < span[1] and end > span[0]]
    return (hits[0], hits[-1]) if hits else None
