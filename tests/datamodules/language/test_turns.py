"""The tokens of what the system, the user and the assistant say, in prompts of chats and of base models."""

import pytest

from datamodules.language.language_model import LanguageModel
from datamodules.language.positions import Positions
from datamodules.language.turns import find_turns
from datamodules.questions.question import Question, Response, Turn

CHATML = (
    "{% if messages[0].role != 'system' %}<|system|>be a red lamp\n{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TURNS = (Turn("system", "user"), Turn("user", "red?"), Turn("assistant", "a"), Turn("user", " a "))


@pytest.fixture
def chat(language_model, monkeypatch):
    """The small model with a template, whose default system message holds words of the questions."""
    tokenizer = language_model.load_tokenizer()
    tokenizer.chat_template = CHATML
    return LanguageModel(language_model.id, chat=True, dtype="float32", chat_prompt="Say: {question}"), tokenizer


def said(tokenizer, ids, runs):
    return [(role, tokenizer.decode(ids[first : last + 1])) for role, first, last in runs]


def test_turns_of_a_chat_are_found_where_the_template_puts_them(chat):
    """`a` is in `<|assistant|>` and `user` in `<|user|>`: the text of the template is no turn."""
    model, tokenizer = chat
    question = Question("q", "g", "red?", (), response=Response("blue", turns=TURNS))
    (ids,) = model.encode(tokenizer, [TURNS])
    assert tokenizer.decode(ids) == "<|system|>user\n<|user|>red?\n<|assistant|>a\n<|user|>a\n<|assistant|>"
    (runs,) = find_turns(model, tokenizer, [question], [ids])
    assert said(tokenizer, ids, runs) == [(role, text.strip()) for role, text in TURNS]
    texts = [tokenizer.decode(ids[:first]) for _, first, _ in runs]
    assert [len(text) for text in texts] == [10, 23, 41, 51]


def test_the_turn_of_a_question_is_its_prompt_in_a_chat_and_itself_in_a_base_model(chat, language_model):
    model, tokenizer = chat
    question = Question("q", "g", "red?", ())
    for one, expected in ((model, "Say: red?"), (language_model, "red?")):
        (ids,) = one.encode(tokenizer, ["red?"])
        (runs,) = find_turns(one, tokenizer, [question], [ids])
        assert [(role, text.strip()) for role, text in said(tokenizer, ids, runs)] == [("user", expected)]


def test_positions_over_roles_with_the_turn_that_nth_names(chat):
    model, tokenizer = chat
    question = Question("q", "g", "red?", (), response=Response("blue stone", turns=TURNS))
    (ids,) = model.encode(tokenizer, [TURNS])
    answer = tokenizer("blue stone").input_ids
    rules = [
        {"name": "system", "over": "system", "at": "mean"},
        {"name": "user", "over": "user", "at": "mean"},
        {"name": "first user", "over": "user", "at": "last", "nth": 0},
        {"name": "third user", "over": "user", "at": "last", "nth": 2},
        {"name": "assistant", "over": "assistant", "at": "max"},
        {"name": "assistant before", "over": "assistant", "at": "first", "nth": -2},
    ]
    positions = Positions(rules)
    assert positions.need_turns
    runs = find_turns(model, tokenizer, [question], [ids])
    tokens, valid = positions.resolve(tokenizer, [ids], [[*answer, tokenizer.eos_token_id]], [None], None, runs)
    whole = [*ids, *answer]
    assert valid.tolist() == [[True, True, True, False, True, True]]
    texts = [tokenizer.decode(whole[min(pair) : max(pair) + 1]).strip() for pair in tokens[0].tolist()]
    assert texts[:2] == ["user", "a"]
    assert "red?".endswith(texts[2])
    assert tokens[0, 4].tolist() == [len(whole) - 1, len(ids)]  # the maximum over the answer without its stop token
    assert tokens[0, 5].tolist() == [runs[0][2][1]] * 2
    with pytest.raises(
        ValueError, match="system: expected prompts whose turns are known, got system without them; take"
    ):
        positions.resolve(tokenizer, [ids], [answer], [None])


def test_prompts_of_another_template_still_give_their_turns(chat):
    model, tokenizer = chat
    question = Question("q", "g", "red stone?", (), response=Response("x", turns=(Turn("user", "red stone?"),)))
    ids = tokenizer("[red stone?] =>").input_ids
    (runs,) = find_turns(model, tokenizer, [question], [ids])
    assert len(runs) == 1
    assert "red stone?" in said(tokenizer, ids, runs)[0][1]
    assert find_turns(model, tokenizer, [question], [tokenizer("blue").input_ids]) == [[]]
