"""Tokenizers that know the marks of a thought in different ways, and a small model for each."""

import random
from typing import Any

import torch
from tokenizers import AddedToken, ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from datamodules.language.thinking import MARKS
from tests.conftest import WORDS

KINDS = ("special", "added", "plain")  # how a tokenizer knows the marks


def byte_level(kind: str) -> Any:
    """A byte-level BPE that has the marks as special tokens, as added tokens, or not at all."""
    rng = random.Random(0)
    bpe = ByteLevelBPETokenizer()
    texts = [" ".join(rng.choices(WORDS, k=8)) for _ in range(200)] + ['</think>"no"', "Q: Where is the?\nA:"] * 50
    bpe.train_from_iterator(texts, vocab_size=420, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    if kind != "plain":
        marks = [AddedToken(mark, special=kind == "special") for pair in MARKS for mark in pair]
        tokenizer.add_tokens(marks, special_tokens=kind == "special")  # type: ignore[arg-type]
    return tokenizer


def network_of(tokenizer: Any, kind: Any = LlamaForCausalLM) -> Any:
    """A Llama of 2 layers and width 32 with random weights, for the tokens of a tokenizer.

    Args:
        tokenizer: whose length is the size of the vocabulary.
        kind: class of the model.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    return kind(config).eval()
