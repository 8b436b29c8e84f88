"""What tells one reading of a text from another: weights, dtype, tokenizer and prompt. The card of a run keeps it.

Probes fit the activations of one reading only. A run records its own, and who uses its probes later compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.card import Card
from datamodules.language.sequences import digest_sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from datamodules.language.language_model import LanguageModel

# Upper and lower case, accents, digits, blanks and another script: tokenizers and templates differ in these.
TEXT = "In 1999, was  Zoë's café\nin Zürich or in 北京?"
PARTS = {  # what people are told of a part that differs
    "weights": "other weights",
    "dtype": "another dtype",
    "tokenizer": "another tokenizer",
    "prompt": "another prompt or chat template",
}


def identify_reading(
    model: LanguageModel, tokenizer: PreTrainedTokenizerBase, stated: bool, memory: Path | None = None
) -> dict[str, str]:
    """Return the parts of `PARTS` as short texts: digests, and the dtype by name.

    Args:
        model: with its prompt settings.
        tokenizer: its tokenizer.
        stated: whether texts are read as they are, without a prompt.
        memory: folder in which digests of large files are remembered.

    Example:
        >>> identify_reading(model, tokenizer, stated=False)["dtype"]  # doctest: +SKIP
        'bfloat16'
    """
    source = {name: part for name, part in model.identify(memory).items() if name != "dtype"}
    weights = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()
    return {"weights": weights, "dtype": model.dtype} | identify_prompts(model, tokenizer, stated)


def identify_prompts(model: LanguageModel, tokenizer: PreTrainedTokenizerBase, stated: bool) -> dict[str, str]:
    """Return the parts that need no weights: the tokenizer and, unless texts are read as they are, the prompt."""
    found = {"tokenizer": digest_sequences([tokenizer(TEXT).input_ids])}
    return found if stated else found | {"prompt": digest_sequences(model.encode(tokenizer, [TEXT]))}


def find_difference(recorded: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """All that differs between two readings, as people read it; None where nothing does.

    Parts that one lacks are equal. Weights are all files of a folder, so that another chat template tells of both.

    >>> find_difference({"dtype": "float32"}, {"dtype": "bfloat16"})
    'another dtype (bfloat16 instead of float32)'
    """
    told = []
    for part, words in PARTS.items():
        if part in recorded and part in found and recorded[part] != found[part]:
            shown = [text if part == "dtype" else text[:12] for text in (found[part], recorded[part])]
            told.append(f"{words} ({shown[0]} instead of {shown[1]})")
    return " and ".join(told) or None


def require_reading(
    card: Card,
    model: LanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    stated: bool,
    memory: Path | None = None,
    loaded_dtype: str | None = None,
) -> None:
    """Check that a model reads texts as that of a run did, as far as its card says how.

    Args:
        card: of the run.
        model: with its prompt settings.
        tokenizer: its tokenizer.
        stated: whether texts are read as they are.
        memory: folder in which digests of large files are remembered.
        loaded_dtype: of weights that are loaded already, whose files are not known; None: `model` names the files.

    Raises:
        ValueError: names what differs.
    """
    if loaded_dtype is None:
        found, commit = identify_reading(model, tokenizer, stated, memory), model.checkpoint.commit
    else:
        found, commit = identify_prompts(model, tokenizer, stated) | {"dtype": loaded_dtype}, card.revision
    difference = find_difference(card.identity, found)
    if commit != card.revision:
        difference = f"another revision ({commit or 'local files'} instead of {card.revision or 'local files'})"
    if difference:
        raise ValueError(
            f"model: expected {card.model} as the run read it, got {difference}; leave model out, which takes that of "
            "the run, or fit probes on this one"
        )
