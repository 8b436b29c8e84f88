import random
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from datamodules.language.generation import generate_answers
from datamodules.language.shared_prefix import SHORTEST, count_shared
from datamodules.language.sites import get_decoder
from datamodules.language.token_taps import TokenTaps
from tests.support.families import FAMILIES, VOCABULARY, build

SHARED, FORGETFUL = 12, ("mistral", "gemma2", "gemma3")  # these have a window of 6 tokens


def draw_prompts(seed, shared=SHARED, lengths=(1, 7, 3, 9, 1, 10)):
    """Prompts of one beginning and as many tokens of their own, the first of which always differs.

    By default all but the longest are padded by fewer tokens than they share.
    """
    rng = random.Random(seed)
    beginning = [rng.randrange(3, VOCABULARY) for _ in range(shared)]
    return [[*beginning, 3 + i, *(rng.randrange(3, VOCABULARY) for _ in range(n - 1))] for i, n in enumerate(lengths)]


def record_shapes(network):
    """Rows and tokens of every forward."""
    shapes: list[tuple[int, ...]] = []

    def record(_, args, kwargs):
        shapes.append(tuple(kwargs.get("input_ids", args[0] if args else None).shape))

    get_decoder(network).register_forward_pre_hook(record, with_kwargs=True)
    return shapes


def answer_alone(network, prompts, steps):
    """Oracle: each prompt through the family's own `generate`, without a batch."""
    network.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)
    return [
        network.generate(torch.tensor([prompt]), max_new_tokens=steps, do_sample=False)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]


def check_answers(network, tokenizer, prompts, steps=20):
    """Batched answers against the oracle, and log-probabilities against one forward without a cache."""
    expected = answer_alone(network, prompts, steps)
    shapes = record_shapes(network)
    found = generate_answers(network, tokenizer, prompts, steps)
    forwards = shapes[:]
    assert [list(answer.answer_ids) for answer in found] == expected
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([[*prompt, *answer.answer_ids]])
        logprobs = network(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(torch.tensor(answer.logprobs), logprobs.max(-1).values, rtol=1e-4, atol=1e-4)
    return forwards


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "bert"])
def test_a_shared_beginning_changes_no_answer(name, language_model):
    prompts = draw_prompts(name)
    network: Any = build(name)
    first, second, *rest = check_answers(network, language_model.load_tokenizer(), prompts)
    width = max(map(len, prompts))
    assert first == (1, SHARED)
    assert second == (len(prompts), width if name in FORGETFUL else width - SHARED)
    assert set(rest) == {(len(prompts), 1)}


@pytest.mark.parametrize("window", [SHARED, SHARED + 1, 20, 40])
@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_windows_longer_than_the_shared_beginning(name, window, language_model):
    """Keys of the beginning leave the window while prompts are read, or while answers are written."""
    network: Any = build(name, sliding_window=window)
    prompts = draw_prompts(window)
    forwards = check_answers(network, language_model.load_tokenizer(), prompts)
    kept = SHARED if window > SHARED else 0  # a window of w keeps the keys of w - 1 tokens
    assert forwards[1] == (len(prompts), max(map(len, prompts)) - kept)


@pytest.mark.parametrize(
    ("prompts", "forwards"),
    [
        (draw_prompts(0, SHORTEST - 1), [(6, SHORTEST + 9)]),
        (draw_prompts(0, SHORTEST), [(1, SHORTEST), (6, 10)]),
        (draw_prompts(0, SHORTEST, (1, 30, 23, 22)), [(1, SHORTEST), (4, 30)]),  # padding is longer than what is shared
        (draw_prompts(0)[:1], [(1, SHARED + 1)]),
        ([[*range(5, 25)]] * 3, [(1, 19), (3, 1)]),  # equal prompts: each reads its last token
        ([[*range(5, 25)], [*range(5, 15)]], [(1, 9), (2, 11)]),  # one begins another
    ],
)
def test_how_much_is_read_once(prompts, forwards, language_model):
    found = check_answers(build("llama"), language_model.load_tokenizer(), prompts, steps=2)
    assert found[:-1] == forwards


def test_no_prompt_gives_all_of_its_tokens_away():
    assert count_shared([[5, 6, 7]]) == 2
    assert count_shared([[5], [5, 6]]) == 0
    assert count_shared([[5, 6], [6, 6]]) == 0


@pytest.mark.parametrize("whole_prompt", [False, True])
def test_taps_read_the_same_beside_a_shared_beginning(whole_prompt, language_model):
    network: Any = build("llama")
    network.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)
    tokenizer, prompts = language_model.load_tokenizer(), draw_prompts(1)
    weight, bias = torch.randn(2, network.config.hidden_size), torch.randn(2)

    def answer(batch):
        with TokenTaps(network, "resid_post", [0, 2], weight, bias, whole_prompt) as taps:
            answers = generate_answers(network, tokenizer, batch, 6, taps=taps)
            return [taps.collect(one.prompt_ids, i) for i, one in enumerate(answers)]

    for prompt, together in zip(prompts, answer(prompts), strict=True):
        (alone,) = answer([prompt])
        assert together.start == alone.start == (0 if whole_prompt else len(prompt) - 1)
        torch.testing.assert_close(together.scores, alone.scores, rtol=1e-3, atol=0.05)  # rounded to bfloat16
