"""What one forward brings back: chosen tokens and means, several sites, the same in a batch as alone."""

import pytest
import torch
from transformers import DebertaV2Config, DebertaV2Model

from datamodules.language.capture import capture, check_finite
from datamodules.language.generation import generate_answers
from datamodules.language.site_names import SITES
from datamodules.language.sites import Place, find_blocks, find_places
from tests.support.families import DEPTH, FAMILIES, WIDTH, build

SEQUENCES = [[1, 5, 9, 20, 33], [1, 7], [1, 40, 41, 42, 43, 44, 45, 46], [1, 8, 9]] * 2
TOKENS = torch.tensor([[4, 0, 2], [1, 0, 1], [7, 3, 3], [2, 1, 0]] * 2)[..., None].expand(-1, -1, 2)
LAYERS = [0, 1, 2]


@pytest.fixture(scope="module")
def network(language_model):
    return language_model.load("cpu")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_of_eight_against_one_by_one(name):
    model = build(name)
    sites = [site for site in SITES if site in find_places(find_blocks(model)[0], WIDTH)]
    together = capture(model, SEQUENCES, TOKENS, sites, range(DEPTH))
    for n, sequence in enumerate(SEQUENCES):
        alone = capture(model, [sequence], TOKENS[n : n + 1], sites, range(DEPTH))
        for site in sites:
            torch.testing.assert_close(together[site][n : n + 1], alone[site], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["mistral", "qwen3", "gemma3", "gpt2", "gpt_neox", "opt", "falcon", "mixtral"])
def test_greedy_answers_of_a_batch_are_those_of_one_by_one(name, language_model):
    model, tokenizer = build(name), language_model.load_tokenizer()
    model.generation_config.eos_token_id = 2
    together = generate_answers(model, tokenizer, SEQUENCES, 12)
    for sequence, answer in zip(SEQUENCES, together, strict=True):
        (alone,) = generate_answers(model, tokenizer, [sequence], 12)
        assert answer.answer_ids == alone.answer_ids
        assert answer.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_means_are_of_every_token_from_first_to_last(network):
    ranges = torch.tensor([[[0, 4], [2, 2], [1, 3]], [[0, 1], [1, 1], [0, 0]], [[3, 7], [0, 0], [2, 4]]])
    acts = capture(network, SEQUENCES[:3], ranges, ["resid_post", "mlp_post"], LAYERS)
    for n in range(3):
        every = torch.arange(len(SEQUENCES[n]))[None, :, None].expand(-1, -1, 2)
        for site, found in acts.items():
            alone = capture(network, [SEQUENCES[n]], every, [site], LAYERS)[site][0]
            for t, (first, last) in enumerate(ranges[n].tolist()):
                expected = alone[:, first : last + 1].double().mean(1)
                torch.testing.assert_close(found[n, :, t].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_padding_on_the_left_with_positions_told_gives_the_same(name):
    """Padding on the right needs no positions told: they count from 0 in every row. The other way round, they do."""
    model, width = build(name), max(map(len, SEQUENCES))
    acts = capture(model, SEQUENCES, TOKENS, ["resid_pre"], LAYERS)["resid_pre"]
    ids = torch.tensor([[0] * (width - len(s)) + s for s in SEQUENCES])
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in SEQUENCES])
    told = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    states = model(ids, attention_mask=mask, output_hidden_states=True, **told).hidden_states
    for n, sequence in enumerate(SEQUENCES):
        for layer in LAYERS:
            there = states[layer][n, TOKENS[n, :, 0] + width - len(sequence)]
            torch.testing.assert_close(acts[n, layer], there, atol=1e-5, rtol=1e-5)


def test_a_mean_is_of_its_own_tokens_alone(network, monkeypatch):
    """An infinity at a token outside the mean does not reach it."""
    ranges = torch.tensor([[[1, 2], [0, 0]]])
    expected = capture(network, SEQUENCES[:1], ranges, ["mlp_out"], [0])["mlp_out"]
    down = network.model.layers[0].mlp.down_proj

    def spoilt(x):
        y = torch.nn.functional.linear(x, down.weight)
        y[:, 3:] = torch.inf
        return y

    monkeypatch.setattr(down, "forward", spoilt)
    acts = capture(network, SEQUENCES[:1], ranges, ["mlp_out"], [0])["mlp_out"]
    torch.testing.assert_close(acts, expected, atol=1e-6, rtol=1e-6)


def test_several_sites_in_one_forward_are_each_by_itself(network):
    runs = []
    handle = network.model.register_forward_hook(lambda *_: runs.append(1))
    together = capture(network, SEQUENCES, TOKENS, SITES, LAYERS)
    assert len(runs) == 1
    for site in SITES:
        assert torch.equal(capture(network, SEQUENCES, TOKENS, [site], LAYERS)[site], together[site])
    handle.remove()


def hooks(network):
    return [dict(h) for m in network.modules() for h in (m._forward_hooks, m._forward_pre_hooks)]


def test_chosen_layers_only_and_no_hook_left(network):
    before = hooks(network)
    some = capture(network, SEQUENCES, TOKENS, ["mlp_out"], [2])["mlp_out"]
    every = capture(network, SEQUENCES, TOKENS, ["mlp_out"], LAYERS)["mlp_out"]
    assert torch.equal(some[:, 0], every[:, 2])
    assert hooks(network) == before


def test_hooks_go_when_the_forward_fails(network):
    before = hooks(network)
    with pytest.raises(IndexError):
        capture(network, [[1, 10**6]], torch.tensor([[[0, 0]]]), ["resid_post"], LAYERS)
    assert hooks(network) == before


def test_hooks_go_when_a_site_is_refused():
    model = build("mixtral")
    before = hooks(model)
    with pytest.raises(ValueError, match="got mlp_post"):
        capture(model, SEQUENCES, TOKENS, ["resid_post", "mlp_post"], LAYERS)
    assert hooks(model) == before


def test_the_head_is_not_run(network):
    runs = []
    handle = network.lm_head.register_forward_hook(lambda *_: runs.append(1))
    capture(network, SEQUENCES, TOKENS, ["resid_post"], LAYERS)
    handle.remove()
    assert not runs


def test_a_shape_that_is_not_that_of_tokens_is_refused(network, monkeypatch):
    monkeypatch.setattr("datamodules.language.capture.find_place", lambda *_: Place([network.model.norm], "output"))
    monkeypatch.setattr(network.model.norm, "forward", lambda x: torch.stack((x, x)))
    with pytest.raises(ValueError, match=r"site: expected activations \[8, 8, D\], got \[2, 8, 8, 32\]"):
        capture(network, SEQUENCES, TOKENS, ["resid_post"], [0])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_none_is_named(bad):
    acts = torch.zeros(2, 3, 2, 4)
    check_finite(acts, [0, 5, 7], ["last_q", "-1"], ["a", "b"])
    acts[1, 2, 0, 3] = bad
    with pytest.raises(ValueError, match=rf"got {bad} at layer 7, position last_q, example b"):
        check_finite(acts, [0, 5, 7], ["last_q", "-1"], ["a", "b"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu():
    model = build("llama")
    tokens = TOKENS.clone()
    tokens[0, 0] = torch.tensor([1, 3])  # a mean
    on_cpu = capture(model, SEQUENCES, tokens, SITES, LAYERS)
    on_gpu = capture(model.cuda(), SEQUENCES, tokens, SITES, LAYERS)  # type: ignore[arg-type]
    for site in SITES:
        torch.testing.assert_close(on_gpu[site].cpu(), on_cpu[site], atol=1e-4, rtol=1e-4)


def test_a_projection_of_another_shape_that_is_not_the_last_called_is_no_matter():
    """DeBERTa projects its relative embeddings with a map of the same kind as its output projection."""
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, max_position_embeddings=64,
    )  # fmt: skip
    model = DebertaV2Model(config).eval()
    ids, tokens = [[5, 6, 7, 8, 9]], torch.tensor([[[2, 2]]])
    kept = {}
    dense = model.get_submodule("encoder.layer.1.attention.output.dense")
    with dense.register_forward_hook(lambda _, args, output: kept.update(z=args[0], attn_out=output)):
        model(torch.tensor(ids))
    for site, h in capture(model, ids, tokens, ["z", "attn_out"], [1]).items():
        torch.testing.assert_close(h[0, 0, 0], kept[site][0, 2])
