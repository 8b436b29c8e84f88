import shutil

import pytest
import torch

from datamodules.language_model import LanguageModel


def test_loads_ready_for_inference(language_model):
    network = language_model.load("cpu")
    assert network.dtype == torch.float32
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_the_prompt_is_encoded_with_its_bos_once(language_model):
    tokenizer = language_model.load_tokenizer()
    model = LanguageModel(language_model.id, prompt="<s>Q: {question}\nA:")
    ids = model.encode(tokenizer, "{question} red?")
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == "Q: {question} red?\nA:"


def test_chat_wraps_the_prompt_with_the_generation_prompt(language_model):
    tokenizer = language_model.load_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} bot:{% endif %}"
    )
    ids = LanguageModel(language_model.id, prompt="Say: {question}", chat=True).encode(tokenizer, "red?")
    assert tokenizer.decode(ids) == "<s>user: Say: red? bot:"


def test_identity_follows_the_weights_not_the_folder(language_model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(language_model.id, copy)
    same = LanguageModel(str(copy), dtype="float32")
    assert same.identity() == language_model.identity()
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert same.identity() != language_model.identity()


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
        ({"dtype": "float12"}, "model.dtype: expected float32, bfloat16 or float16, got 'float12'"),
        ({"dtype": "nn"}, "model.dtype"),
    ],
)
def test_settings_are_checked(settings, text):
    with pytest.raises(ValueError, match=text):
        LanguageModel("some/model", **settings)


def test_a_missing_folder_is_not_taken_for_a_hub_id():
    with pytest.raises(ValueError, match=r"got '/no/such/folder': no such folder"):
        LanguageModel("/no/such/folder")


def test_a_name_that_no_hub_has_is_told_in_one_line(monkeypatch):
    def nowhere(*_, **__):
        raise OSError("no such repository\nand much more")

    monkeypatch.setattr("datamodules.language_model.snapshot_download", nowhere)
    with pytest.raises(
        ValueError, match=r"^model.id: expected a folder or a hub id such as org/name, got 'nosuch' \(no such rep"
    ) as error:
        LanguageModel("nosuch").fetch()
    assert "\n" not in str(error.value)
