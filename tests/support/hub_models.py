"""Small models with the ids of the hub: each family's configuration, layout of files, kind of tokenizer and template.

Weights are drawn at random. What a model says is not, where a test scripts it; see tests/support/hub_questions.py.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer, decoders, models, normalizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from tests.support.families import FAMILIES

DEPTH, CONTEXT = 2, 16384
BASE = {"bos": "<s>", "eos": "</s>"}

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
_HEADERS = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + "
    "'<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' "
    "}}{% endif %}"
)
LLAMA3 = "{{ bos_token }}" + _HEADERS
LLAMA31 = (
    "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = "
    "strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n<|eot_id|>" + _HEADERS
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
)
SMOLLM2 = "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}" + CHATML + "{% endif %}"
QWEN3 = CHATML + (
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'].replace('assistant', 'model') + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}{% for part in m['content'] %}"
    "{{ part['text'] | trim }}{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
OLMO2 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Published:
    """What the repositories of a family have in common.

    Attributes:
        family: in tests/support/families.py.
        tokenizer: class that `tokenizer_config.json` names.
        special: bos, eos and pad tokens, as far as the family has them.
        template: of chats; None: base models.
        turns: tokens of the template.
        plain: tokens of the template that are no special tokens.
        ends: tokens that end an answer, for `generation_config.json`, where these are more than eos.
        pieces: the tokenizer writes blanks as pieces of words (SentencePiece), not as bytes.
        inline: the template stands in `tokenizer_config.json`, as in older repositories.
        shards: the weights lie in several files.
    """

    family: str
    tokenizer: str
    special: dict[str, str]
    template: str | None = None
    turns: Sequence[str] = ()
    plain: Sequence[str] = ()
    ends: Sequence[str] = ()
    pieces: bool = False
    inline: bool = False
    shards: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


_LLAMA3 = {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"}
_HEADER_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_LLAMA3_CHAT = Published(
    "llama", "PreTrainedTokenizerFast", {**_LLAMA3, "eos": "<|eot_id|>"}, LLAMA3, _HEADER_TOKENS, inline=True
)
_IM = ("<|im_start|>", "<|im_end|>")

# By the beginning of the id; the first that fits counts.
PUBLISHED = {
    "mistralai/Mistral-7B-Instruct-": Published("mistral", "LlamaTokenizer", BASE, MISTRAL, pieces=True, inline=True),
    "mistralai/Mistral-7B-": Published("mistral", "LlamaTokenizer", BASE, pieces=True),
    "meta-llama/Llama-3.": Published(
        "llama",
        "PreTrainedTokenizerFast",
        {**_LLAMA3, "eos": "<|eot_id|>"},
        LLAMA31,
        (*_HEADER_TOKENS, "<|eom_id|>", "<|end_of_text|>"),
        ends=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        inline=True,
        shards=True,
    ),
    "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA3_CHAT,
    "meta-llama/Meta-Llama-3-8B": Published("llama", "PreTrainedTokenizerFast", _LLAMA3),
    "Qwen/Qwen3-": Published(
        "qwen3",
        "Qwen2Tokenizer",
        {"eos": "<|im_end|>", "pad": "<|endoftext|>"},
        QWEN3,
        _IM,
        plain=("<think>", "</think>"),
        ends=("<|im_end|>", "<|endoftext|>"),
        inline=True,
        shards=True,
    ),
    "google/gemma-3-": Published(
        "gemma3",
        "GemmaTokenizer",
        {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>"},
        GEMMA3,
        ("<start_of_turn>", "<end_of_turn>"),
        ends=("<eos>", "<end_of_turn>"),
        pieces=True,
    ),
    "microsoft/phi-4": Published(
        "phi3",
        "GPT2Tokenizer",
        {"bos": "<|endoftext|>", "eos": "<|im_end|>", "pad": "<|dummy_85|>"},
        PHI4,
        (*_IM, "<|im_sep|>"),
        inline=True,
    ),
    "allenai/OLMo-2-": Published(
        "olmo2",
        "GPT2Tokenizer",
        {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|pad|>"},
        OLMO2,
    ),
    "EleutherAI/pythia-": Published("gpt_neox", "GPTNeoXTokenizer", {"bos": "<|endoftext|>", "eos": "<|endoftext|>"}),
    "openai-community/gpt2": Published("gpt2", "GPT2Tokenizer", {"bos": "<|endoftext|>", "eos": "<|endoftext|>"}),
    "HuggingFaceTB/SmolLM2-": Published(
        "llama",
        "GPT2Tokenizer",
        {"bos": "<|im_start|>", "eos": "<|im_end|>", "pad": "<|im_end|>"},
        SMOLLM2,
        _IM,
        settings={"tie_word_embeddings": True},
    ),
}


def small_model(id_: str, texts: Sequence[str]) -> Callable[[Path], None]:
    """How to write the small model that stands for a hub id; `texts` train its tokenizer.

    Raises:
        KeyError: no small model stands for this id.
    """
    found = next((one for begins, one in PUBLISHED.items() if id_.startswith(begins)), None)
    if found is None:
        raise KeyError(f"no small model stands for {id_}: add its family to PUBLISHED in tests/support/hub_models.py")
    return lambda folder: _write(folder, found, texts)


def _write(folder: Path, published: Published, texts: Sequence[str]) -> None:
    tokenizer = _tokenizer(published, texts)
    tokenizer.save_pretrained(folder, save_jinja_files=not published.inline)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": published.tokenizer}))
    torch.manual_seed(0)
    model = _network(published, tokenizer)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in published.ends] or tokenizer.eos_token_id
    model.generation_config = GenerationConfig(  # with what instruct models ask for, beside the ends of an answer
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, do_sample=True, temperature=0.6, top_p=0.9
    )
    model.save_pretrained(folder, max_shard_size="100KB" if published.shards else "5GB")


def _network(published: Published, tokenizer: PreTrainedTokenizerFast) -> Any:
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
        for name in ("bos", "eos")
        if name in published.special
    }
    own = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **special, **published.settings}
    if published.family == "gemma3":  # with eyes, of which nothing is used
        family = FAMILIES["gemma3"].settings | own | {"num_hidden_layers": DEPTH, "max_position_embeddings": CONTEXT}
        eyes = {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        config = Gemma3Config(text_config=family, vision_config=eyes, mm_tokens_per_image=4)
        return Gemma3ForConditionalGeneration(config)
    family = FAMILIES[published.family]
    if family.kind == "gpt2":
        sizes = {"n_layer": DEPTH, "n_positions": 1024}
    else:
        sizes = {"num_hidden_layers": DEPTH, "max_position_embeddings": CONTEXT}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family.kind, **{**family.settings, **own, **sizes}))


def _tokenizer(published: Published, texts: Sequence[str]) -> PreTrainedTokenizerFast:
    special = [*dict.fromkeys([*published.special.values(), *published.turns])]
    train = _train_pieces if published.pieces else _train_bytes
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train(texts, special),
        extra_special_tokens=[token for token in special if token not in published.special.values()],
        **{f"{name}_token": token for name, token in published.special.items()},
    )
    plain: list[Any] = [AddedToken(token, special=False) for token in published.plain]
    tokenizer.add_tokens(plain)
    tokenizer.chat_template = published.template
    return tokenizer


def _train_bytes(texts: Sequence[str], special: list[str]) -> Tokenizer:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=700, special_tokens=special, show_progress=False)
    return bpe._tokenizer


def _train_pieces(texts: Sequence[str], special: list[str]) -> Tokenizer:
    """A BPE in the style of SentencePiece: blanks are ▁, and what is unknown falls back to bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    every = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=every, show_progress=False)
    tokenizer.train_from_iterator((word for text in texts for word in text.split()), trainer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    settings = json.loads(tokenizer.to_str())  # in which all that the trainer was given count as special tokens
    settings["added_tokens"] = [token for token in settings["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(settings))
