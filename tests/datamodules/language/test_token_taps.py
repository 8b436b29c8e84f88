import random
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from datamodules.language import generation
from datamodules.language.capture import capture
from datamodules.language.generation import generate_answers
from datamodules.language.site_names import SITES
from datamodules.language.token_taps import STORE, TokenScores, TokenTaps, read_token_scores
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
    monkeypatch.setattr(generation, "CPU_CHUNK", 3)
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


def test_a_model_without_a_cache_of_rows_reads_the_last_tokens_again(language_model, monkeypatch):
    monkeypatch.setattr(generation, "_make_row_cache", lambda model: None)
    network: Any = build("llama")
    network.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)
    prompts, (weight, bias) = draw_prompts("llama", 3), draw_probes(32)
    with TokenTaps(network, "resid_post", CELLS, weight, bias) as taps:
        answers = generate_answers(network, language_model.load_tokenizer(), prompts, 6, taps=taps)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        expected = score_captured(network, [*prompt, *answer.answer_ids], "resid_post", weight, bias)
        assert_close(taps.collect(prompt, i).scores, expected[len(prompt) - 1 :], weight, acts_size=8)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_site_is_read(name, site):
    network: Any = build(name)
    sequences = draw_prompts(name, 4)
    at = torch.zeros(1, 1, 2, dtype=torch.long)
    width = capture(network, [[3]], at, [site], [0])[site].shape[-1]
    weight, bias = draw_probes(width)
    with TokenTaps(network, site, CELLS, weight, bias, whole_prompt=True) as taps:
        found = read_token_scores(taps, sequences)
    for scores, sequence in zip(found, sequences, strict=True):
        assert scores.start == 0
        assert_close(scores.scores, score_captured(network, sequence, site, weight, bias), weight, acts_size=8)


def test_the_mean_of_tokens_has_the_mean_of_their_scores():
    network: Any = build("llama")
    (sequence,) = draw_prompts("llama", 1)
    weight, bias = draw_probes(32)
    with TokenTaps(network, "resid_post", CELLS, weight, bias, whole_prompt=True) as taps:
        (found,) = read_token_scores(taps, [sequence])
    last = len(sequence) - 1
    acts = capture(network, [sequence], torch.tensor([[[0, last]]]), ["resid_post"], range(DEPTH))["resid_post"]
    expected = torch.stack([acts[0, layer, 0] @ weight[c] + bias[c] for c, layer in enumerate(CELLS)])
    mean = found.at(0, last)
    assert mean is not None
    assert_close(mean, expected, weight, acts_size=8)  # here each token is rounded, there their mean
    assert found.at(last, last + 1) is None
    assert TokenScores(torch.ones(2, 1), start=3).at(2, 3) is None


def test_probes_of_another_model_are_refused():
    network: Any = build("llama")
    with pytest.raises(ValueError, match=r"^model: expected layers 3, which the probes read, got a model of 3 layers"):
        TokenTaps(network, "resid_post", [3], torch.ones(1, 32), torch.zeros(1))
    with (
        pytest.raises(ValueError, match=r"^model: expected activations of width 31, that of the probes, got 32; "),
        TokenTaps(network, "resid_post", [0], torch.ones(1, 31), torch.zeros(1), whole_prompt=True) as taps,
    ):
        read_token_scores(taps, [[3, 4]])
    assert not any(module._forward_hooks for module in network.modules())
