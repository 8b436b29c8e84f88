"""Labels, exact answers, positions and replies of a model that thinks before it answers."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from datamodules.activations import ActivationDataModule
from datamodules.labels.labelling import collect_replies
from datamodules.labels.rules import TextRule, judge_by_gold
from datamodules.labels.spans import RuleSpans, prepare_for_replies
from datamodules.language.generation import Answer
from datamodules.language.language_model import LanguageModel
from datamodules.language.positions import Positions
from datamodules.language.stages import LanguageModelStages
from datamodules.language.tokens import decode
from datamodules.questions.files import FileQuestions
from datamodules.split import GroupSplit
from tests.conftest import WORDS
from tests.support.positions import shipped
from tests.support.thinkers import KINDS, byte_level, network_of

QWEN3 = (
    "{% for m in messages %}<s>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
DEEPSEEK = "{% for m in messages %}<s>{{ m.content }}\n{% endfor %}A:<think>\n"


@pytest.fixture(scope="module", params=KINDS)
def thinker(request, tmp_path_factory) -> LanguageModel:
    """A model with a tokenizer of each kind; it chats by a template like Qwen3's."""
    folder, tokenizer = tmp_path_factory.mktemp("thinker"), byte_level(request.param)
    tokenizer.chat_template = QWEN3
    tokenizer.save_pretrained(folder)
    network_of(tokenizer).save_pretrained(folder)
    return LanguageModel(str(folder), dtype="float32", chat=True, max_new_tokens=20, thinking_tokens=60, batch_size=8)


@pytest.fixture(scope="module")
def quiz(tmp_path_factory) -> Path:
    """80 questions whose gold answer is their second word."""
    path = tmp_path_factory.mktemp("quiz") / "quiz.csv"
    rows = [f"n{i} {('red', 'blue')[i % 2]} {WORDS[i % 5 + 3]}?,{('red', 'blue')[i % 2]}" for i in range(80)]
    path.write_text("question,answer\n" + "\n".join(rows) + "\n")
    return path


def script(tokenizer, thinks):
    """Stands in for `generate_answers`: right for even numbers, wrong for others, each the other way in its thought.

    One of eight never ends its thought.
    """

    def generate(network, tokenizer_, prompts, max_new_tokens, stop=None, stop_ids=()):
        answers = []
        for prompt in prompts:
            number, own = re.findall(r"n(\d+) (\w+)", decode(tokenizer, prompt))[0]
            other = {"red": "blue", "blue": "red"}[own]
            said, thought = (own, other) if int(number) // 2 % 2 else (other, own)
            block = f"<think>\n{thought} {thought}\n\nkey is {thought}" + (
                "" if int(number) % 8 == 5 else "\n</think>\n\n"
            )
            text = (block if thinks else "") + ("" if int(number) % 8 == 5 and thinks else f"key is {said}</s>")
            ids = tokenizer(text).input_ids
            answers.append(Answer(prompt, ids, [-0.5] * len(ids), "stop", decode(tokenizer, ids)))
        return answers

    return generate


def run(thinker, quiz, root, monkeypatch, generate):
    monkeypatch.setattr("datamodules.language.answer_stage.generate_answers", generate)
    made = ActivationDataModule(
        thinker,
        FileQuestions(path=str(quiz), pattern="red|blue"),
        TextRule(judge_by_gold),
        RuleSpans(),
        Positions(shipped("paper")),
        "resid_post",
        GroupSplit(),
        str(root),
        root / "run",
    )
    made.setup()
    return made, pq.read_table(root / "run" / "examples.parquet").to_pylist(), root / "run"


def test_labels_exact_answers_positions_and_activations_do_not_see_the_thought(
    thinker, quiz, tmp_path, monkeypatch, caplog
):
    tokenizer, network = thinker.load_tokenizer(), thinker.load("cpu")
    with caplog.at_level("INFO"):
        made, rows, folder = run(thinker, quiz, tmp_path / "thinks", monkeypatch, script(tokenizer, True))
    _, plain, _ = run(thinker, quiz, tmp_path / "plain", monkeypatch, script(tokenizer, False))
    by_question = {row["question"]: row for row in plain}
    assert len(plain) == 80
    assert len(rows) == 70  # ten never end their thought
    assert "thinking: 70 of 80 answers follow a thought, in the median of" in caplog.text
    assert re.search(
        r"answers: 10 of 80 end inside their thinking, which does not close within 80 tokens, and are left out \(.*\); "
        r"raise model.thinking_tokens, or switch thinking off with model.template=\{enable_thinking: false\}",
        caplog.text,
    )
    assert {row["label"] for row in rows} == {0, 1}
    blocks = list(made.test_dataloader())
    acts = torch.cat([block["acts"] for block in blocks]).unflatten(0, (2, 15))
    names = made.positions.names
    for row in rows:
        alone = by_question[row["question"]]
        for key in ("label", "exact_answer", "answer", "prompt_ids", "answer_ids"):
            assert row[key] == alone[key], key
        n, m = len(row["prompt_ids"]), len(row["thought_ids"])
        assert m > 5
        assert "is" in tokenizer.decode(row["thought_ids"])
        for position, name in enumerate(names):  # as without the thought, further on by its length
            assert row["valid"][position] == alone["valid"][position]
            if row["valid"][position]:
                shift = 0 if name == "last_q" else m
                assert row["first_token"][position] == alone["first_token"][position] + shift
        assert row["first_token"][names.index("last_q")] == n - 1
        assert row["first_token"][names.index("first_answer")] == n + m
    for i, r in enumerate(made.targets.rows("test")[:5]):
        row = rows[r]
        ids = torch.tensor([row["prompt_ids"] + row["thought_ids"] + row["answer_ids"]])
        states = network.model(ids, output_hidden_states=True).hidden_states
        for position in range(15):
            if row["valid"][position]:
                expected = states[1][0, row["first_token"][position]]
                torch.testing.assert_close(acts[0, position, i].float(), expected, rtol=2**-7, atol=1e-3)
    page = (folder / "exact_answers.html").read_text()
    assert f"after {len(rows[0]['thought_ids'])} tokens of thinking: … " in page
    assert "&lt;/think&gt;" in page


def test_thinking_that_never_ends_stops_the_run_in_one_line(thinker, quiz, tmp_path, monkeypatch):
    def endless(network, tokenizer, prompts, max_new_tokens, stop=None, stop_ids=()):
        ids = tokenizer("<think>\nred, but").input_ids
        return [Answer(prompt, ids, [-0.5] * len(ids), "length", decode(tokenizer, ids)) for prompt in prompts]

    with pytest.raises(
        ValueError, match=r"^answers: expected at least 20 that follow their thinking, got 0; 80 of 80 "
    ):
        run(thinker, quiz, tmp_path, monkeypatch, endless)
    bare = replace(thinker, template={"enable_thinking": False, "add_generation_prompt": False})
    with pytest.raises(ValueError, match=r"knows it, which takes model.template.add_generation_prompt=true$"):
        run(bare, quiz, tmp_path, monkeypatch, endless)


def test_too_few_of_a_class_beside_thoughts_that_never_end(thinker, quiz, tmp_path, monkeypatch):
    odd = tmp_path / "odd.csv"
    odd.write_text(re.sub(r",(red|blue)", ",nothing", quiz.read_text()))
    with pytest.raises(ValueError, match=r"got 0 right and 70 wrong of 70, beside 10 whose thinking never ends; take"):
        run(thinker, odd, tmp_path, monkeypatch, script(thinker.load_tokenizer(), True))


def test_thoughts_too_long_for_the_context_are_told_with_their_option(thinker, quiz, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"longer context, or fewer model.max_new_tokens or model.thinking_tokens$"):
        run(replace(thinker, thinking_tokens=250), quiz, tmp_path, monkeypatch, script(thinker.load_tokenizer(), True))


def test_positions_before_the_answer_fall_on_the_thought_where_they_may():
    rules = [
        {"name": "first", "of": "answer", "at": 0},
        {"name": "before", "of": "exact_answer", "at": "before"},
        {"name": "end", "of": "answer", "at": -5},
        {"name": "far", "of": "answer", "at": -9},
        {"name": "all", "of": "whole", "at": "mean"},
        {"name": "q", "of": "prompt", "at": -1},
    ]
    for into, expected in ((False, [7, None, None, None, 0, 3]), (True, [7, 6, 5, 1, 0, 3])):
        tokens, valid = Positions(rules, into).resolve(Any, [[9] * 4], [[9] * 3], [(0, 0)], [[9] * 3])  # type: ignore[arg-type]
        first = [at if ok else None for at, ok in zip(tokens[0, :, 0].tolist(), valid[0], strict=True)]
        assert first == expected
    assert tokens[0, 4].tolist() == [0, 9]


def test_a_model_that_can_is_asked_without_thinking(thinker):
    tokenizer = thinker.load_tokenizer()
    thinks, asked = (
        decode(tokenizer, m.encode(tokenizer, ["red?"])[0]) for m in (thinker, prepare_for_replies(thinker))
    )
    assert thinks.endswith("A:")
    assert asked == thinks + "<think>\n\n</think>\n\n" or asked == thinks + "\n\n\n\n"  # special tokens are not shown
    assert prepare_for_replies(thinker).token_limit == prepare_for_replies(thinker).max_new_tokens
    assert prepare_for_replies(replace(thinker, template={"date": "today"})).template["date"] == "today"  # type: ignore[index]


@pytest.mark.parametrize("room", [120, 20])
def test_a_model_that_always_thinks_gets_room_for_it_before_its_reply(thinker, tmp_path, monkeypatch, room):
    """And a reply is what follows the thought; nothing where there is still no room."""
    tokenizer = thinker.load_tokenizer()
    lengths = []

    def generate(network, tokenizer_, prompts, max_new_tokens, stop=None, stop_ids=()):
        lengths.append((len(prompts), max_new_tokens))
        answers = []
        for prompt in prompts:
            long = "long" in decode(tokenizer, prompt)
            ids = tokenizer("red " * (100 if long else 2) + "</think>\n\nblue\n").input_ids[:max_new_tokens]
            answers.append(Answer(prompt, ids, [-0.5] * len(ids), "stop", decode(tokenizer, ids)))
        return answers

    monkeypatch.setattr("datamodules.language.answer_stage.generate_answers", generate)
    told = []
    with LanguageModelStages(
        replace(thinker, max_new_tokens=10, thinking_tokens=room),
        FileQuestions(path="quiz.csv"), str(tmp_path), torch.device("cpu"), True,
    ) as stages:  # fmt: skip
        stages.tokenizer.chat_template = DEEPSEEK
        said = collect_replies(stages, prepare_for_replies(stages.model), ["a", "b"], ["a", "long b"], told.append)
    assert said[0].strip("> \n") == "blue"
    assert lengths == [(2, 48), (1, 48 + room + 10)]
    if room == 120:
        assert said[1].strip("> \n") == "blue"
        assert not told
    else:
        assert said[1] == ""
        assert re.match(
            r"1 of 2 replies of .* are empty, because the thinking before them does not end within", told[0]
        )
