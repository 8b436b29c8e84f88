"""Models from GGUF files: a hand-made one against the same weights as safetensors, and broken ones in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, TokenType, quants

from datamodules.language.gguf_header import list_gguf_tensors
from datamodules.language.language_model import LanguageModel


def write_gguf(path: Path, model, tokenizer, kind=GGMLQuantizationType.F32, architecture="llama", blocks=None):
    """Write a Llama with its tokenizer as llama.cpp does: heads interleaved for its rotary embedding."""
    config, state = model.config, model.state_dict()
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(blocks or config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    backend = tokenizer.backend_tokenizer
    tokens = [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))]
    merges = json.loads(backend.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    special = set(tokenizer.all_special_ids)
    writer.add_token_types([TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for key, tensor in state.items():
        name = key.replace("model.embed_tokens", "token_embd").replace("lm_head", "output")
        name = name.replace("model.norm", "output_norm").replace("model.layers", "blk")
        for one, other in names.items():
            name = name.replace(one, other)
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        for part, n in heads.items():
            if f".{part}." in name:
                tensor = tensor.view(n, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        data = tensor.float().contiguous().numpy()
        if data.ndim == 2 and kind != GGMLQuantizationType.F32:
            writer.add_tensor(name, quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def network(language_model):
    return language_model.load("cpu")


@pytest.fixture(scope="module")
def gguf(network, language_model, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", network, language_model.load_tokenizer())


def test_a_gguf_file_is_the_model_that_was_written(gguf, network, language_model):
    model = LanguageModel(gguf=str(gguf), dtype="float32")
    assert model.name == "tiny"
    loaded, tokenizer = model.load("cpu"), model.load_tokenizer()
    assert (model.load_config().num_hidden_layers, model.load_config().hidden_size) == (3, 32)
    torch.testing.assert_close(loaded.state_dict(), network.state_dict(), rtol=0, atol=0)
    text = "red ship's café 北京 1999?"
    assert tokenizer(text).input_ids == language_model.load_tokenizer()(text).input_ids
    assert tokenizer.eos_token_id == 2
    ids = torch.tensor([tokenizer(text).input_ids])
    torch.testing.assert_close(loaded(ids).logits, network(ids).logits, rtol=1e-5, atol=1e-5)


def test_packed_weights_are_unpacked(network, language_model, tmp_path):
    kind = GGMLQuantizationType.Q8_0
    file = write_gguf(tmp_path / "q8.gguf", network, language_model.load_tokenizer(), kind)
    loaded = LanguageModel(gguf=str(file)).load("cpu")
    weight = network.state_dict()["model.layers.1.mlp.down_proj.weight"]
    expected = torch.tensor(quants.dequantize(quants.quantize(weight.numpy(), kind), kind)).bfloat16()
    found = loaded.state_dict()["model.layers.1.mlp.down_proj.weight"]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    kinds = {type(m).__name__ for m in loaded.modules() if getattr(getattr(m, "weight", None), "ndim", 0) == 2}
    assert kinds == {"Linear", "Embedding"}


def test_the_content_of_the_file_is_the_identity_and_its_name_is_not(gguf, network, language_model, tmp_path):
    copy = tmp_path / "other.gguf"
    copy.write_bytes(gguf.read_bytes())
    assert LanguageModel(gguf=str(copy)).identify() == LanguageModel(gguf=str(gguf)).identify()
    content = bytearray(gguf.read_bytes())
    content[-5] ^= 1
    copy.write_bytes(content)
    assert LanguageModel(gguf=str(copy)).identify() != LanguageModel(gguf=str(gguf)).identify()


def load_all(model):
    return model.load_tokenizer(), model.load_config(), model.load("cpu")


def test_broken_gguf_files_are_refused_in_one_line(gguf, network, language_model, tmp_path):
    content, file = gguf.read_bytes(), tmp_path / "a.gguf"
    with pytest.raises(ValueError, match=r"^model.gguf=nosuch.gguf: expected a GGUF file, got .*: no such file"):
        LanguageModel(gguf="nosuch.gguf")
    file.write_bytes(b"PK\x03\x04 zip")
    with pytest.raises(ValueError, match=r"expected a GGUF file, got one that begins with b'PK"):
        LanguageModel(gguf=str(file))
    whole = (
        r"^model.gguf=.*: expected a whole GGUF file of an architecture that transformers reads, got none that loads "
    )
    for share in (0.001, 0.01, 0.1, 0.3, 0.6, 0.9, 0.999):
        file.write_bytes(content[: max(8, int(len(content) * share))])
        model = LanguageModel(gguf=str(file))
        with pytest.raises(ValueError, match=whole + r"\(.*\); fetch it again, or choose another file$") as told:
            load_all(model)
        assert "\n" not in str(told.value)


def test_an_architecture_that_transformers_cannot_read_is_named(network, language_model, tmp_path):
    file = write_gguf(tmp_path / "a.gguf", network, language_model.load_tokenizer(), architecture="nosucharch")
    model = LanguageModel(gguf=str(file))
    with pytest.raises(
        ValueError, match=r"^model.gguf=.*of an architecture that transformers reads.*nosucharch"
    ) as told:
        load_all(model)
    assert "\n" not in str(told.value)


def test_without_the_package_that_reads_gguf_files_its_extra_is_named(gguf, monkeypatch):
    monkeypatch.setattr("datamodules.language.gguf_header.is_gguf_available", lambda: False)
    with pytest.raises(ValueError, match=r"expected the package gguf, which reads such files, got none .*\[gguf\]"):
        LanguageModel(gguf=str(gguf))
    with pytest.raises(ValueError, match=r"expected gguf, which is unpacked, or quantisation, got both"):
        LanguageModel(gguf=str(gguf), quantisation={"load_in_4bit": True})


@pytest.fixture
def folder(language_model, tmp_path):
    """A model of its own, in a folder whose files may be changed."""
    copy = tmp_path / "model"
    shutil.copytree(language_model.id, copy)
    return copy


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_configuration_with_fewer_layers_than_the_weights_is_refused(folder):
    depth = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    change(folder / "config.json", num_hidden_layers=depth - 1)
    line = f"as many layers as the weights, got {depth - 1} layers beside model.layers.{depth - 1}\\."
    for head in (True, False):
        with pytest.raises(ValueError, match=line):
            LanguageModel(str(folder)).load("cpu", head=head)


def test_a_pickle_is_refused_before_it_is_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    line = "expected weights as safetensors, got pytorch_model.bin in .*, a pickle, which may hold code; convert it"
    with pytest.raises(ValueError, match=f"^model.id: {line}"):
        LanguageModel(str(folder))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[" * 100_000),
        ("config.json", "[]"),
        ("config.json", "{}"),
        ("config.json", '{"model_type": 3}'),
        ("generation_config.json", "[" * 100_000),
        ("generation_config.json", "[]"),
        ("generation_config.json", '{"eos_token_id": "two"}'),
        ("generation_config.json", '{"eos_token_id": [2, -5]}'),
        ("generation_config.json", '{"eos_token_id": {"a": 1}}'),
    ],
)
def test_nonsense_in_the_settings_of_a_model(file, content, folder):
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=r"^model.id=.*: expected ") as error:
        load_all(LanguageModel(str(folder)))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1_000


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("num_hidden_layers", 10_000_000, "got 10,000,000 layers beside 30 tensors"),
        ("hidden_size", 1_000_000_000, "expected "),
        ("vocab_size", 10**12, "numbers beside files that hold at most"),
        ("intermediate_size", 10**9, "numbers beside files that hold at most"),
        ("vocab_size", 10**30, "expected "),
    ],
)
def test_sizes_far_beyond_the_weights_are_refused_before_anything_of_that_size_is_made(key, value, line, folder):
    change(folder / "config.json", **{key: value})
    for build in (LanguageModel(str(folder)), LanguageModel(str(folder), random_weights=True)):
        with pytest.raises(ValueError, match=line) as refused:
            build.load("cpu")
        assert str(refused.value).startswith("model.id=")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("by", [-1, 1])
def test_a_gguf_file_with_other_blocks_than_its_settings_say_is_refused(by, network, language_model, tmp_path):
    path = write_gguf(tmp_path / "a.gguf", network, language_model.load_tokenizer(), blocks=3 + by)
    line = {-1: "got 2 there and tensors of 3", 1: "expected every weight, got none for 9, such as model.layers.3."}
    with pytest.raises(ValueError, match=f"^model.gguf=.*{line[by]}") as refused:
        LanguageModel(gguf=str(path)).load("cpu")
    assert "\n" not in str(refused.value)


def test_names_in_a_gguf_header_are_those_that_the_package_reads(gguf, tmp_path):
    names = list_gguf_tensors(gguf)
    assert names == [tensor.name for tensor in GGUFReader(gguf).tensors]
    assert len(names) == 3 * 9 + 3
    content = gguf.read_bytes()
    for n in range(4, 2_000, 37):
        (tmp_path / "cut.gguf").write_bytes(content[:n])
        with pytest.raises(ValueError, match=r"^a header that cannot be read \("):
            list_gguf_tensors(tmp_path / "cut.gguf")


def test_a_gguf_file_loads_without_bars(gguf, capfd):
    LanguageModel(gguf=str(gguf), dtype="float32").load("cpu")
    assert capfd.readouterr() == ("", "")
