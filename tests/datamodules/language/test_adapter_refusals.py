"""Adapters that do not fit, or cannot be merged, are refused in one line."""

import logging
import re
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GgufConfig

from datamodules.language.adapter import apply_adapter
from tests.support.adapters import change, difference, lora, train
from tests.support.families import FAMILIES, Family, build

BASES = [
    ("wide", "size mismatch"),
    ("deep", r"4 of its weights are missing, such as base_model\S+layers\.3"),
    ("gpt2", "not found in the base model"),
    ("bert", "not found in the base model"),
]


@pytest.fixture(autouse=True)
def _other_llamas(monkeypatch):
    llama = FAMILIES["llama"].settings
    monkeypatch.setitem(FAMILIES, "wide", Family("llama", llama | {"hidden_size": 64}, "", ""))
    monkeypatch.setitem(FAMILIES, "deep", Family("llama", llama | {"num_hidden_layers": 4}, "", ""))


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


def test_memory_that_runs_out_in_a_merge_is_no_matter_of_the_adapter(adapter, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(peft.tuners.lora.LoraModel, "merge_and_unload", fail)
    with pytest.raises(torch.OutOfMemoryError):
        apply_adapter(build("llama"), adapter, "llama")


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
