import random
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from datamodules.language import generation
from datamodules.language.capture import capture
from datamodules.language.generation import generate_answers
from datamodules.language.token_taps import STORE, TokenTaps
from tests.support.families import DEPTH, FAMILIES, VOCABULARY, build

CELLS = [2, 0, 2]  # layers of three probes: two of one layer, and not in order


def draw_probes(width):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(CELLS), width, generator=generator), torch.randn(len(CELLS), generator=generator)


def draw_prompts(name, n=9):
    rng = random.Random(name)
    return [[rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(2, 12))] for _ in range(n)]


def score_captured(network, sequence, site, weight, bias):
    """Oracle: every token of a sequence by `capture`, one sequence at a time, rounded as the cache stores it."""
    at = torch.arange(len(sequence))[None, :, None].expand(1, -1, 2)
    (acts,) = capture(network, [sequence], at, [site], range(DEPTH))[site]
    rounded = acts.to(STORE).double()
    scores = [rounded[layer] @ weight[c].double() + bias[c] for c, layer in enumerate(CELLS)]
    return torch.stack(scores, -1).float()


def assert_close(found, expected, weight, acts_size):
    """Up to the rounding of activations to bfloat16: another batch may round a number to its neighbour, 2^-8 away."""
    tolerance = 2**-8 * acts_size * weight.norm(dim=-1).max().item() / 4
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("whole_prompt", [False, True])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "bert"])
def test_scores_read_while_answers_are_written_against_a_second_pass(name, whole_prompt, language_model, monkeypatch):
    """Answers leave the batch early, at the end of a call, within one, and at the longest length."""
    monkeypatch.setattr(generation, "CHUNK", 3)
    network: Any = build(name)
    network.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)
    tokenizer, prompts = language_model.load_tokenizer(), draw_prompts(name)
    free = generate_answers(network, tokenizer, prompts, 14)
    said = [list(answer.answer_ids) for answer in free]
    end = max(range(3, VOCABULARY), key=lambda token: len({ids.index(token) for ids in said if token in ids}))
    weight, bias = draw_probes(32)
    with TokenTaps(network, "resid_post", CELLS, weight, bias, whole_prompt) as taps:
        answers = generate_answers(network, tokenizer, prompts, 14, stop_ids=[end], taps=taps)
    assert answers == generate_answers(network, tokenizer, prompts, 14, stop_ids=[end])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    lengths = {len(answer.answer_ids) for answer in answers}
    assert len(lengths) > 1 or name == "mixtral"
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        found = taps.collect(prompt, i)
        assert found.start == (0 if whole_prompt else len(prompt) - 1)
        assert found.start + len(found.scores) == len(prompt) + len(answer.answer_ids)
        expected = score_captured(network, [*prompt, *answer.answer_ids], "resid_post", weight, bias)
        assert_close(found.scores, expected[found.start :], weight, acts_size=8)
