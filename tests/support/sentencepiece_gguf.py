"""A small GGUF file whose tokenizer is of the kind of sentencepiece."""

from pathlib import Path

from gguf import GGUFWriter, TokenType

TEMPLATE = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
BYTES = [f"<0x{i:02X}>" for i in range(256)]
PIECES = ["▁", *"abcdehinoprst", "▁r", "ed", "▁red", "th", "▁th", "▁the", "sh", "ip", "▁sh", "▁ship"]


def write_pieces(path: Path, template: str | None = None, add_bos: bool | None = None, add_eos: bool = False) -> Path:
    """Write the header of a Llama whose tokenizer is of the kind of sentencepiece; it has no tensors."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *PIECES, "<think>"]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([*kinds, *[TokenType.NORMAL] * len(PIECES), TokenType.USER_DEFINED])
    writer.add_vocab_size(len(tokens))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    if add_eos:
        writer.add_add_eos_token(add_eos)
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
