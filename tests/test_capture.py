import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from datamodules.capture import SITES, blocks, capture, check_finite, check_site, choose_layers

SEQUENCES = [[1, 5, 9, 20, 33], [1, 7], [1, 40, 41, 42, 43, 44, 45, 46], [1, 8, 9]] * 2
INDEX = torch.tensor([[4, 0, 2], [1, 0, 1], [7, 3, 3], [2, 1, 0]] * 2)
LAYERS = [0, 1, 2]


@pytest.fixture(scope="module")
def network(language_model):
    return language_model.load("cpu")


def hidden_states(network, sequence):
    return network.model(torch.tensor([sequence]), output_hidden_states=True).hidden_states


@pytest.mark.parametrize(("site", "offset"), [("resid_pre", 0), ("resid_post", 1)])
def test_the_stream_against_output_hidden_states(network, site, offset):
    acts = capture(network, SEQUENCES, INDEX, site, LAYERS)
    assert acts.shape == (8, 3, 3, 32)
    for n, sequence in enumerate(SEQUENCES):
        states = hidden_states(network, sequence)
        for layer in LAYERS:
            if layer + offset == 3:  # the last entry of hidden_states is after the final norm
                torch.testing.assert_close(
                    network.model.norm(acts[n, layer]), states[3][0, INDEX[n]], atol=1e-5, rtol=1e-5
                )
            else:
                torch.testing.assert_close(acts[n, layer], states[layer + offset][0, INDEX[n]], atol=1e-5, rtol=1e-5)


def test_what_the_sublayers_add_is_what_the_stream_gains(network):
    acts = {site: capture(network, SEQUENCES, INDEX, site, LAYERS) for site in SITES}
    gained = acts["resid_post"] - acts["resid_pre"]
    torch.testing.assert_close(gained, acts["attn_out"] + acts["mlp_out"], atol=1e-5, rtol=1e-5)
    for i, block in enumerate(network.model.layers):
        torch.testing.assert_close(
            block.self_attn.o_proj(acts["z"][:, i]), acts["attn_out"][:, i], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            block.mlp.down_proj(acts["mlp_post"][:, i]), acts["mlp_out"][:, i], atol=1e-5, rtol=1e-5
        )


def test_a_batch_of_eight_against_one_by_one(network):
    together = capture(network, SEQUENCES, INDEX, "resid_post", LAYERS)
    for n, sequence in enumerate(SEQUENCES):
        alone = capture(network, [sequence], INDEX[n : n + 1], "resid_post", LAYERS)
        torch.testing.assert_close(together[n : n + 1], alone, atol=1e-5, rtol=1e-5)


def hooks(network):
    return [dict(h) for m in network.modules() for h in (m._forward_hooks, m._forward_pre_hooks)]


def test_chosen_layers_only_and_no_hook_left(network):
    before = hooks(network)
    some = capture(network, SEQUENCES, INDEX, "mlp_out", [2])
    every = capture(network, SEQUENCES, INDEX, "mlp_out", LAYERS)
    assert torch.equal(some[:, 0], every[:, 2])
    assert hooks(network) == before


def test_hooks_go_when_the_forward_fails(network):
    before = hooks(network)
    with pytest.raises(IndexError):
        capture(network, [[1, 10**6]], torch.tensor([[0]]), "resid_post", LAYERS)
    assert hooks(network) == before


def test_the_head_is_not_run(network):
    runs = []
    handle = network.lm_head.register_forward_hook(lambda *_: runs.append(1))
    capture(network, SEQUENCES, INDEX, "resid_post", LAYERS)
    handle.remove()
    assert not runs
    assert len(blocks(network)) == 3


def test_names_and_layers_are_checked():
    with pytest.raises(ValueError, match=r"site.name: expected one of resid_pre, resid_post, .*; got 'resid'"):
        check_site("resid")
    assert choose_layers(3, None) == [0, 1, 2]
    assert choose_layers(3, [2, 0]) == [0, 2]
    for wrong in ([3], [-1, 0], []):
        with pytest.raises(ValueError, match="expected layers of the model, 0 to 2, got"):
            choose_layers(3, wrong)


def test_layers_are_a_list():
    for wrong in (1, "0", ["a"], [True]):
        with pytest.raises(ValueError, match=r"site.layers: expected a list of layers such as \[0, 4\], got"):
            choose_layers(3, wrong)  # type: ignore[arg-type]


def test_a_site_that_a_block_lacks_is_refused_with_those_it_has():
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)).eval()
    with pytest.raises(ValueError, match="expected one that GPT2Block has: resid_pre, resid_post, mlp_out; got z"):
        capture(gpt2, [[1, 2]], torch.tensor([[1]]), "z", [0])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_none_is_named(bad):
    acts = torch.zeros(2, 3, 2, 4)
    check_finite(acts, [0, 5, 7], ["last_q", "-1"], ["a", "b"])
    acts[1, 2, 0, 3] = bad
    with pytest.raises(ValueError, match=rf"got {bad} at layer 7, position last_q, example b"):
        check_finite(acts, [0, 5, 7], ["last_q", "-1"], ["a", "b"])
