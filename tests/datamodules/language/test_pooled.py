"""Positions that pool: means, maxima and the last token over ranges, against full forwards of one sequence each."""

import pytest
import torch

from datamodules.language.cache.cached_activations import digest_positions
from datamodules.language.capture import capture
from datamodules.language.positions import Positions, Rule, compute_coincidence
from datamodules.language.sites import find_blocks, find_places
from tests.support.families import DEPTH, WIDTH, build
from tests.support.positions import shipped

SEQUENCES = [[1, 5, 9, 20, 33], [1, 7, 12], [1, 40, 41, 42, 43, 44, 45, 46], [1, 8, 9, 11]]
PROMPTS = [2, 1, 3, 2]  # tokens of each that are its prompt
SPANS = [(1, 2), (1, 1), (2, 4), None]


def resolve(rules):
    pairs = list(zip(SEQUENCES, PROMPTS, strict=True))
    prompts, answers = [ids[:n] for ids, n in pairs], [ids[n:] for ids, n in pairs]
    return Positions(rules).resolve(None, prompts, answers, SPANS)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_pooled_list_against_full_forwards(name, dtype):
    """Oracle: each sequence alone, without padding, pooled in float64 from `output_hidden_states`."""
    model = build(name).to(dtype)
    tokens, valid = resolve(shipped("pooled"))
    assert valid.tolist() == [[True] * 9] * 3 + [[True] * 6 + [False] * 3]
    acts = capture(model, SEQUENCES, tokens, ["resid_post"], range(DEPTH - 1))["resid_post"]
    for n, (ids, start) in enumerate(zip(SEQUENCES, PROMPTS, strict=True)):
        states = torch.stack(model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:-1])[:, 0]
        span = SPANS[n]
        ranges = [(start, len(ids)), (0, start)] + ([(start + span[0], start + span[1] + 1)] if span else [])
        for k, (first, stop) in enumerate(ranges):
            run = states[:, first:stop].double()
            for t, expected in enumerate((run.mean(1), run.amax(1), run[:, -1])):
                atol, rtol = (1e-5, 1e-5) if dtype is torch.float32 else (2**-7, 2**-6)
                torch.testing.assert_close(acts[n, :, 3 * k + t].double(), expected, atol=atol, rtol=rtol)


def test_means_are_taken_in_float32_and_maxima_are_numbers_of_the_model():
    """In bfloat16: the mean of its numbers rounded once, and a maximum that is one of them, bit by bit."""
    model = build("llama").bfloat16()
    ids = SEQUENCES[2]
    every = torch.arange(len(ids))[None, :, None].expand(-1, -1, 2)
    alone = capture(model, [ids], every, ["resid_post"], [1])["resid_post"][0, 0]  # [tokens, D]
    pooled = capture(model, [ids], torch.tensor([[[2, 7], [7, 2]]]), ["resid_post"], [1])["resid_post"][0, 0]
    assert torch.equal(pooled[0], (alone[2:].double().sum(0).float() / 6).bfloat16())
    assert torch.equal(pooled[1], alone[2:].amax(0))


def test_every_site_gives_maxima_that_padding_does_not_reach():
    model = build("llama")
    sites = list(find_places(find_blocks(model)[0], WIDTH))
    ends = torch.tensor([[[len(ids) - 1, 0], [len(ids) - 1, len(ids) - 1]] for ids in SEQUENCES])
    acts = capture(model, SEQUENCES, ends, sites, [0, 2])
    assert len(sites) == 6
    for n, ids in enumerate(SEQUENCES):
        every = torch.arange(len(ids))[None, :, None].expand(-1, -1, 2)
        alone = capture(model, [ids], every, sites, [0, 2])
        for site in sites:
            torch.testing.assert_close(acts[site][n, :, 0], alone[site][0].amax(1), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(acts[site][n, :, 1], alone[site][0][:, -1], atol=1e-5, rtol=1e-5)


def test_a_mean_and_a_maximum_are_told_apart_in_the_cache_and_in_the_map():
    rules = [Rule("mean", "answer", "mean"), Rule("max", "answer", "max"), Rule("last", "answer", "last")]
    tokens, valid = resolve(rules)
    assert tokens[2].tolist() == [[3, 7], [7, 3], [7, 7]]
    assert len(set(digest_positions(tokens, valid))) == 3
    assert compute_coincidence(tokens, valid)[0, 1] == 0
    one = torch.tensor([1])  # of one token they are the same
    short = Positions(rules).resolve(None, [[1]], [[4]], [None])[0]  # type: ignore[arg-type]
    assert short.tolist() == [[[1, 1]] * 3]
    assert torch.equal(short[0, :, 0], one.expand(3))


def test_over_is_another_name_of_of():
    named = {"name": "x", "at": "max"}
    assert Positions([named | {"over": "prompt"}]).rules == Positions([named | {"of": "prompt"}]).rules
    with pytest.raises(ValueError, match=r"expected name, of, and what it needs .* got name, at, of, over"):
        Positions([named | {"of": "prompt", "over": "prompt"}])
    with pytest.raises(ValueError, match=r"expected of among prompt, .*, system, user, assistant; got 'role'"):
        Positions([named | {"over": "role"}])
    with pytest.raises(ValueError, match="x: expected no offset of a max, got 1; leave it out"):
        Positions([named | {"of": "prompt", "offset": 1}])
