"""Where each site of each family is, against names known here and sums that the residual stream has to obey."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from datamodules.language.capture import capture
from datamodules.language.site_names import SITES, check_site
from datamodules.language.sites import choose_layers, find_blocks, find_place, find_places
from tests.support.families import DEPTH, FAMILIES, WIDTH, build

SEQUENCES = [[1, 5, 9, 20, 33, 8], [1, 7], [1, 40, 41, 42, 43, 44, 45, 46]]
AT = torch.tensor([[5, 2], [1, 0], [7, 3]])
TOKENS = AT[..., None].expand(-1, -1, 2)
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """A family, its model, and every site that it has at every layer."""
    model = build(request.param)
    sites = [site for site in SITES if site in find_places(find_blocks(model)[0], WIDTH)]
    return FAMILIES[request.param], model, capture(model, SEQUENCES, TOKENS, sites, range(DEPTH))


def linear(module, x):
    """A linear map by its weights, with numbers only."""
    weight = module.weight if isinstance(module, Conv1D) else module.weight.T
    return x @ weight + (0 if module.bias is None else module.bias)


def test_each_has_every_site_but_experts_one_down_projection(family):
    known, _, acts = family
    assert set(acts) == set(SITES) - ({"mlp_post"} if known.down is None else set())
    assert all(site.isfinite().all() for site in acts.values())


def test_the_stream_is_what_output_hidden_states_says(family):
    known, model, acts = family
    for n, sequence in enumerate(SEQUENCES):
        states = model(torch.tensor([sequence]), output_hidden_states=True).hidden_states
        for layer in range(DEPTH):
            assert_close(acts["resid_pre"][n, layer], states[layer][0, AT[n]])
        last = acts["resid_post"][n, -1]
        if known.kind != "bert":  # elsewhere the last entry is after the final norm
            last = model.base_model.get_submodule(known.final_norm)(last)
        assert_close(last, states[DEPTH][0, AT[n]])
    for layer, following in pairwise(range(DEPTH)):
        assert torch.equal(acts["resid_post"][:, layer], acts["resid_pre"][:, following])


def test_what_the_projections_make_of_their_input_is_their_output(family):
    known, model, acts = family
    for layer, block in enumerate(find_blocks(model)):
        projected = linear(block.get_submodule(known.output), acts["z"][:, layer])
        assert_close(projected, acts["attn_out"][:, layer])
        if known.down:
            projected = linear(block.get_submodule(known.down), acts["mlp_post"][:, layer])
            assert_close(projected, acts["mlp_out"][:, layer])


def test_attention_and_mlp_add_up_to_what_the_stream_gains(family):
    known, model, acts = family
    for layer, block in enumerate(find_blocks(model)):
        before, after = acts["resid_pre"][:, layer], acts["resid_post"][:, layer]
        added = [acts["attn_out"][:, layer], acts["mlp_out"][:, layer]]
        if known.kind == "bert":  # norms stand on the stream itself
            middle = block.get_submodule("attention.output.LayerNorm")(before + added[0])
            assert_close(block.get_submodule("output.LayerNorm")(middle + added[1]), after)
            continue
        if known.normed:
            added = [block.get_submodule(norm)(x) for norm, x in zip(known.normed, added, strict=True)]
        assert_close(before + added[0] + added[1], after)


def test_a_language_model_with_an_equally_deep_vision_tower_gives_its_own_blocks():
    text = FAMILIES["gemma3"].settings
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": DEPTH, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=99
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    assert sum(len(m) == DEPTH for m in model.modules() if isinstance(m, torch.nn.ModuleList)) == 2
    acts = capture(model, SEQUENCES, TOKENS, ["resid_pre"], [0])["resid_pre"]
    embedded = model.get_input_embeddings()(torch.tensor(SEQUENCES[0]))[AT[0]]
    assert_close(acts[0, 0], embedded)


def test_a_site_that_a_block_lacks_is_refused_with_those_it_has():
    block = find_blocks(build("mixtral"))[1]
    with pytest.raises(
        ValueError,
        match="expected one that MixtralDecoderLayer has: resid_pre, resid_post, attn_out, z, mlp_out; got mlp_post",
    ):
        find_place("mlp_post", block, WIDTH)
    with pytest.raises(ValueError, match="expected one that Linear has: resid_pre, resid_post; got z"):
        find_place("z", torch.nn.Linear(4, 4), 4)


def test_a_model_without_blocks_is_refused():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    gpt2.config.n_layer = 5
    with pytest.raises(ValueError, match="GPT2LMHeadModel: expected one list of 5 blocks in it, found 0"):
        find_blocks(gpt2)


SMALL = FAMILIES["llama"].settings
EXPERTS = SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def of(kind, **settings):
    """A small model of another family, its parameters drawn at random."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    for key, parameter in model.named_parameters():
        centre = 1.0 if parameter.ndim == 1 and key.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, centre, 0.15)
    return model.eval().requires_grad_(False)


def test_of_several_maps_to_the_width_of_the_stream_the_one_called_last_counts():
    """Lightning attention gates the heads by a map that stands behind the output projection in the list of parts."""
    model = of("minimax", **EXPERTS, head_dim=8, layer_types=["linear_attention"] * DEPTH, block_size=8)
    acts = capture(model, SEQUENCES, TOKENS, ["z", "attn_out"], range(DEPTH))
    for layer, block in enumerate(find_blocks(model)):
        attention = block.get_submodule("self_attn")
        assert list(dict(attention.named_children()))[-1] != "out_proj"
        assert_close(linear(attention.out_proj, acts["z"][:, layer]), acts["attn_out"][:, layer])


@pytest.mark.parametrize(
    ("kind", "settings", "there"),
    [
        ("granitemoeshared", EXPERTS | {"shared_intermediate_size": 40}, ["attn_out", "z"]),  # two feed-forward parts
        ("jetmoe", SMALL | {"kv_channels": 8, "num_local_experts": 4}, ["mlp_out"]),  # experts in the attention too
        ("mamba", {"hidden_size": 32, "num_hidden_layers": DEPTH, "vocab_size": 100}, []),  # no attention
    ],
)
def test_what_has_no_one_place_is_not_there(kind, settings, there):
    assert list(find_places(find_blocks(of(kind, **settings))[0], WIDTH)) == ["resid_pre", "resid_post", *there]


def test_lists_of_parts_are_no_blocks():
    model = of("xlm", emb_dim=32, n_layers=DEPTH, n_heads=4, n_words=100)
    with pytest.raises(ValueError, match=f"expected one list of {DEPTH} blocks in it, found "):
        find_blocks(model)


def test_what_puts_its_axes_in_another_order_is_refused():
    model = of("xlnet", d_model=32, n_layer=DEPTH, n_head=4, d_inner=56, vocab_size=100)
    with pytest.raises(ValueError, match=r"site: expected activations \[3, 8, D\], got \[8, 3, 32\]"):
        capture(model, SEQUENCES, TOKENS, ["resid_pre"], [0])


def test_a_part_that_the_forward_passes_over_is_named(monkeypatch):
    model = build("llama")
    monkeypatch.setattr(find_blocks(model)[1].get_submodule("mlp"), "forward", lambda x: x)
    with pytest.raises(ValueError, match="site: expected mlp_out of block 1 to be computed"):
        capture(model, SEQUENCES, TOKENS, ["z", "mlp_out"], range(DEPTH))


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
