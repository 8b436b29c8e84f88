"""Chat templates that drop the question, write the date, fail, or end turns in their own way."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import torch

from datamodules.labels.spans import prepare_for_replies
from datamodules.language.chat import encode_turns, find_turn_end, reads_clock
from datamodules.language.language_model import LanguageModel
from datamodules.language.render_limit import limit_rendering
from datamodules.language.stages import LanguageModelStages
from datamodules.questions.files import FileQuestions

DAY = date(2024, 7, 26)
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
PARTS = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
STRICT_PARTS = "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p['text'] }}{% else %}"
STRICT_PARTS += "{{ raise_exception('no such part') }}{% endif %}{% endfor %}{% endfor %}"
DATED = "{{ strftime_now('%d %b %Y') }}|" + PLAIN
LLAMA = "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
LLAMA += "{{ date_string }}|" + PLAIN


LOOP = "{% for i in range(9999) %}{% for j in range(9999) %}{% set x = i * j %}{% endfor %}{% endfor %}"


@pytest.fixture
def tokenizer(language_model):
    return language_model.load_tokenizer()


def list_children() -> set[str]:
    """Processes that this one has started and not yet taken leave of."""
    return {one for path in Path("/proc/self/task").glob("*/children") for one in path.read_text().split()}


@pytest.mark.parametrize(
    ("template", "expected"),
    [(PLAIN, "<user>red  stone?"), (PARTS, "<user> red  stone?"), (STRICT_PARTS, " red  stone?")],
)
def test_the_question_is_in_the_prompt_whichever_form_the_template_takes(tokenizer, template, expected):
    tokenizer.chat_template = template
    ids = encode_turns(tokenizer, [" red  stone?", " red  stone?"], {}, DAY)
    assert [tokenizer.decode(one) for one in ids] == [expected] * 2


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("<user>", "a prompt without the question"),
        ("{% for m in messages %}{{ m.content[:3] }}{% endfor %}", "a prompt without the question"),
        ("{{ raise_exception('roles alternate') }}", "roles alternate"),
        ("{% for m in messages %}{{ m.content", "unexpected end of template"),
        ("{{ messages[5].content }}", "has no element 5"),
    ],
)
def test_a_template_that_fails_or_drops_the_question_is_refused_in_one_line(
    language_model, tokenizer, template, reason
):
    tokenizer.chat_template = template
    with pytest.raises(
        ValueError, match=rf"^model.template: expected a chat template that puts .* got .*{reason}"
    ) as told:
        LanguageModel(language_model.id, chat=True).encode(tokenizer, ["red stone?"])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("template", "arguments", "reads"),
    [(PLAIN, {}, False), (DATED, {}, True), (LLAMA, {}, True), (LLAMA, {"date_string": "1 Jan 2000"}, False)],
)
def test_a_template_that_writes_the_date_is_noticed_and_its_date_stands_still(tokenizer, template, arguments, reads):
    tokenizer.chat_template = template
    assert reads_clock(tokenizer, arguments, DAY) is reads
    (ids,) = encode_turns(tokenizer, ["red?"], arguments, DAY)
    assert tokenizer.decode(ids).startswith("26 Jul 2024|") is reads
    if arguments:
        assert tokenizer.decode(ids).startswith("1 Jan 2000|")


def test_the_date_of_the_model_is_that_of_its_prompts(language_model, tokenizer):
    tokenizer.chat_template = DATED
    model = LanguageModel(language_model.id, chat=True, date="2025-03-04")
    assert model.writes_date(tokenizer)
    assert tokenizer.decode(model.encode(tokenizer, ["red?"])[0]) == "04 Mar 2025|<user>red?"
    assert not LanguageModel(language_model.id, chat=False).writes_date(tokenizer)
    with pytest.raises(ValueError, match=r"model.date: expected a day such as 2024-07-26, got 'today'"):
        LanguageModel("org/name", date="today")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}<turn>\n{% endfor %}", "<turn>"),
        ("{% for m in messages %}{{ m.content }} </s>{% endfor %}", "</s>"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}<turn>{% endfor %}", None),
        ("{{ raise_exception('one turn only') }}", None),
    ],
)
def test_the_token_behind_an_answer_ends_it(tokenizer, template, expected):
    tokenizer.add_tokens(["<turn>"])
    tokenizer.chat_template = template
    assert find_turn_end(tokenizer) == (expected and tokenizer.convert_tokens_to_ids(expected))


def test_the_date_in_prompts_is_told_once_however_often_the_model_is_asked(
    language_model, questions_csv, tmp_path, caplog
):
    model, data = replace(language_model, chat=True), FileQuestions(path=str(questions_csv))
    stages = LanguageModelStages(model, data, str(tmp_path), torch.device("cpu"))
    stages.tokenizer.chat_template = DATED
    with caplog.at_level("INFO"):
        stages.encode(["red?"])
        stages.encode(["blue?"], prepare_for_replies(model))
    assert caplog.text.count("model.date: the chat template writes the date into prompts; they all say 2024-07-26") == 1


@pytest.mark.parametrize(
    ("template", "line"),
    [
        (LOOP, "got one that runs for more than 1 s, or crashes; set model.chat=false"),
        ("{{ 7 ** (7 ** 9) }}", "got one that runs for more than 1 s"),  # one step, while the template is compiled
        ("{{ (messages | length + 6) ** (7 ** 9) }}", "got one that runs for more than 1 s"),  # while it is rendered
        ("{{ 'x' * 10 ** 11 }}", "got one that needs more than 512 MiB; set model.chat=false"),
        ("{{ [0] * 10 ** 11 }}", "got one that needs"),
        (
            "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "got one ",
        ),
        ("{{ messages[0].content | center(10 ** 11) }}", "got one that needs"),
        ("{{ messages[0].content.zfill(10 ** 11) }}", "got one that needs"),
        ("{{ '%100000000000d' % 1 }}", "got one that needs"),
        ("{{ '{:>100000000000}'.format(1) }}", "got one that needs"),
        ("{{ messages | tojson(indent=10 ** 11) }}", "got one that needs"),
        ("{{ ('a' * 10 ** 6) | replace('a', 'b' * 10 ** 6) }}", "got one that needs"),
        ("{{ 'x' * 100001 }}", "got one that writes more than 100,000 characters; set model.chat=false"),
    ],
)
def test_a_template_that_runs_away_is_stopped(tokenizer, template, line, monkeypatch):
    before = list_children()
    monkeypatch.setattr("datamodules.language.render_limit.SECONDS", 1 if "1 s" in line else 60)
    monkeypatch.setattr("datamodules.language.render_limit.CHARACTERS", 100_000)
    tokenizer.chat_template = template
    use = find_turn_end if template is LOOP else lambda one: encode_turns(one, ["x"], {}, DAY)
    with pytest.raises(ValueError, match=f"^model.template: expected a chat template that writes a prompt, {line}"):
        use(tokenizer)
    assert list_children() <= before
    tokenizer.chat_template = PLAIN  # and nothing of the limit
    assert tokenizer.decode(encode_turns(tokenizer, ["red"], {}, DAY)[0]) == "<user>red"


def test_what_is_too_large_is_not_computed_where_the_template_does_not_use_it(tokenizer):
    tokenizer.chat_template = "{% if messages[0].content is number %}{{ 'x' * 10 ** 11 }}{% endif %}" + PLAIN
    assert tokenizer.decode(encode_turns(tokenizer, ["red"], {}, DAY)[0]) == "<user>red"


@pytest.mark.parametrize(
    ("template", "reason"), [("{{ 1 // 0 }}", "by zero"), ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recurs")]
)
def test_any_error_of_python_within_a_template_is_one_line(tokenizer, template, reason):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=rf"^model.template: expected a chat template that puts .*{reason}"):
        encode_turns(tokenizer, ["red"], {}, DAY)


def test_a_run_that_is_ended_while_a_template_is_rendered_leaves_no_process(tokenizer, monkeypatch):
    before = list_children()

    def end(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("datamodules.language.render_limit._read_all", end)
    tokenizer.chat_template = LOOP
    with pytest.raises(KeyboardInterrupt):
        encode_turns(tokenizer, ["x"], {}, DAY)
    assert list_children() <= before


def test_many_prompts_come_back_in_their_order(tokenizer):
    texts = [f"red {i}\u2028\U0001f600\n{'blue ' * 50}" for i in range(2_000)]
    tokenizer.chat_template = PLAIN
    turns = [[{"role": "user", "content": text}] for text in texts]
    given = {"tokenize": False, "render": 1, "seconds": 2}  # a variable of a template has any name
    with limit_rendering():
        found = tokenizer.apply_chat_template(turns, **given)
    assert found == tokenizer.apply_chat_template(turns, **given)
    assert len(found) == 2_000
