"""What a model thinks before it answers is told from its answer and cut off."""

import random
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from datamodules.language import generation
from datamodules.language.generation import Answer, cut_thinking, generate_answers
from datamodules.language.thinking import MARKS, find_answer, opens_block
from datamodules.language.tokens import decode
from tests.conftest import WORDS
from tests.support.places import SHARED
from tests.support.thinkers import KINDS, byte_level, network_of

MISTRAL = SHARED / "tokenizers" / "mistral-7b-v1"


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return byte_level(request.param)


@pytest.mark.parametrize(
    ("text", "opened", "answer"),
    [
        ("Paris.", False, "Paris."),
        ("\n Paris.", False, "\n Paris."),  # without a block nothing is cut
        ("<think>\nhm\n</think>\n\nParis.", False, "Paris."),
        ("hm\n</think>\n\nParis.", True, "Paris."),
        ("hm</think>Paris.", False, "Paris."),
        ("<think></think><think>hm</think> Paris.", False, "Paris."),
        ("<think>the tag <think></think>Rome</think>Paris.", False, "Paris."),
        ("<think>hm", False, None),
        ("hm", True, None),
        ("<think>hm</think>\n<think>hm", False, None),
        ("Paris.<think>hm", False, None),
        ("hm</thi", True, None),
        ("<think>hm</think>\n\n", False, ""),
        ("[THINK]hm[/THINK]Paris.", False, "Paris."),
        ("<seed:think>hm</seed:think>Paris.", False, "Paris."),
        ("<|START_THINKING|>hm<|END_THINKING|>\n<|START_RESPONSE|>Paris.", False, "Paris."),
        ("<think>hm</think>\n<response> Paris.", False, "Paris."),
        ("◁think▷hm◁/think▷Paris.", False, "Paris."),
        ("<|channel>thought\nhm<channel|>Paris.", False, "Paris."),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Paris.<|return|>",
            False,
            "Paris.<|return|>",
        ),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant", False, None),
        ("<|channel|>final<|message|>Paris.", False, "Paris."),
        ("a < b and think> c </b>", False, "a < b and think> c </b>"),
        ("", False, ""),
        ("", True, None),
    ],
)
def test_the_answer_is_what_follows_the_last_block(text, opened, answer):
    start = find_answer(text, opened)
    assert (None if start is None else text[start:]) == answer


@pytest.mark.parametrize("opening", [opening for opening, _ in MARKS])
def test_a_prompt_opens_a_block_only_where_it_ends_in_the_mark(tokenizer, opening):
    closing = dict(MARKS)[opening]

    def opens(text):
        return opens_block(tokenizer, tokenizer(text).input_ids)

    assert opens(f"<s>Q: red?\nA:{opening}")
    assert opens(f"<s>Q: red?\nA:{opening}\n\n")
    assert not opens(f"<s>Q: red?\nA:{opening}\n\n{closing}\n\n")
    assert not opens(f"<s>Q: what does {opening} mean?\nA:")
    assert not opens("")


def written(tokenizer, prompt, text):
    """An answer as it is stored; its log-probabilities number the tokens."""
    prompt_ids, ids = (tokenizer(one, add_special_tokens=False).input_ids for one in (prompt, text))
    return Answer(prompt_ids, ids, [float(i) for i in range(len(ids))], "stop", decode(tokenizer, ids))


def random_text(rng, n):
    return "".join(rng.choice([*WORDS, *"\n .,>\"'", "北", "é", " "]) + rng.choice(["", " "]) for _ in range(n))


def check_random_blocks(tokenizer, end):
    """The ids stay the same ids, the text is what follows the mark, and the cut is as early as it can be."""
    rng, shared = random.Random(3), 0
    for case in range(300):
        opening, closing = rng.choice(MARKS)
        opened = rng.random() < 0.4
        blocks = [opening + random_text(rng, rng.randrange(12)) + closing for _ in range(rng.randint(1, 2))]
        after = random_text(rng, rng.randint(1, 5)) + end
        text = rng.choice(["", "\n"]).join(blocks).removeprefix(opening if opened else "") + after
        whole = written(tokenizer, "Q: red?\nA:" + (opening + "\n") * opened, text)
        cut = cut_thinking(tokenizer, whole)
        n = len(cut.thought_ids)
        assert [*cut.thought_ids, *cut.answer_ids] == whole.answer_ids
        assert cut.logprobs == whole.logprobs[n:]
        assert (cut.prompt_ids, cut.finish) == (whole.prompt_ids, whole.finish)
        assert cut.text == decode(tokenizer, cut.answer_ids)
        expected = after.lstrip().removesuffix(end)
        if cut.text.lstrip() != expected:  # a token carries the last sign of the mark too
            assert cut.text == closing[-1] + after.removesuffix(end), case
            shared += 1
        whole_text, seen, more = (decode(tokenizer, whole.answer_ids[:k], special=True) for k in (None, n, n + 1))
        block = whole_text.removesuffix(after.lstrip())
        assert block.startswith(seen.rstrip()), case  # nothing of the answer is cut off,
        assert len(more) > len(block) or "\ufffd" in more, case  # and nothing of the block but that sign is left
    return shared


def test_random_blocks_are_cut_off_exactly(tokenizer):
    shared = check_random_blocks(tokenizer, "</s>")
    assert (shared > 0) == (len(tokenizer("</think>").input_ids) > 1)  # only marks in plain text share a token


@pytest.mark.skipif(not MISTRAL.is_dir(), reason="the real tokenizer is not here")
def test_random_blocks_are_cut_off_exactly_by_the_mistral_tokenizer():
    check_random_blocks(AutoTokenizer.from_pretrained(MISTRAL), "</s>")


def test_a_token_of_mark_and_answer_goes_to_the_answer():
    tokenizer = byte_level("plain")
    whole = written(tokenizer, "A:", '<think>red</think>"no"')
    cut = cut_thinking(tokenizer, whole)
    assert tokenizer.decode(cut.answer_ids[:1]).startswith('>"')
    assert cut.text == '>"no"'


def test_without_a_block_an_answer_stays_as_it_is(tokenizer):
    whole = written(tokenizer, "Q: red?\nA:", "\n red stone</s>")
    assert cut_thinking(tokenizer, whole) is whole


@pytest.mark.parametrize("text", ["<think>red stone", "<think>red</think>\n\n"])
def test_an_open_block_leaves_no_answer(tokenizer, text):
    cut = cut_thinking(tokenizer, written(tokenizer, "A:", text))
    assert (list(cut.answer_ids), list(cut.logprobs), cut.text) == ([], [], "")
    assert tokenizer.decode(cut.thought_ids) == text


class Scripted(LlamaForCausalLM):
    """Writes what it is told, a text a row; rows keep their places only until the first check for ended answers."""

    def say(self, rows):
        self.rows, self.step = rows, 0
        return self

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        logits = torch.full_like(out.logits, -50.0)  # type: ignore[arg-type]
        for row, ids in enumerate(self.rows):
            logits[row, -1, ids[min(self.step, len(ids) - 1)]] = 50.0
        self.step += 1
        out.logits = logits
        return out


def test_a_stop_text_ends_no_thought(tokenizer, monkeypatch):
    monkeypatch.setattr(generation, "CPU_CHUNK", 100)
    texts = {
        "A:": "<think>\nred\nstone\n</think>\n\nblue lamp\nkey</s>",
        "A: <think>\n": "red\n\nstone</think>\nblue lamp\nkey</s>",
        "A: ": "blue lamp\nkey</s>",
        "B: <think>\n": "red\n\nstone\nbird key</s>",
    }
    prompts, said = ([tokenizer(t).input_ids for t in part] for part in (texts, texts.values()))
    network: Any = network_of(tokenizer, Scripted)
    answers = generate_answers(network.say(said), tokenizer, prompts, 100, stop="\n")
    for answer, ids in zip(answers[:3], said, strict=False):
        assert answer.answer_ids == ids[: len(answer.answer_ids)]
        assert cut_thinking(tokenizer, answer).text.strip("> ") == "blue lamp\n"
        assert answer.finish == "stop"
    assert answers[3].answer_ids == said[3]  # its thinking never ends, but it ends its turn
    assert cut_thinking(tokenizer, answers[3]).text == ""
