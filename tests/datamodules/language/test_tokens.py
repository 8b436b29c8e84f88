import itertools
import random
import re

import pytest
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from datamodules.language.tokens import decode, decode_tokens, find_tokens, locate
from datamodules.questions.find import cuts_word, find, find_first
from tests.support.places import SHARED

MISTRAL = SHARED / "tokenizers" / "mistral-7b-v1"


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece"])
def tokenizer(request, tiny_model):
    if request.param == "sentencepiece":
        if not MISTRAL.is_dir():
            pytest.skip(f"no tokenizer at {MISTRAL}")
        return AutoTokenizer.from_pretrained(MISTRAL)
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("the red stone", "red", "red"),
        ("hundred red stones", "red", "red"),  # the whole word, not the end of `hundred`
        ("hundreds", "red", "red"),  # else the first occurrence at all
        ("The RED stone", "red", "RED"),
        ("die Straße dort", "STRASSE", "Straße"),  # folding lengthens the text
        ("in 1999 or 42", "42", "42"),
        ("我在北京住", "北京", "北京"),
        ("", "red", None),
        ("blue", "red", None),
        ("blue", " ", None),
        ("the red stone", " red\n", "red"),
        ("It was New\nYork.", "New York", "New\nYork"),
        ("रामायण में राम", "राम", "राम"),  # a vowel sign goes on with the word
        ("cafe\u0301 cafe", "cafe", "cafe"),
        ("cafe\u0301", "cafe", None),
        ("cafe\u0301 bar", "caf\u00e9", "cafe\u0301"),
        ("caf\u00e9 bar", "cafe\u0301", "caf\u00e9"),
        ("한국", "하", None),  # a part of a syllable
        ("Parisians of _Paris_", "Paris", "Paris"),
        ("they told us of the US", "US", "US"),  # capitals in capitals, where they are
        ("he told us", "US", "us"),
    ],
)
def test_find(text, words, found):
    span = find(text, words)
    assert (text[slice(*span)] if span else None) == found


def test_the_whole_word_stands_behind_its_copy_within_a_longer_one():
    assert find("रामायण में राम", "राम") == (11, 14)
    assert find("cafe\u0301 cafe", "cafe") == (6, 10)


@pytest.mark.parametrize(
    ("text", "sought", "found"),
    [
        ("b then a", ["a", "b"], (0, 1)),
        ("neither", [], None),
        ("neither", ["", " "], None),
        ("Oxford, UK, England", ["England", "UK"], (8, 10)),
        ("New York City", ["York", "New York", "New York City"], (0, 13)),
        ("New York City", ["New York City", "New York", "York"], (0, 13)),
        ("Japanese for Nippon", ["Japan", "Nippon"], (13, 19)),
        ("北京北京 or 北京!", ["北京"], (8, 10)),  # by itself
        ("我在南京和北京住", ["北京", "南京"], (2, 4)),
        ("Japanese, Nipponese", ["Nippon", "Japan"], (0, 5)),
        ("_Parisian_ and _Paris_", ["Paris"], (16, 21)),
        ("he told us of the US", ["US", "the US"], (14, 20)),
        ("he told us of the USA", ["US"], (8, 10)),  # the whole word, though in other case
    ],
)
def test_the_first_of_several_words(text, sought, found):
    assert find_first(text, sought) == found


def test_the_first_of_several_words_against_every_range_of_characters():
    rng = random.Random(0)

    def occurrences(text, words):
        """Ranges that hold the words, and whether they cut one, told by what stands beside them."""
        for start in range(len(text)):
            if text[start : start + len(words)] == words:
                around = text[max(0, start - 1) : start] + text[start + len(words) : start + len(words) + 1]
                yield bool(re.search("[a-z]", around)), start, -len(words)

    for _ in range(2000):
        text = "".join(rng.choices("ab .", k=rng.randint(1, 12)))
        sought = ["".join(rng.choices("ab", k=rng.randint(1, 3))) for _ in range(rng.randint(1, 4))]
        best = min((one for words in sought for one in occurrences(text, words)), default=None)
        assert find_first(text, sought) == (best and (best[1], best[1] - best[2])), (text, sought)


@pytest.mark.parametrize(
    ("text", "words", "cuts"),
    [
        ("Japanese", "Japan", True),
        ("hundred", "red", True),
        ("Japan's", "Japan", False),
        ("_Japan_", "Japan", False),
        ("x42", "42", True),
        ("cafe\u0301s", "cafe\u0301", True),
        ("我在北京住", "北京", False),  # no blanks between words, so none is cut
        ("東京タワー", "東京", False),
        ("ที่นี่กรุงเทพฯ", "กรุงเทพ", False),
    ],
)
def test_parts_of_words_are_told_from_words(text, words, cuts):
    assert cuts_word(text, find(text, words) or (0, 0)) is cuts


def test_a_range_of_characters_is_found_where_it_is_not_at_an_earlier_copy(tokenizer):
    text = "stone river of stone"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    at = decode(tokenizer, ids).rindex("stone")
    first, last = find_tokens(tokenizer, ids, (at, at + 5)) or (-1, -1)
    assert last == len(ids) - 1
    assert tokenizer.decode(ids[first:]).strip() == "stone"
    assert first > (locate(tokenizer, ids, "stone") or (len(ids),))[0]


def shortest_run(tokenizer, ids, words):
    """Brute force: the shortest run of ids whose own decoding holds the words."""
    runs = [(i, j) for i in range(len(ids)) for j in range(i, len(ids)) if words in tokenizer.decode(ids[i : j + 1])]
    return min(runs, key=lambda run: (run[1] - run[0], run))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the red stone, then", "red stone"),
        ("a café naïve élan of 北京 東京", "élan"),
        ("key 北京 lamp", "北京"),
        ("bird 🦜 river 🗝️ blue", "🗝️"),
        ("co-op ship's 1999", "ship's"),
        ("(green)", "green"),
        ("blue\nriver\n", "river"),
        ("red", "red"),
    ],
)
def test_locate_against_every_run_of_tokens(tokenizer, text, words):
    ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert locate(tokenizer, ids, words) == shortest_run(tokenizer, ids, words)
    assert locate(tokenizer, ids, words.upper()) == shortest_run(tokenizer, ids, words)


def test_locate_prefers_the_whole_word_to_an_earlier_part(tokenizer):
    ids = tokenizer("hundred stones of red", add_special_tokens=False).input_ids
    first, last = locate(tokenizer, ids, "red") or (-1, -1)
    assert last == len(ids) - 1
    assert tokenizer.decode(ids[first:]).strip() == "red"


def test_ranges_cover_the_text_and_special_tokens_none(tokenizer):
    rng = random.Random(0)
    words = ["red", "naïve", "北京", "🗝️", "ship's", "co-op", "1999", "élan"]
    for _ in range(50):
        text = " ".join(rng.choices(words, k=6))
        ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        decoded, ranges = decode_tokens(tokenizer, ids)
        covered = {i for start, end in ranges for i in range(start, end)}
        assert covered == set(range(len(decoded)))
        assert ranges[-1][0] == ranges[-1][1]
        assert decoded.strip() == text


def test_absent_words_have_no_place(tokenizer):
    ids = tokenizer("the red stone", add_special_tokens=False).input_ids
    assert locate(tokenizer, ids, "blue") is None
    assert locate(tokenizer, [], "blue") is None


BYTE_LEVEL = {char: byte for byte, char in bytes_to_unicode().items()}


def bytes_of(name, sentencepiece):
    """What a token stands for, by its name in the vocabulary."""
    if sentencepiece:
        return bytes([int(name[3:5], 16)]) if re.fullmatch("<0x..>", name) else name.replace("▁", " ").encode()
    return bytes(BYTE_LEVEL[char] for char in name)


@pytest.mark.parametrize("seed", range(4))
def test_tokens_hold_the_bytes_of_what_is_sought_among_characters_of_several_tokens(tokenizer, seed):
    """Runs of characters that no token has are bytes, which a decoder shows only when the last of a run is there."""
    rng, mixed = random.Random(seed), "🦜🦚龘靐𠮷☃ก北京éßb \n-"
    sentencepiece = "▁" in tokenizer.get_vocab()
    for _ in range(100):
        text = "".join(rng.choices(mixed, k=rng.randint(2, 14)))
        start = rng.randrange(len(text))
        words = text[start : start + rng.randint(1, 3)]
        if not words.strip():
            continue
        ids = tokenizer(text, add_special_tokens=False).input_ids
        pieces = [bytes_of(name, sentencepiece) for name in tokenizer.convert_ids_to_tokens(ids)]
        whole = b"".join(pieces)
        blank = len(whole) - len(text.encode())  # SentencePiece puts one before a text
        span = find(text, words) or (0, 0)
        first, stop = (blank + len(text[:at].encode()) for at in span)
        ends = list(itertools.accumulate(map(len, pieces)))
        held = [i for i, end in enumerate(ends) if end > first and end - len(pieces[i]) < stop]
        assert locate(tokenizer, ids, words) == (held[0], held[-1]), (text, words)
