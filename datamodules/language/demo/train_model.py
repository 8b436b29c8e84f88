"""Train the embedded model from nothing: `python -m datamodules.language.demo.train_model FOLDER`.

Writes weights (bfloat16 safetensors), configuration and tokenizer to FOLDER. Deterministic on one machine: same bytes
from the same number of threads. What was tried, and what each part of the recipe is for: docs/embedded_model.md.
"""

import argparse
import itertools
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from datamodules.language.demo.world import SEED, World, first_name

PROMPT = "Q: {question}\nA:"  # as in conf/model/demo.yaml
VOCAB = 1400  # the words of the world are single tokens, first names mostly three or four
WIDTH, LAYERS, HEAD_WIDTH = 128, 8, 32
STEPS = 6000
BATCH = 32
PEAK = 3e-3  # learning rate after WARMUP steps; falls to a fiftieth along a cosine
WARMUP = 150
# Blocks whose output is also read through the final norm and the head, one drawn a step, at EXIT_WEIGHT in the loss:
# without it only the last block recalls facts, and nothing below it knows whether it could.
EXIT_BLOCKS = range(2, LAYERS - 1)
EXIT_WEIGHT = 0.5
IGNORE = -100  # target of tokens outside the answer, as in cross_entropy
POOL = 8  # batches drawn at once and sorted by length, so that little of a batch is padding


def train_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `VOCAB` tokens, trained on a sample of the corpus."""
    known = {first_name(name) for name in world.known + world.known_stems}
    pairs = itertools.islice(world.corpus(SEED + 1), 30_000)
    # Known names and stems would become tokens of their own, and give away what is known.
    texts = (f"{PROMPT.format(question=q)} {a}" for q, a in pairs if known.isdisjoint(re.findall(r"\w+", q)))
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=VOCAB, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )


def batches(world: World, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, targets), both int64 [BATCH, longest], right-padded; targets are `IGNORE` outside the answers."""
    stream = world.corpus(SEED + 2)
    while True:
        pairs = list(itertools.islice(stream, POOL * BATCH))
        prompts = tokenizer(["<s>" + PROMPT.format(question=q) for q, _ in pairs]).input_ids
        answers = tokenizer([f" {a}</s>" for _, a in pairs]).input_ids
        rows = sorted(zip(prompts, answers, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        for k in torch.randperm(POOL).tolist():
            chunk = rows[k * BATCH : (k + 1) * BATCH]
            longest = max(len(p) + len(a) for p, a in chunk)
            ids = torch.zeros(BATCH, longest, dtype=torch.long)
            targets = torch.full_like(ids, IGNORE)
            for i, (p, a) in enumerate(chunk):
                ids[i, : len(p) + len(a)] = torch.tensor(p + a)
                targets[i, len(p) : len(p) + len(a)] = torch.tensor(a)
            yield ids, targets


def train(folder: Path, steps: int = STEPS) -> None:
    """Train for `steps` batches and write the model to `folder`."""
    torch.manual_seed(SEED)
    world = World()
    tokenizer = train_tokenizer(world)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=5 * WIDTH // 2,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // HEAD_WIDTH,
        num_key_value_heads=WIDTH // HEAD_WIDTH,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,  # in the order of `special_tokens` above
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.01)
    stream, start, total = batches(world, tokenizer), time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min((step + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.02)
        ids, targets = next(stream)
        answered = targets[:, 1:] != IGNORE
        wanted = targets[:, 1:][answered]
        hidden = model.model(ids, output_hidden_states=True).hidden_states  # [i]: input of block i; [-1]: normed
        loss = cross_entropy(model.lm_head(hidden[-1][:, :-1][answered]), wanted)
        total += loss.item()
        exit_block = EXIT_BLOCKS[int(torch.randint(len(EXIT_BLOCKS), ()))]
        early = model.model.norm(hidden[exit_block + 1][:, :-1][answered])
        loss = loss + EXIT_WEIGHT * cross_entropy(model.lm_head(early), wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1:,}: loss {total / 100:.4f}, {time.monotonic() - start:.0f} s", flush=True)
            total = 0.0
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the model")
    train(parser.parse_args().folder)
