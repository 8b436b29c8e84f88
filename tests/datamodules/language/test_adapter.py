import json
import logging
import re
import shutil
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
import transformers.integrations.peft
import transformers.models.auto.auto_factory
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from datamodules.language.adapter import (
    WITHOUT_ADAPTER,
    apply_adapter,
    find_adapter,
    list_adapter_files,
    require_full_model,
    require_mergeable,
)
from datamodules.language.language_model import LanguageModel
from tests.support.families import FAMILIES, Family, build
from tests.support.hub_cache import publish

IDS = torch.arange(3, 21).reshape(2, 9)
LLAMA = FAMILIES["llama"].settings


@pytest.fixture(autouse=True)
def _more_families(monkeypatch):
    monkeypatch.setitem(FAMILIES, "tied", Family("llama", LLAMA | {"tie_word_embeddings": True}, "", ""))
    monkeypatch.setitem(FAMILIES, "wide", Family("llama", LLAMA | {"hidden_size": 64}, "", ""))
    monkeypatch.setitem(FAMILIES, "deep", Family("llama", LLAMA | {"num_hidden_layers": 4}, "", ""))


def lora(**settings):
    return peft.LoraConfig(r=4, **{"lora_alpha": 12, "target_modules": ["q_proj", "v_proj"], **settings})


@contextmanager
def peft_warns():
    """Training warns of much; merging may not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def train(model, config, folder):
    """Save an adapter in which every trained weight is drawn; gives the adapted model, its weights unmerged."""
    with peft_warns():
        adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    with peft_warns():
        adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.fixture
def adapter(tmp_path):
    """Folder of a LoRA of the Llama family."""
    train(build("llama"), lora(), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def both(adapter, tmp_path):
    """Folder with full weights and an adapter beside them."""
    build("llama").save_pretrained(tmp_path / "both")
    for path in list_adapter_files(adapter):
        shutil.copy(path, tmp_path / "both")
    return tmp_path / "both"


def settings_of(adapter):
    return json.loads((adapter / "adapter_config.json").read_text())


def change(adapter, **settings):
    (adapter / "adapter_config.json").write_text(json.dumps(settings_of(adapter) | settings))


def parts(model: torch.nn.Module):
    return [(name, type(module)) for name, module in model.named_modules()]


def difference(adapted, model):
    with torch.no_grad():
        return (adapted(input_ids=IDS).logits - model(input_ids=IDS).logits).abs().max().item()


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


# Refused, each in one line

BASES = [
    ("wide", "size mismatch"),
    ("deep", r"4 of its weights are missing, such as base_model\S+layers\.3"),
    ("gpt2", "not found in the base model"),
    ("bert", "not found in the base model"),
]


def refusal(model, adapter):
    with pytest.raises(ValueError, match=r"^model\.adapter: expected ") as told:
        apply_adapter(model, adapter, "asked/model")
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(("family", "reason"), BASES)
def test_the_adapter_of_another_model_is_refused(family, reason, adapter):
    change(adapter, base_model_name_or_path="org/Trained-On")
    told = refusal(build(family), adapter)
    assert re.search(rf"an adapter of asked/model, got \S+ \(.*{reason}.*\); set model\.id to .* org/Trained-On$", told)


def test_weights_of_layers_that_the_model_lacks_are_refused(tmp_path):
    train(build("deep"), lora(), tmp_path)
    assert "4 of its weights have no place in the model, such as base_model" in refusal(build("llama"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"target_modules": ["q_proj"]}, "6 of its weights have no place"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "6 of its weights are missing"),
        ({"target_modules": ["q_proj", "v_proj", "nowhere"], "r": 8}, "size mismatch"),
        ({"modules_to_save": ["lm_head"]}, "no base_model.model.lm_head"),
        ({"r": "many"}, "'str' and 'int'"),
        ({"peft_type": "PROMPT_TUNING"}, "merges into weights, such as LORA, got PROMPT_TUNING"),
        ({"peft_type": None}, "merges into weights, such as LORA, got None"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "the model's own layers, got one with layer_replication"),
        ({"alora_invocation_tokens": [5]}, "expected an adapter that merges into weights, got .*aLoRA"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(settings, reason, adapter):
    change(adapter, **settings)
    assert re.search(reason, refusal(build("llama"), adapter))


def test_prompt_tuning_is_refused(tmp_path):
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    train(build("llama"), config, tmp_path)
    assert "got PROMPT_TUNING in" in refusal(build("llama"), tmp_path)


def without_one(path):
    weights = load_file(path)
    weights.pop(min(weights))
    save_file(weights, path)


def not_finite(path):
    weights = load_file(path)
    weights[min(weights)][0, 0] = float("nan")
    save_file(weights, path)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "whose files load, .* not fully covered"),
        (lambda path: path.write_bytes(b"nothing"), "whose files load, .* header"),
        (lambda path: path.write_bytes(b""), "whose files load, .* header"),
        (
            lambda path: path.unlink(),
            r"expected weights adapter_model\.safetensors or adapter_model\.bin in .* neither",
        ),
        (without_one, "1 of its weights are missing, such as .*layers.0.self_attn.q_proj.lora_A"),
        (not_finite, "1 of its weights are not finite, such as .*layers.0.self_attn.q_proj.lora_A"),
        (lambda path: path.with_name("adapter_config.json").write_text("{"), "expected a JSON object in .*config.json"),
        (lambda path: path.with_name("adapter_config.json").write_text("[]"), "got list instead of an object"),
        (lambda path: path.with_name("adapter_config.json").write_bytes(b"\xff"), "expected a JSON object"),
        (lambda path: path.with_name("adapter_config.json").unlink(), "expected a JSON object"),
    ],
)
def test_altered_files_are_refused(alter, reason, adapter):
    alter(adapter / "adapter_model.safetensors")
    assert re.search(reason, refusal(build("llama"), adapter))


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('run')",))


@pytest.mark.parametrize("content", [{"weight": Evil()}, [1], {"weight": 1}])
def test_an_older_file_is_read_without_running_code(content, adapter):
    weights = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(weights, adapter / "adapter_model.bin")
    merged = apply_adapter(build("llama"), adapter, "llama")
    assert difference(build("llama"), merged) > 0.1
    torch.save(content, adapter / "adapter_model.bin")
    assert "expected an adapter whose files load" in refusal(build("llama"), adapter)


def test_weights_that_cannot_be_added_to_are_refused(adapter):
    models: list[Any] = [build("llama") for _ in range(3)]
    quantised, split, elsewhere = models
    quantised.hf_quantizer = SimpleNamespace(quantization_config=GgufConfig(dequantize=True))
    quantised.is_quantized = True
    apply_adapter(quantised, adapter, "llama")  # weights that transformers has unpacked are as good as any
    quantised.hf_quantizer = SimpleNamespace(quantization_config=GgufConfig())
    assert "not quantised" in refusal(quantised, adapter)
    assert "merge the adapter into the full weights first" in refusal(quantised, adapter)
    split._tp_size = 2
    assert "split by model.tp_plan" in refusal(split, adapter)
    assert "left on disk by model.device_map" in refusal(elsewhere.to("meta"), adapter)


def test_another_name_of_the_base_model_is_said(adapter, caplog):
    for base, name, said in [
        ("org/Model-7B", "/models/model-7b/", False),
        ("C:\\models\\Model-7B", "other/Model-7B", False),
        ("org/Model-7B", "org/Model-7B-Instruct", True),
        (None, "org/Model-7B", False),
    ]:
        change(adapter, base_model_name_or_path=base)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "datamodules.language.adapter"):
            apply_adapter(build("llama"), adapter, name)
        lines = [record.getMessage() for record in caplog.records if record.name == "datamodules.language.adapter"]
        assert lines == [f"model.adapter: {adapter} was trained on {base}, and is merged into {name}"] * said


# Found, and kept from transformers


def test_find_adapter(adapter, both, tmp_path, monkeypatch):
    (tmp_path / "plain").mkdir()
    assert find_adapter(None, both) is None
    assert find_adapter("auto", both) == both
    assert find_adapter("auto", tmp_path / "plain") is None
    assert find_adapter(str(adapter), both) == adapter
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_adapter("~/adapter", both) == adapter
    for wrong in (str(tmp_path / "plain"), str(tmp_path / "none"), "org/name", str(adapter / "adapter_config.json")):
        with pytest.raises(ValueError, match=r"^model\.adapter: expected a folder with adapter_config\.json, got .*$"):
            find_adapter(wrong, both)
    for wrong in (True, "", 3):
        with pytest.raises(ValueError, match=r"^model\.adapter: expected null, auto or the folder"):
            find_adapter(wrong, both)  # type: ignore[arg-type]


def test_an_adapter_is_no_model(adapter, both, tmp_path):
    change(adapter, base_model_name_or_path="org/Base")
    with pytest.raises(ValueError, match=r"^model\.id: expected config\.json, weights and tokenizer in ") as told:
        require_full_model(adapter)
    assert str(told.value).endswith(f"got an adapter of org/Base; set model.id=org/Base model.adapter={adapter}")
    change(adapter, base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"an adapter of its base model; set model\.id=BASE model\.adapter="):
        require_full_model(adapter)
    require_full_model(both)
    require_full_model(tmp_path)


def test_an_adapter_of_the_hub_is_fetched_and_merged_and_is_no_model(adapter, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    base = LanguageModel(str(tiny_model), dtype="float32")
    train(base.load("cpu"), lora(base_model_name_or_path="org/base"), tmp_path / "lora")
    publish(tmp_path / "hub", "model", "org/lora", tmp_path / "lora")
    here, there = (replace(base, adapter=name) for name in (str(tmp_path / "lora"), "org/lora"))
    there.fetch()
    assert there.identify() == here.identify() != base.identify()
    with torch.no_grad():
        ours, theirs = (model.load("cpu")(input_ids=IDS).logits for model in (there, here))
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, base.load("cpu")(input_ids=IDS).logits)
    model = LanguageModel("org/lora")
    model.fetch()
    with pytest.raises(
        ValueError, match=r"in org/lora, got an adapter of .*; set model\.id=\S+ model\.adapter=org/lora$"
    ):
        model.load_tokenizer()


@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoModel])
@pytest.mark.parametrize("installed", [True, False])
def test_the_base_weights_are_loaded_with_and_without_peft(auto, installed, both, monkeypatch):
    if not installed:
        monkeypatch.setitem(sys.modules, "peft", None)
        for module in (transformers.integrations.peft, transformers.models.auto.auto_factory):
            monkeypatch.setattr(module, "is_peft_available", lambda: False)
    model, told = auto.from_pretrained(both, output_loading_info=True, **WITHOUT_ADAPTER)
    plain = build("llama") if auto is AutoModelForCausalLM else build("llama").base_model
    assert not told["missing_keys"]
    assert parts(model) == parts(plain)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))
    assert AutoConfig.from_pretrained(both).model_type == "llama"
    if installed:  # what is kept from happening
        assert any("lora" in name for name, _ in auto.from_pretrained(both).named_modules())


def test_a_tokenizer_is_that_of_the_folder(both, tiny_model):
    for path in tiny_model.glob("token*"):
        shutil.copy(path, both)
    change(both, base_model_name_or_path="/nowhere")
    assert len(AutoTokenizer.from_pretrained(both)) == len(AutoTokenizer.from_pretrained(tiny_model))


def test_peft_is_asked_for(adapter, monkeypatch):
    require_mergeable(adapter)
    monkeypatch.setitem(sys.modules, "peft", None)
    wanted = r'^model\.adapter: expected peft.*; pip install -c constraints\.txt -e "\.\[adapter\]", or .*$'
    with pytest.raises(ValueError, match=wanted):
        require_mergeable(adapter)
    with pytest.raises(ValueError, match=wanted):
        apply_adapter(build("llama"), adapter, "llama")
