"""Decides whether a word of a text is a one-word gold answer or an ordinary word that differs only in case.

Case is compared for three kinds of gold answers: single letters (A, B), words of two or three capitals with a vowel
(US, IT, WHO), and function words with a capital (May, Will, You). All others match in any case: Copper is copper,
NASA is nasa, TV is tv.
"""

import regex

MOST_CAPITALS = 3  # longest word whose case is compared; longer ones, such as NASA and POSITIVE, are not ordinary words

_MODALS = {"can", "could", "may", "might", "must", "shall", "should", "will", "would"}
_PRONOUNS = {
    "i", "you", "he", "she", "it", "we", "they", "me", "him", "her", "us", "them", "my", "your", "his", "its", "our",
    "their", "who", "whom", "whose", "which", "what", "this", "that", "these", "those", "there", "a", "an", "the",
}  # fmt: skip
_AUXILIARIES = {"be", "is", "am", "are", "was", "were", "has", "have", "had", "do", "does", "did"}
# Words that can be an answer in lower case are not here: yes, no, all, on, off, up, before, after and so on.
_ORDINARY = _MODALS | _PRONOUNS | _AUXILIARIES | {
    "and", "as", "at", "because", "but", "for", "from", "how", "if", "into", "of", "or", "so", "than", "then", "to",
    "when", "where", "why", "with", "aids",
}  # fmt: skip
# `A` before one of these is not an article: "A is right", "A because".
_BEHIND_A_NAME = _AUXILIARIES - {"be"} | {"and", "or", "because", "as", "since", "for", "in", "but", "not"}
_LABELS = {"yes", "no"}  # match in any case, although the gold answer may be in capitals

_VOWEL = regex.compile("[aeiouy]", regex.I)
_OPEN, _CLOSE = r"""(\[{"“‘«*'`""", r""")\]}"”’»*'`"""
_SENTENCE_END = regex.compile(r"(?<!\b(?:Mr|Mrs|Ms|Dr|St|Prof))[.!?…][\p{P}*]*\s+|\n\s*")
_CONTINUES = regex.compile(r"\w[^\w:)\]\"“]*$")  # text before a word that is not the first of a sentence
_ARTICLE = regex.compile(r"\W*(?:(?:an?|the)\s+\W*)?", regex.I)
_ANNOUNCED = regex.compile(
    rf"\b(?:answer|option|choice|letter|solution)\s*(?:(?:is|was|would be|should be|must be)\b|[:=])[\s:{_OPEN}]*$",
    regex.I,
)
_NAMED = regex.compile(r"\b(?:answer|option|choice|letter)\s+$", regex.I)
_WORD = regex.compile(r"[^\w?!.]*?([\w]+)")


def compares_case(word: str) -> bool:
    """Whether the case of a gold answer matters: one to three capitals, or a function word with a capital.

    >>> [compares_case(word) for word in ("B", "US", "May", "Copper", "NASA", "TV", "b", "H2O")]
    [True, True, True, False, False, False, False, False]
    """
    if not word.isalpha() or not word[0].isupper() or word.casefold() in _LABELS:
        return False
    return _is_short_name(word) or word.casefold() in _ORDINARY


def is_said(word: str, text: str, start: int, end: int) -> bool:
    """Whether the characters from `start` to `end` of a text mean the gold answer `word`, whose case matters.

    This is true if one of these holds:

    - The word is set off, in any case: it is the whole of a sentence (`b`, `The us.`), is in brackets or quotation
      marks (`(b)`), is marked as an option (`b)`, `b. Paris`), or is announced (`the answer is b`).
    - It has the case of the gold answer, and not for another reason: it neither begins a sentence as an ordinary
      word does (`May I help?`, `A dog`, but not `May 5` or `Will is right`), nor is all the sentence in capitals.
    - The whole text has no capitals, or the sentence nothing else, and the word is no function word (`cat`), or `the`
      makes it a name (`the us`, but not `us`).

    >>> is_said("US", "He lives in the US.", 16, 18), is_said("US", "Give us time.", 5, 7)
    (True, False)
    """
    if regex.search(r"\w['’]$", text[:start]):  # the s of it's
        return False
    said, bounds = text[start:end], _find_sentence(text, start)
    before, after = text[bounds[0] : start], text[end : bounds[1]]
    if _is_set_off(word, before, after):
        return True
    function = word.casefold() in _ORDINARY
    ordinary = function and _can_be_ordinary(word.casefold(), after)
    if text.islower() or (before + said + after).isupper():
        if len(word) == 1:
            return not ordinary
        return not function or (word.isupper() and regex.search(r"\bthe\s+$", before, regex.I) is not None)
    if word == "I":  # in capitals as a pronoun, too
        return said == word and not ordinary
    by_accident = ordinary and not _CONTINUES.search(before)
    if len(word) == 1:
        return said == word and not by_accident
    if _is_short_name(word):
        return said == word
    return said[0].isupper() and not by_accident


def _is_short_name(word: str) -> bool:
    """Whether a word is a letter or a few in capitals that could be an ordinary word, which has a vowel: not TV."""
    return word.isupper() and len(word) <= MOST_CAPITALS and (len(word) == 1 or _VOWEL.search(word) is not None)


def _find_sentence(text: str, at: int) -> tuple[int, int]:
    """Start and end of the sentence, or the line, that holds a character."""
    start, end = 0, len(text)
    for match in _SENTENCE_END.finditer(text):
        if match.end() > at:
            end = match.end()
            break
        start = match.end()
    return start, end


def _is_set_off(word: str, before: str, after: str) -> bool:
    """Whether a word is set off in its sentence, so that its case does not matter."""
    if _ARTICLE.fullmatch(before) and regex.fullmatch(r"[^\w?]*", after):
        return True
    if regex.search(rf"[{_OPEN}]$", before) and regex.match(rf"[.,:;!]?[{_CLOSE}]", after):
        return True
    if len(word) == 1:  # an option
        first = not regex.search(r"\w", before)
        if regex.match(r"[)\]]", after) or (first and regex.match(r"[.:](?:\s|$)", after)) or _NAMED.search(before):
            return True
    ordinary = word.casefold() in _ORDINARY and regex.match(r"\s*\w", after)
    return _ANNOUNCED.search(before) is not None and not ordinary


def _can_be_ordinary(word: str, after: str) -> bool:
    """Whether a function word can have its ordinary meaning before `after`, as an article before a noun."""
    match = _WORD.match(after)
    following, apart = (match[1], regex.search(r"[^\s\w]", match[0])) if match else ("", None)
    if not following or apart or following[0].isdigit():
        return False
    if word == "a":
        return following.casefold() not in _BEHIND_A_NAME
    if word in _MODALS:  # they begin questions and wishes, before the subject
        return "?" in after or following.casefold() in _PRONOUNS | {"be", "have", "do", "not"}
    return True
