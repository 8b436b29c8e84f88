"""`locate` on thousands of real answers in sentences, against offsets that tokenizers report for text they encode.

The oracle never decodes: it finds the words in the text that was encoded, by scanning, and takes the tokens whose
offsets overlap them.
"""

import csv
import random

import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from datamodules.language.tokens import locate
from tests.support.places import SHARED

MISTRAL = SHARED / "tokenizers" / "mistral-7b-v1"
MOVIES = SHARED / "data" / "llmsknow" / "movie_qa_train.csv"
N = 2500

SENTENCES = [
    "{}",
    "The role was played by {}.",
    "I believe it was {}, though I am not sure.",
    "({})",
    "Pre{}fix first, and then {} by itself.",  # first inside a longer word
    "{0}{0} or {0}!",  # glued to itself
    'It is "{}"; some say ‘{}’.',
    "Réponse:\n\n{}\n",
    "主演是{}。",  # no blanks
    "🎬🍿 {} 🎉",
    "A co-star of {}-like fame, in 1{}9",
    "  \t {}  ",
    "ＡＢ naïve café — {}’s best",
    "1999 and 19 and 9: {}",
]


@pytest.fixture(scope="module")
def answers():
    if not MOVIES.is_file():
        pytest.skip(f"no file {MOVIES}")
    with MOVIES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    picked = random.Random(0).sample(rows, N)
    picked += [r for r in rows if not r["Answer"].isascii()][:200]  # every accent there is
    extra = ["9", "19", "北京", "🗝️", "ﬁn", "İstanbul", "straße", "ÅNGSTRÖM", "o'Neill", "co-op", "x"]
    return [row["Answer"] for row in picked] + extra * 5


@pytest.fixture(scope="module", params=["mistral", "byte_level"])
def tokenizer(request, answers):
    if request.param == "mistral":
        if not MISTRAL.is_dir():
            pytest.skip(f"no tokenizer at {MISTRAL}")
        return AutoTokenizer.from_pretrained(MISTRAL)
    bpe = ByteLevelBPETokenizer()
    texts = [SENTENCES[i % len(SENTENCES)].replace("{}", answer) for i, answer in enumerate(answers[:1500])]
    bpe.train_from_iterator(texts, vocab_size=1500, special_tokens=["</s>"], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="</s>")


def scanned(text, words):
    """First whole-word occurrence of the words, else the first at all; compared case-folded, start by start."""
    words = words.strip().casefold()
    part = None
    for start in range(len(text)):
        for end in range(start + 1, min(len(text), start + len(words)) + 1):
            if text[start:end].casefold() == words:
                free = not (start and is_word(text[start - 1])) and not (end < len(text) and is_word(text[end]))
                if free:
                    return start, end
                part = part or (start, end)
    return part


def is_word(char):
    return char.isalnum() or char == "_"


def expected(tokenizer, text, words):
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    span = scanned(text, words)
    hits = [i for i, (a, b) in enumerate(encoded.offset_mapping) if span and a < span[1] and b > span[0]]
    # SentencePiece puts a blank of its own before a text, and its offset on the first character.
    if hits and tokenizer.convert_ids_to_tokens(encoded.input_ids[hits[0]]) == "▁":
        hits.pop(0)
    return encoded.input_ids, (hits[0], hits[-1]) if hits else None


def test_against_the_offsets_of_the_text_that_was_encoded(tokenizer, answers):
    wrong, found = [], 0
    for i, words in enumerate(answers):
        text = SENTENCES[i % len(SENTENCES)].format(*[words] * 3)
        ids, tokens = expected(tokenizer, text, words)
        ids = [*ids, tokenizer.eos_token_id]
        found += tokens is not None
        if locate(tokenizer, ids, words) != tokens:
            wrong.append((text, words, tokens, locate(tokenizer, ids, words)))
    assert not wrong, f"{len(wrong)} of {len(answers)}: {wrong[:5]}"
    assert found == len(answers)


def test_what_is_absent_is_not_found(tokenizer, answers):
    for i, (here, other) in enumerate(zip(answers[:300], answers[300:600], strict=True)):
        text = SENTENCES[i % len(SENTENCES)].format(*[here] * 3)
        if scanned(text, other) is None:
            assert locate(tokenizer, tokenizer(text, add_special_tokens=False).input_ids, other) is None
