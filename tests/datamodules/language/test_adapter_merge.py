"""An adapter merged into the weights computes what it computes beside them."""

from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from datamodules.language.adapter import WITHOUT_ADAPTER, apply_adapter
from tests.support.adapters import IDS, difference, lora, parts, peft_warns, train
from tests.support.families import FAMILIES, Family, build


@pytest.fixture(autouse=True)
def _tied(monkeypatch):
    llama = FAMILIES["llama"].settings
    monkeypatch.setitem(FAMILIES, "tied", Family("llama", llama | {"tie_word_embeddings": True}, "", ""))


def test_a_merged_weight_is_the_sum_by_hand(adapter):
    base, merged = build("llama"), apply_adapter(build("llama"), adapter, "llama")
    weights = load_file(adapter / "adapter_model.safetensors")
    for name, weight in merged.named_parameters():
        expected, module = base.get_parameter(name), "base_model.model." + name.removesuffix(".weight")
        if "q_proj" in name or "v_proj" in name:
            product = weights[f"{module}.lora_B.weight"] @ weights[f"{module}.lora_A.weight"]
            expected = expected + 12 / 4 * product
            assert (product.abs() > 0.01).any()
        torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-6)
    assert type(merged) is type(base)
    assert parts(merged) == parts(base)
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_a_merged_weight_is_rounded_once(adapter):
    merged = apply_adapter(build("llama").bfloat16(), adapter, "llama")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    weights = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.1.self_attn.v_proj"
    product = weights[f"base_model.model.{name}.lora_B.weight"] @ weights[f"base_model.model.{name}.lora_A.weight"]
    exact = build("llama").get_parameter(f"{name}.weight").bfloat16().float() + 12 / 4 * product
    assert torch.equal(merged.get_parameter(f"{name}.weight"), exact.bfloat16())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bert"])
def test_logits_of_every_family_are_those_of_the_adapter_beside_the_weights(family, tmp_path):
    adapted = train(build(family), lora(target_modules="all-linear"), tmp_path)
    merged = apply_adapter(build(family), tmp_path, family)
    assert difference(adapted, merged) < 1e-4
    assert difference(build(family), merged) > 0.5
    assert parts(merged) == parts(build(family))


KINDS = {
    "AdaLoRA": lambda: peft.AdaLoraConfig(r=4, total_step=10, init_r=4, target_modules=["q_proj", "down_proj"]),
    "LoHa": lambda: peft.LoHaConfig(r=4, target_modules=["q_proj", "down_proj"]),
    "LoKr": lambda: peft.LoKrConfig(r=4, target_modules=["q_proj", "down_proj"]),
    "IA3": lambda: peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "OFT": lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj", "down_proj"]),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj", "down_proj"]),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=["q_proj"], save_projection=False),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "tokens": lambda: peft.TrainableTokensConfig(token_indices=[4, 5], target_modules=["embed_tokens"]),
    "DoRA": lambda: lora(use_dora=True),
    "PiSSA": lambda: lora(init_lora_weights="pissa"),
    "rank-stabilised, ranks by layer": lambda: lora(
        use_rslora=True,
        rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"layers.0.self_attn.q_proj": 3},
    ),
    "one layer": lambda: lora(layers_to_transform=[1]),
    "head saved": lambda: lora(modules_to_save=["lm_head"]),
    "embeddings and head saved": lambda: lora(modules_to_save=["embed_tokens", "lm_head"]),
    "embeddings": lambda: lora(target_modules=["q_proj", "embed_tokens"]),
    "head": lambda: lora(target_modules=["lm_head"]),
    "embeddings and head, tied": lambda: lora(
        target_modules=["q_proj", "embed_tokens", "lm_head"], ensure_weight_tying=True
    ),
    "some tokens": lambda: lora(trainable_token_indices=[5, 6]),
}


@pytest.mark.parametrize("family", ["llama", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_every_kind_are_those_of_the_adapter_beside_the_weights(kind, family, tmp_path):
    with peft_warns():
        train(build(family), KINDS[kind](), tmp_path)
        adapted = peft.PeftModel.from_pretrained(build(family), tmp_path).eval()
    merged = apply_adapter(build(family), tmp_path, family)
    assert difference(adapted, merged) < 1e-4
    assert difference(build(family), merged) > 1e-3


def test_the_adapter_of_fused_experts_is_merged(tmp_path):
    experts = lora(target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    adapted = train(build("mixtral"), experts, tmp_path)
    assert difference(adapted, apply_adapter(build("mixtral"), tmp_path, "mixtral")) < 1e-4


@pytest.mark.parametrize("trained_with_head", [True, False])
@pytest.mark.parametrize("loaded_with_head", [True, False])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"], r".*layers\.[01]\.self_attn\.q_proj"])
def test_a_head_may_be_there_or_not(targets, trained_with_head, loaded_with_head, tmp_path):
    if not trained_with_head and "lm_head" in targets:
        targets = ["q_proj"]
    adapted = train(
        build("llama") if trained_with_head else build("llama").base_model, lora(target_modules=targets), tmp_path
    )
    inner = adapted.base_model.model.model if trained_with_head else adapted.base_model.model
    model: Any = build("llama") if loaded_with_head else build("llama").base_model
    merged = apply_adapter(model, tmp_path, "llama")
    assert merged is model
    with torch.no_grad():
        expected = inner(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(merged.base_model(input_ids=IDS).last_hidden_state, expected, rtol=0, atol=1e-4)
        plain = build("llama").base_model(input_ids=IDS).last_hidden_state
    assert (plain - expected).abs().max() > 0.1


def test_merging_draws_no_random_numbers_and_changes_no_file(both):
    before, model = {path: path.read_bytes() for path in both.iterdir()}, None
    model = AutoModelForCausalLM.from_pretrained(both, **WITHOUT_ADAPTER)
    state = torch.get_rng_state()
    apply_adapter(model, both, "both")
    assert torch.equal(torch.get_rng_state(), state)
    assert {path: path.read_bytes() for path in both.iterdir()} == before


def test_spread_weights_are_merged(both):
    spread = AutoModelForCausalLM.from_pretrained(both, device_map="cpu", **WITHOUT_ADAPTER)
    whole = AutoModelForCausalLM.from_pretrained(both, **WITHOUT_ADAPTER)
    assert difference(apply_adapter(spread, both, "both"), apply_adapter(whole, both, "both")) == 0
