"""An adapter is found, told from a full model, and kept from transformers."""

import shutil
import sys
from dataclasses import replace

import pytest
import torch
import transformers.integrations.peft
import transformers.models.auto.auto_factory
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from datamodules.language.adapter import (
    WITHOUT_ADAPTER,
    apply_adapter,
    find_adapter,
    require_full_model,
    require_mergeable,
)
from datamodules.language.language_model import LanguageModel
from tests.support.adapters import IDS, change, lora, parts, train
from tests.support.families import build
from tests.support.hub_cache import publish


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
