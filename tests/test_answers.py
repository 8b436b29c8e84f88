import pytest
import torch

from datamodules.answers import generate_answers, read, stored

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
    (tmp_path / "a.parquet").write_bytes(stored(answers))
    for one, again in zip(answers, read(tmp_path / "a.parquet"), strict=True):
        assert (list(again.prompt_ids), list(again.answer_ids)) == (one.prompt_ids, one.answer_ids)
        assert list(again.logprobs) == one.logprobs
        assert (again.text, again.finish) == (one.text, one.finish)
        assert again.prompt_ids.itemsize == again.logprobs.itemsize == 4  # type: ignore[attr-defined]
