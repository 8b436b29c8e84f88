"""Responses from elsewhere in token ids: those of generated answers, for three tokenizers, and what is refused."""

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from datamodules.language import smollm2
from datamodules.language.demo import DemoQuestions, build_demo_model
from datamodules.language.generation import generate_answers
from datamodules.language.language_model import LanguageModel
from datamodules.language.responses import make_answers, tokenize_response
from datamodules.questions.question import Question, Response, Turn
from tests.support.places import ROOT

MISTRAL = ROOT.parent / "shared" / "tokenizers" / "mistral-7b-v1"
SMOLLM2 = ROOT / "cache" / "models" / smollm2.NAME
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)
TEXTS = ["Paris, of course.", "Émile Zola (1840–1902)", "北京。", "1. First\n2. Second", "don't  know", "🦜 yes"]


def ask(question="red?", **response):
    return Question("q7", "g", question, ("x",), response=Response(**response))


@pytest.fixture(scope="module")
def base(language_model):
    return language_model, language_model.load_tokenizer()


@pytest.fixture(scope="module")
def chat(language_model):
    tokenizer = language_model.load_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return LanguageModel(language_model.id, chat=True, dtype="float32"), tokenizer


def answer(chosen, *questions, tell=lambda line: None):
    model, tokenizer = chosen
    return make_answers(model, tokenizer, questions, lambda asked: model.encode(tokenizer, asked), tell)


def test_generated_answers_of_the_demo_model_come_back_token_by_token():
    """Oracle: what the model wrote itself, and the prompts that it read."""
    model = build_demo_model(prompt="<s>Q: {question}\nA:", dtype="float32", max_new_tokens=32)
    tokenizer, questions = model.load_tokenizer(), DemoQuestions("facts", "demo_facts", limit=24).load()
    prompts = model.encode(tokenizer, [question.text for question in questions])
    written = generate_answers(model.load("cpu"), tokenizer, prompts, 32)
    assert {one.finish for one in written} == {"stop"}
    asked = [
        replace(question, response=Response(one.text, "stop")) for question, one in zip(questions, written, strict=True)
    ]
    for one, made in zip(written, answer((model, tokenizer), *asked), strict=True):
        assert list(made.answer_ids) == list(one.answer_ids)
        assert (list(made.prompt_ids), made.text, made.finish) == (list(one.prompt_ids), one.text, "stop")


def load_mistral():
    if not MISTRAL.exists():
        pytest.skip(f"needs {MISTRAL}")
    return AutoTokenizer.from_pretrained(MISTRAL), INST


def load_smollm2():
    if not SMOLLM2.exists():
        pytest.skip(f"needs {SMOLLM2}")
    return AutoTokenizer.from_pretrained(SMOLLM2.parent, gguf_file=SMOLLM2.name), CHATML


@pytest.mark.parametrize("load", [load_mistral, pytest.param(load_smollm2, marks=[pytest.mark.real, pytest.mark.slow])])
def test_a_response_is_what_the_template_writes_behind_the_prompt(load):
    """Oracle: the whole chat through the template, whose ids are those of the prompt, the response and its end."""
    tokenizer, template = load()
    tokenizer.chat_template = template
    for text in TEXTS:
        turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": text}]
        prompt = tokenizer.apply_chat_template(turns[:1], return_dict=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(turns, return_dict=False)
        ids = tokenize_response(tokenizer, text)
        assert whole[: len(prompt) + len(ids)] == prompt + ids, text
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        assert whole[len(prompt) + len(ids)] in tokenizer.all_special_ids


def test_a_blank_that_sentencepiece_puts_first_is_there_once():
    tokenizer, _ = load_mistral()
    paris = tokenizer("Paris", add_special_tokens=False).input_ids
    assert tokenize_response(tokenizer, "Paris") == tokenize_response(tokenizer, " Paris") == paris
    line = tokenize_response(tokenizer, "\nParis")
    assert tokenizer.convert_ids_to_tokens(line)[0] == "<0x0A>"
    assert tokenizer.decode(line) == "\nParis"


def test_no_token_holds_the_end_of_the_prompt_and_the_beginning_of_the_response(base):
    """`re` and `d` would be one token where the prompt ended within the word."""
    model, tokenizer = base
    model = replace(model, prompt="{question}")
    (made,) = answer((model, tokenizer), ask("river re", text="d stone"))
    assert list(made.prompt_ids) == tokenizer("river re").input_ids
    assert list(made.answer_ids) == tokenizer("d stone").input_ids
    together = tokenizer("river red stone").input_ids
    assert together[: len(made.prompt_ids)] != list(made.prompt_ids)


@pytest.mark.parametrize(
    ("said", "ends", "finish"),
    [
        ({"text": "blue"}, True, "stop"),
        ({"text": "blue", "finish": "length"}, False, "length"),
        ({"text": "blue<|im_end|>"}, True, "stop"),
        ({"text": "blue", "finish": "stop"}, True, "stop"),
    ],
)
def test_a_chat_ends_with_the_end_of_its_turn_unless_it_was_cut_off(chat, said, ends, finish):
    tokenizer = chat[1]
    (made,) = answer(chat, ask(**said))
    end = [tokenizer.convert_tokens_to_ids("<|im_end|>")] if ends else []
    assert list(made.answer_ids) == tokenizer("blue").input_ids + end
    assert (made.finish, made.text) == (finish, "blue")


@pytest.mark.parametrize(
    ("said", "end", "finish"),
    [
        ({"text": " blue"}, "", "given"),
        ({"text": " blue", "finish": "stop"}, "</s>", "stop"),
        ({"text": " blue\n", "finish": "stop"}, "", "stop"),
        ({"text": " blue", "finish": "length"}, "", "length"),
    ],
)
def test_other_answers_end_with_their_text_unless_they_stopped(base, said, end, finish):
    model, tokenizer = replace(base[0], stop="auto"), base[1]
    (made,) = answer((model, tokenizer), ask(**said))
    assert tokenizer.decode(made.answer_ids) == said["text"] + end
    assert made.finish == finish


def test_ids_are_used_as_they_are(base):
    model, tokenizer = base
    ids = [tokenizer.convert_tokens_to_ids(char) for char in "blue"]  # as no tokenizer would cut it
    prompt = tokenizer("<s>Say red? now").input_ids
    told = []
    given = {"prompt_ids": prompt, "ids": [*ids, 2], "logprobs": [-1.0] * 5}
    (made, other) = answer(base, ask(text="blue", **given), ask(text=" blue"), tell=told.append)
    assert (list(made.prompt_ids), list(made.answer_ids)) == (prompt, [*ids, 2])
    assert (made.finish, made.text, list(made.logprobs)) == ("stop", "blue", [-1.0] * 5)
    assert list(other.prompt_ids) == model.encode(tokenizer, ["red?"])[0]
    assert told == [
        "responses: 1 of 2 with their token ids, the others tokenised; the token that ends an answer is put behind 0"
    ]
    answer(base, ask(text="blue"), tell=told.append)
    assert told[-1].startswith("responses: 1 of 1 begin without a blank, right behind the prompt of a base model; put")


def test_ids_may_hold_a_thought_before_the_text(base):
    tokenizer = base[1]
    ids = tokenizer("<think>red</think> blue").input_ids
    for text in ("<think>red</think> blue", "blue"):
        (made,) = answer(base, ask(text=text, ids=ids))
        assert (made.text.strip(), [*made.thought_ids, *made.answer_ids]) == ("blue", ids)
        assert tokenizer.decode(made.thought_ids).strip() == "<think>red</think>"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"text": "blue", "ids": [40, 41]}, r"dataset.response_ids: expected .* decode to the response, .* beside 'b"),
        ({"text": "blue", "ids": [10**6]}, r"dataset.response_ids: expected token ids below \d+, .* got 1000000 in q7"),
        ({"text": "blue", "prompt_ids": [999]}, r"dataset.prompt_ids: expected token ids below \d+, .* got 999 in q7"),
        ({"text": "blue", "prompt_ids": [40, 41]}, "dataset.prompt_ids: expected .* decode to a prompt with 'red"),
        ({"text": "x", "turns": (Turn("user", "red?"),)}, "model.chat: expected a model that chats for messages, .*q7"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_in_one_line(base, said, text):
    with pytest.raises(ValueError, match=f"^{text}") as error:
        answer(base, ask(**said))
    assert "q7" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_template_that_refuses_a_chat_names_it(chat):
    model, tokenizer = chat[0], chat[0].load_tokenizer()
    tokenizer.chat_template = INST
    turns = Turn("system", "Be short."), Turn("user", "red?")
    fine = replace(ask(text="x"), id="q1")
    with pytest.raises(ValueError, match=r"^model.template: expected .* got no system; .* \(row q7\)$"):
        answer((model, tokenizer), fine, ask(text="x", turns=turns))
    tokenizer.chat_template = CHATML.replace("in messages", "in messages[1:]")  # drops it without a word
    with pytest.raises(ValueError, match=r"^model.template: expected .* without the question; .* \(row q7\)$"):
        answer((model, tokenizer), ask(text="x", turns=turns))
