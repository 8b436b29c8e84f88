import random
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from datamodules.language import generation as answers_module
from datamodules.language.generation import generate_answers, read_answers, write_answers
from tests.support.families import FAMILIES, VOCABULARY, build

QUESTIONS = ["red?", "blue naïve 北京 1999?", "key 🦜 bird co-op ship's élan stone?", "green"] * 2


@pytest.fixture(scope="module")
def loaded(language_model):
    tokenizer = language_model.load_tokenizer()
    return language_model.load("cpu"), tokenizer, language_model.encode(tokenizer, QUESTIONS)


def greedy(model, prompt, steps):
    """Oracle: the whole sequence through the model again for each token, no cache, no padding."""
    ids, logprobs = list(prompt), []
    for _ in range(steps):
        row = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        ids.append(int(row.argmax()))
        logprobs.append(float(row.max()))
        if ids[-1] == model.config.eos_token_id:
            break
    return ids[len(prompt) :], logprobs


def test_a_batch_against_one_token_at_a_time(loaded):
    model, tokenizer, prompts = loaded
    answers = generate_answers(model, tokenizer, prompts, max_new_tokens=10)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids, logprobs = greedy(model, prompt, 10)
        assert answer.prompt_ids == prompt
        assert answer.answer_ids == ids
        assert answer.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert answer.finish == ("stop" if ids[-1] == tokenizer.eos_token_id else "length")


def test_the_stop_token_ends_and_belongs_to_an_answer(loaded):
    model, tokenizer, prompts = loaded
    free = generate_answers(model, tokenizer, prompts, max_new_tokens=10)
    stop = free[0].answer_ids[4]  # any token that the model does write serves as a stop token
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [before, stop]
    try:
        answers = generate_answers(model, tokenizer, prompts, max_new_tokens=10)
    finally:
        model.generation_config.eos_token_id = before
    for long, short in zip(free, answers, strict=True):
        end = long.answer_ids.index(stop) + 1 if stop in long.answer_ids else None
        assert short.answer_ids == long.answer_ids[:end]
        assert short.finish == ("stop" if end else long.finish)
        assert len(short.logprobs) == len(short.answer_ids)
    assert answers[0].finish == "stop"


def test_a_stop_text_ends_an_answer(loaded):
    model, tokenizer, prompts = loaded
    free = generate_answers(model, tokenizer, prompts, max_new_tokens=10)
    pieces = ((n, tokenizer.decode(token)) for n, answer in enumerate(free) for token in answer.answer_ids[1:-1])
    n, stop = next((n, piece) for n, piece in pieces if piece.isalpha())
    answers = generate_answers(model, tokenizer, prompts, max_new_tokens=10, stop=stop)
    assert answers[n].finish == "stop"
    for long, short in zip(free, answers, strict=True):
        if len(short.answer_ids) < len(long.answer_ids):
            assert short.finish == "stop"
            assert stop in tokenizer.decode(short.answer_ids)
            assert stop not in tokenizer.decode(short.answer_ids[:-1])
        assert short.answer_ids == long.answer_ids[: len(short.answer_ids)]


def test_a_stop_text_that_begins_in_the_prompt_ends_nothing(loaded):
    """And what stands behind an end is never padding."""
    model, tokenizer, prompts = loaded
    free = generate_answers(model, tokenizer, prompts, max_new_tokens=10)
    starts = [tokenizer.decode(answer.answer_ids[0]) for answer in free]
    n = next(n for n, start in enumerate(starts) if start.isalpha())
    stop = tokenizer.decode(prompts[n][-1:]) + starts[n]
    answers = generate_answers(model, tokenizer, prompts, max_new_tokens=10, stop=stop)
    assert stop not in tokenizer.decode(free[n].answer_ids)
    assert answers[n] == free[n]
    for prompt, answer in zip(prompts, answers, strict=True):
        (single,) = generate_answers(model, tokenizer, [prompt], max_new_tokens=10, stop=stop)
        assert (answer.answer_ids, answer.finish) == (single.answer_ids, single.finish)


def test_what_is_stored_is_read_again(loaded, tmp_path):
    model, tokenizer, prompts = loaded
    answers = generate_answers(model, tokenizer, prompts, max_new_tokens=10)
    (tmp_path / "a.parquet").write_bytes(write_answers(answers))
    for one, again in zip(answers, read_answers(tmp_path / "a.parquet"), strict=True):
        assert (list(again.prompt_ids), list(again.answer_ids)) == (one.prompt_ids, one.answer_ids)
        assert list(again.logprobs) == one.logprobs
        assert (again.text, again.finish) == (one.text, one.finish)
        assert again.prompt_ids.itemsize == again.logprobs.itemsize == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "bert"])
def test_answers_that_leave_the_batch_change_nothing_for_those_that_stay(name, language_model, monkeypatch):
    """Each family against its own `generate`, one prompt at a time; answers end at a token that some say early."""
    monkeypatch.setattr(answers_module, "CPU_CHUNK", 3)
    network: Any = build(name)
    tokenizer = language_model.load_tokenizer()
    rng = random.Random(name)
    prompts = [[rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(2, 12))] for _ in range(9)]
    network.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)
    alone = [
        network.generate(torch.tensor([prompt]), max_new_tokens=14, do_sample=False)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    common = Counter(token for said in alone for token in said[1:11])
    end = common.most_common(1)[0][0]
    expected = [said[: said.index(end) + 1] if end in said else said for said in alone]
    assert len({len(said) for said in expected}) > 1 or name == "mixtral"
    found = generate_answers(network, tokenizer, prompts, 14, stop_ids=[end])
    assert [list(answer.answer_ids) for answer in found] == expected
    assert [answer.finish for answer in found] == ["stop" if end in said else "length" for said in alone]
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([[*prompt, *answer.answer_ids]])
        logprobs = network(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(torch.tensor(answer.logprobs), logprobs.max(-1).values, rtol=1e-4, atol=1e-4)
