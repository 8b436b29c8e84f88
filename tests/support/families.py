"""Small models of many families, from the configuration classes of transformers, in which no term can hide."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

WIDTH, DEPTH, VOCABULARY = 32, 3, 100

_LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": 56,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_PLAIN = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
_GPT2 = {
    "n_embd": WIDTH,
    "n_layer": DEPTH,
    "n_head": 4,
    "n_positions": 128,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FALCON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OPT = {
    "hidden_size": WIDTH,
    "word_embed_proj_dim": WIDTH,
    "ffn_dim": 56,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Family:
    """How to build one, and by name what a block of it is made of: known here, found by structure there."""

    kind: str  # model_type of the configuration
    settings: dict[str, Any]
    output: str  # the attention's output projection
    down: str | None  # the down projection; None for a mixture of experts
    normed: tuple[str, str] | None = None  # norms of what attention and what follows add, before they are added
    final_norm: str = "norm"


FAMILIES = {
    "llama": Family("llama", _LLAMA, "self_attn.o_proj", "mlp.down_proj"),
    "llama with biases": Family(
        "llama", _LLAMA | {"attention_bias": True, "mlp_bias": True}, "self_attn.o_proj", "mlp.down_proj"
    ),
    "mistral": Family("mistral", _LLAMA | {"sliding_window": 6}, "self_attn.o_proj", "mlp.down_proj"),
    "qwen2": Family("qwen2", _LLAMA, "self_attn.o_proj", "mlp.down_proj"),
    "qwen3": Family("qwen3", _LLAMA | {"head_dim": 12}, "self_attn.o_proj", "mlp.down_proj"),
    "gemma2": Family(
        "gemma2",
        _LLAMA | {"head_dim": 12, "sliding_window": 6},
        "self_attn.o_proj",
        "mlp.down_proj",
        ("post_attention_layernorm", "post_feedforward_layernorm"),
    ),
    "gemma3": Family(
        "gemma3_text",
        _LLAMA | {"head_dim": 12, "sliding_window": 6},
        "self_attn.o_proj",
        "mlp.down_proj",
        ("post_attention_layernorm", "post_feedforward_layernorm"),
    ),
    "phi3": Family("phi3", _LLAMA, "self_attn.o_proj", "mlp.down_proj"),
    "olmo2": Family(
        "olmo2",
        _LLAMA,
        "self_attn.o_proj",
        "mlp.down_proj",
        ("post_attention_layernorm", "post_feedforward_layernorm"),
    ),
    "gpt2": Family("gpt2", _GPT2, "attn.c_proj", "mlp.c_proj", final_norm="ln_f"),
    "gpt_neox": Family("gpt_neox", _PLAIN, "attention.dense", "mlp.dense_4h_to_h", final_norm="final_layer_norm"),
    "gpt_neox, one after the other": Family(
        "gpt_neox",
        _PLAIN | {"use_parallel_residual": False},
        "attention.dense",
        "mlp.dense_4h_to_h",
        final_norm="final_layer_norm",
    ),
    "opt": Family("opt", _OPT, "self_attn.out_proj", "fc2", final_norm="decoder.final_layer_norm"),
    "falcon": Family("falcon", _FALCON, "self_attention.dense", "mlp.dense_4h_to_h", final_norm="ln_f"),
    "falcon, two norms": Family(
        "falcon",
        _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        "self_attention.dense",
        "mlp.dense_4h_to_h",
        final_norm="ln_f",
    ),
    "mixtral": Family("mixtral", _LLAMA | {"num_local_experts": 4}, "self_attn.o_proj", None),
    "bert": Family("bert", _PLAIN, "attention.output.dense", "output.dense"),
}


def build(name: str, **settings: Any) -> PreTrainedModel:
    """Build a family's small model in float32; every weight, bias and norm is drawn, none is one or zero."""
    family = FAMILIES[name]
    config = AutoConfig.for_model(family.kind, **family.settings | settings)
    torch.manual_seed(0)
    model = (AutoModel if family.kind == "bert" else AutoModelForCausalLM).from_config(config)
    for key, parameter in model.named_parameters():
        spread = 0.15
        centre = 1.0 if parameter.ndim == 1 and key.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, centre, spread)
    return model.eval().requires_grad_(False)
