import json
import shutil
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from datamodules.language.generation import generate_answers
from datamodules.language.language_model import DTYPES, LanguageModel
from tests.support.places import ROOT


def test_loads_ready_for_inference(language_model):
    network = language_model.load("cpu")
    assert network.dtype == torch.float32
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_the_dtypes_are_those_that_torch_has():
    """Of floats of 16 bits or more; named without torch, which takes seconds to import."""
    found = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    assert set(DTYPES) == {name for name, dtype in found.items() if dtype.is_floating_point and dtype.itemsize > 1}


def test_a_tokenizer_that_cannot_pad_is_no_obstacle(language_model):
    network, tokenizer = language_model.load("cpu"), language_model.load_tokenizer()
    prompts = language_model.encode(tokenizer, ("red?", "blue stone river key?"))
    expected = generate_answers(network, tokenizer, prompts, 8)
    tokenizer.pad_token = None
    assert generate_answers(network, tokenizer, prompts, 8) == expected
    tokenizer.eos_token = None
    assert generate_answers(network, tokenizer, prompts, 8) == expected


def test_a_device_map_places_the_weights(language_model):
    placed = replace(language_model, device_map={"": "cpu"}).load("cpu")
    expected = language_model.load("cpu")
    ids = torch.tensor([[1, 5, 9]])
    assert torch.equal(placed(ids).logits, expected(ids).logits)


def test_quantisation_is_part_of_what_activations_depend_on(language_model):
    four = replace(language_model, quantisation={"load_in_4bit": True})
    assert four.identify() != language_model.identify()


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="what quantisation needs is installed")
def test_what_quantisation_needs_is_named(language_model):
    with pytest.raises(
        ValueError, match=r"got .*bitsandbytes.*; pip install -c constraints.txt -e '.\[quantisation\]'$"
    ):
        replace(language_model, quantisation={"load_in_4bit": True}).load("cpu")


def test_identity_follows_the_weights_not_the_folder(language_model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(language_model.id, copy)
    same = LanguageModel(str(copy), dtype="float32")
    assert same.identify() == language_model.identify()
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert same.identify() != language_model.identify()


def test_a_folder_without_a_tokenizer_is_refused(language_model, tmp_path):
    copy = tmp_path / "bare"
    shutil.copytree(language_model.id, copy, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match=r"expected a tokenizer beside the weights.*tokenizer.save_pretrained"):
        LanguageModel(str(copy)).load_tokenizer()


def test_a_folder_without_weights_is_refused(language_model, tmp_path):
    copy = tmp_path / "empty"
    shutil.copytree(language_model.id, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ValueError, match="expected the weights of a causal language model"):
        LanguageModel(str(copy)).load("cpu")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"prompt": "Q: A:"}, r"model.prompt: expected a text with \{question\}"),
        ({"chat_prompt": "Now."}, r"model.chat_prompt: expected a text with \{question\} in it, got 'Now.'; add it"),
        ({"base_prompt": "A:"}, r"model.base_prompt: expected a text with \{question\} in it, got 'A:'; add it"),
        ({"base_prompt": 5}, "model.base_prompt: expected a text or null, got 5"),
        ({"dtype": "float12"}, "model.dtype: expected float32, bfloat16 or float16, got 'float12'"),
        ({"dtype": "nn"}, "model.dtype"),
        ({"dtype": "int8"}, "model.dtype: expected float32, bfloat16 or float16, got 'int8'"),
        ({"dtype": 32}, "model.dtype: expected float32, bfloat16 or float16, got 32"),
        (
            {"quantisation": "4bit"},
            r"model.quantisation: expected arguments such as \{load_in_4bit: true\}, got '4bit'",
        ),
        ({"chat": "yes"}, "model.chat: expected true, false or auto, got 'yes'"),
        ({"batch_size": 0}, "model.batch_size: expected a whole number above 0, got 0"),
        ({"batch_size": "auto"}, "model.batch_size: expected a whole number above 0, got 'auto'"),
        ({"answer_batch_size": 0}, "model.answer_batch_size: expected a whole number above 0 or auto, got 0"),
        ({"device": "gpu"}, "model.device: expected cpu, cuda, mps or null, got 'gpu'; choose one"),
        ({"device": "cpu", "quantisation": {"load_in_4bit": True}}, "model: expected device or quantisation, which"),
        ({"device": "cpu", "device_map": "auto"}, "model: expected device, or one of device_map and tp_plan, got both"),
        ({"max_new_tokens": "many"}, "model.max_new_tokens: expected a whole number above 0, got 'many'"),
        ({"thinking_tokens": -1}, "model.thinking_tokens: expected a whole number, 0 or above, got -1"),
        ({"thinking_tokens": True}, "model.thinking_tokens: expected a whole number, 0 or above, got True"),
        ({"device_map": "auto", "tp_plan": "auto"}, "expected device_map or tp_plan, got both; leave one null"),
        ({"stop": 5}, "model.stop: expected a text or null, got 5; quote it"),
        ({"prompt": 5}, "model.prompt: expected a text or null, got 5"),
        ({"revision": 5}, "model.revision: expected a text or null, got 5"),
        ({"template": "foo"}, "model.template: expected arguments such as .*, got 'foo'"),
        ({"template": {"tokenize": False}}, "model.template: expected arguments such as"),
        ({"template": {"truncation": True, "max_length": 3}}, "model.template: expected arguments such as"),
        ({"template": {"padding": True}}, "model.template: expected arguments such as"),
        ({"dtype": "float8_e4m3fn"}, "model.dtype: expected float32, bfloat16 or float16, got 'float8_e4m3fn'"),
        ({"id": None, "gguf": 1}, "model.gguf: expected a text or null, got 1; quote it"),
        (
            {"id": None, "gguf": ""},
            "model.id: expected a folder, a hub id such as org/name, or model.gguf=FILE, got None",
        ),
        ({"id": "~nobody-here/model"}, "model.id: expected a path, got ~nobody-here/model: this machine has no such"),
        ({"gguf": "~nobody-here/a.gguf"}, "model.gguf: expected a path, got ~nobody-here/a.gguf: this machine has no"),
        ({"gguf": "tests"}, "model.gguf=tests: expected a GGUF file, got tests: a folder; name the file in it"),
        ({"gguf": "/dev/null"}, "expected a GGUF file, got /dev/null: no such file"),
        ({"trust_remote_code": "maybe"}, "model.trust_remote_code: expected true or false, got 'maybe'"),
    ],
)
def test_settings_are_checked(settings, text, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=text):
        LanguageModel(**{"id": "some/model"} | settings)


def test_weights_cut_short_are_told(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="expected the weights of a causal language model, got none that load") as told:
        LanguageModel(str(folder), dtype="float32").load("cpu")
    assert "\n" not in str(told.value)


@pytest.fixture
def altered(tiny_model, tmp_path):
    """A copy of the model's folder with some of its settings changed."""

    def alter(file, **changes):
        folder = shutil.copytree(tiny_model, tmp_path / "altered")
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
        return LanguageModel(str(folder), dtype="float32")

    return alter


def test_weights_that_are_missing_are_not_drawn_at_random(altered):
    model = altered("config.json", num_hidden_layers=4)
    with pytest.raises(ValueError, match=r"expected every weight, got none for 9, such as model.layers.3.input_layern"):
        model.load("cpu")


def test_weights_of_another_shape_are_told(altered):
    with pytest.raises(ValueError, match="expected the weights of a causal language model, got none that load") as told:
        altered("config.json", intermediate_size=80).load("cpu")
    assert "\n" not in str(told.value)


def test_greedy_answers_are_greedy_whatever_the_model_comes_with(altered, language_model):
    tokenizer = language_model.load_tokenizer()
    prompts = language_model.encode(tokenizer, ("red?", "blue stone river key?"))
    expected = generate_answers(language_model.load("cpu"), tokenizer, prompts, 8)
    ends = language_model.load("cpu").generation_config.eos_token_id
    assert ends == 2
    network = altered(
        "generation_config.json", num_beams=3, repetition_penalty=1.5, return_dict_in_generate=True, min_length=40
    ).load("cpu")
    assert network.generation_config.eos_token_id == ends  # type: ignore[union-attr]
    assert generate_answers(network, tokenizer, prompts, 8) == expected


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"model.id: expected a folder with config.json, weights and tokenizer, got"):
        LanguageModel(str(tmp_path))
    with pytest.raises(
        ValueError, match=r"model.id: expected a folder, a hub id such as org/name, or model.gguf=FILE, got ''"
    ):
        LanguageModel("")


def test_padding_has_an_embedding(language_model):
    """A padding token behind the embeddings is never looked up."""
    tokenizer, network = language_model.load_tokenizer(), language_model.load("cpu")
    prompts = language_model.encode(tokenizer, ("red?", "blue stone river key?"))
    expected = generate_answers(network, tokenizer, prompts, 8)
    tokenizer.add_special_tokens({"pad_token": "<late>"})
    assert tokenizer.pad_token_id >= network.get_input_embeddings().weight.shape[0]
    assert generate_answers(network, tokenizer, prompts, 8) == expected


def test_a_model_in_parts_needs_torchrun(tiny_model, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(
        ValueError, match=r"model.tp_plan: expected torchrun, which starts the processes, got one started"
    ):
        LanguageModel(str(tiny_model), dtype="float32", tp_plan="auto").load("cpu")


def test_a_missing_folder_is_not_taken_for_a_hub_id():
    with pytest.raises(ValueError, match=r"got '/no/such/folder': no such folder"):
        LanguageModel("/no/such/folder")
