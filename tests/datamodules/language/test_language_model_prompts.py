"""How a question is put to a model, and where its answer ends: prompts, chat templates, stops."""

from dataclasses import replace
from typing import Any

import pytest
from transformers import AutoTokenizer

from datamodules.language.generation import generate_answers
from datamodules.language.language_model import LanguageModel
from tests.support.places import SHARED

MISTRAL = SHARED / "tokenizers" / "mistral-7b-v1"


def test_the_prompt_is_encoded_with_its_bos_once(language_model):
    tokenizer = language_model.load_tokenizer()
    model = LanguageModel(language_model.id, prompt="<s>Q: {question}\nA:")
    ids = model.encode(tokenizer, ["{question} red?"])[0]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == "Q: {question} red?\nA:"


def test_chat_wraps_the_prompt_with_the_generation_prompt(language_model):
    tokenizer = language_model.load_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} bot:{% endif %}"
    )
    ids = LanguageModel(language_model.id, prompt="Say: {question}", chat=True).encode(tokenizer, ["red?"])[0]
    assert tokenizer.decode(ids) == "<s>user: Say: red? bot:"


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %} [bot]{% endif %}{% if enable_thinking is false %} at once{% endif %}"
)


@pytest.mark.parametrize(
    ("chat", "template", "settings", "expected", "stop"),
    [
        ("auto", TEMPLATE, {}, "<s>[user] red? [bot]", None),
        ("auto", None, {}, "Q: red?\nA:", "\n"),
        (False, TEMPLATE, {}, "Q: red?\nA:", "\n"),
        (True, TEMPLATE, {"prompt": "Say: {question}", "stop": "."}, "<s>[user] Say: red? [bot]", "."),
        (True, TEMPLATE, {"template": {"enable_thinking": False}}, "<s>[user] red? [bot] at once", None),
        ("auto", None, {"prompt": "{question}", "stop": None}, "red?", None),
        (
            True,
            TEMPLATE,
            {"chat_prompt": "{question} Now.", "base_prompt": "{question} is"},
            "<s>[user] red? Now. [bot]",
            None,
        ),
        (False, TEMPLATE, {"chat_prompt": "{question} Now.", "base_prompt": "{question} is"}, "red? is", "\n"),
        (True, TEMPLATE, {"prompt": "{question}", "chat_prompt": "{question} Now."}, "<s>[user] red? [bot]", None),
        (False, None, {"prompt": "{question}", "base_prompt": "{question} is"}, "red?", "\n"),
        (True, TEMPLATE, {"template": {"add_generation_prompt": False}}, "<s>[user] red?", None),
        (False, None, {"prompt": "<s><s>{question}"}, "<s>red?", "\n"),
    ],
)
def test_chat_or_base_decides_prompt_and_stop(language_model, chat, template, settings, expected, stop):
    tokenizer = language_model.load_tokenizer()
    tokenizer.chat_template = template
    model = LanguageModel(language_model.id, **{"chat": chat, "stop": "auto", **settings})
    assert tokenizer.decode(model.encode(tokenizer, ["red?"])[0]) == expected
    assert model.find_stop_text(tokenizer) == stop


def test_a_chat_without_a_template_is_refused(language_model):
    model = LanguageModel(language_model.id, chat=True)
    with pytest.raises(ValueError, match=r"model.chat: expected a tokenizer with a chat template, .*; set model.chat="):
        model.encode(language_model.load_tokenizer(), ["red?"])[0]


def test_bos_comes_once_where_tokenizer_and_prompt_both_write_it():
    if not MISTRAL.is_dir():
        pytest.skip(f"no tokenizer at {MISTRAL}")
    tokenizer = AutoTokenizer.from_pretrained(MISTRAL)
    for prompt in ("{question}", "<s>{question}"):
        ids = LanguageModel("org/name", prompt=prompt).encode(tokenizer, ["Who wrote it?"])[0]
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id
    tokenizer.add_eos_token = True
    assert LanguageModel("org/name").encode(tokenizer, ["Who?"])[0][-1] != tokenizer.eos_token_id


@pytest.mark.parametrize("key", ["prompt", "chat_prompt", "base_prompt"])
def test_a_command_line_can_give_line_breaks_tabs_and_backslashes(language_model, key):
    tokenizer = language_model.load_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    given: dict[str, Any] = {key: r"{question}\n\tA: \\nu \d"}
    model = LanguageModel(language_model.id, chat=key == "chat_prompt", stop=r"\n\t", **given)
    for one in (model, replace(model, batch_size=1)):
        ids = one.encode(tokenizer, [r"\n?"])[0]
        assert tokenizer.decode(ids) == "\\n?\n\tA: \\nu \\d"
        assert one.find_stop_text(tokenizer) == "\n\t"


def test_a_prompt_for_all_wins_over_those_for_chats_and_base_models(language_model):
    tokenizer = language_model.load_tokenizer()
    kinds: dict[str, Any] = {"chat_prompt": "chat {question}", "base_prompt": "base {question}"}
    cases: list[tuple[dict[str, Any], str]] = [
        (kinds, "base red?"),
        (kinds | {"prompt": "all {question}"}, "all red?"),
        (kinds | {"chat": True}, "<user>chat red?"),
        (kinds | {"chat": True, "prompt": "all {question}"}, "<user>all red?"),
        ({"chat": True}, "<user>red?"),
        ({}, "Q: red?\nA:"),
    ]
    tokenizer.chat_template = "{% for m in messages %}<user>{{ m.content }}{% endfor %}"
    for settings, expected in cases:
        model = LanguageModel(language_model.id, **settings)
        assert tokenizer.decode(model.encode(tokenizer, ["red?"])[0]) == expected


def test_answers_end_at_the_tokenizers_end_and_at_the_end_of_a_turn(language_model):
    """Whichever of them the model's own settings leave out."""
    tokenizer = language_model.load_tokenizer()
    tokenizer.add_tokens(["<turn>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<turn>\n{% endfor %}"
    end, turn = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<turn>")
    assert LanguageModel(language_model.id, chat=True).find_stop_ids(tokenizer) == sorted([end, turn])
    assert LanguageModel(language_model.id, chat=False).find_stop_ids(tokenizer) == [end]
    network, (prompt,) = language_model.load("cpu"), language_model.encode(tokenizer, ["red?"])
    network.generation_config.eos_token_id = None
    whole = generate_answers(network, tokenizer, [prompt], 8)[0]
    third = whole.answer_ids[2]
    cut = generate_answers(network, tokenizer, [prompt], 8, stop_ids=[third])[0]
    n = list(whole.answer_ids).index(third) + 1
    assert (list(cut.answer_ids), cut.finish) == (list(whole.answer_ids[:n]), "stop")
    network.generation_config.eos_token_id = [third]
    assert generate_answers(network, tokenizer, [prompt], 8, stop_ids=[end])[0] == cut
