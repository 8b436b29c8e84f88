"""Right or wrong: the label of an answer, from its text and the gold answers alone."""

import re
import unicodedata
from collections.abc import Iterable


def fold(text: str) -> str:
    """Case-folded, compatibility-normalised text with single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_correct(answer: str, gold: Iterable[str]) -> bool:
    """Whether any gold answer occurs in the answer as whole words, case and blanks folded.

    Whole words: `1` is not in `1999`, and `art` is not in `party`.
    """
    text = fold(answer)
    return any(re.search(rf"(?<!\w){re.escape(fold(g))}(?!\w)", text) is not None for g in gold if fold(g))
