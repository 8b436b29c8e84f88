"""Generation and capture on a real model, SmolLM2-135M-Instruct: against one question at a time, and a bare forward."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from datamodules.language.capture import capture
from datamodules.language.generation import generate_answers
from datamodules.language.language_model import LanguageModel
from datamodules.language.sites import get_decoder
from datamodules.language.smollm2 import fetch
from datamodules.questions.sets.cities import build_city_questions

N, BATCH, TOKENS, ROUNDS = 64, 64, 60, 3


def main() -> None:
    """Print the tables, of one CPU thread and bfloat16."""
    torch.set_num_threads(1)
    path = fetch(Path("cache/models"))
    model = LanguageModel(gguf=str(path), chat=True)
    tokenizer, network = model.load_tokenizer(), model.load("cpu")
    asked = build_city_questions(question="In which country is the city of {city}?", limit=N, name="cities")
    prompts = model.encode(tokenizer, [question.text for question in asked.load(lambda line: None)])
    ends = model.find_stop_ids(tokenizer)

    def answer(size: int) -> list:
        parts = [prompts[i : i + size] for i in range(0, N, size)]
        return [one for part in parts for one in generate_answers(network, tokenizer, part, TOKENS, None, ends)]

    single, alone = _time(lambda: answer(1))
    batched, answers = _time(lambda: answer(BATCH))
    same = sum(list(a.answer_ids) == list(b.answer_ids) for a, b in zip(alone, answers, strict=True))
    print(f"| generation of {N} answers | one at a time | batches of {BATCH} | times faster | the same ids |")
    print("|---|---|---|---|---|")
    print(f"| cities | {single:.1f} s | {batched:.1f} s | {single / batched:.1f} | {same} of {N} |\n")

    sequences = [[*one.prompt_ids, *one.answer_ids] for one in answers]
    last = torch.tensor([len(ids) - 1 for ids in sequences])
    tokens = torch.stack([last - t for t in range(15)], 1)[..., None].expand(-1, -1, 2)
    width = max(map(len, sequences))
    ids = torch.tensor([[*one, *[0] * (width - len(one))] for one in sequences])
    mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in sequences])
    language = get_decoder(network)

    @torch.inference_mode()
    def bare() -> None:
        language(input_ids=ids, attention_mask=mask, use_cache=False)

    rounds = [
        (_time(bare)[0], _time(lambda: capture(network, sequences, tokens, ["resid_post"], range(30)))[0])
        for _ in range(ROUNDS)
    ]
    forward, captured = (min(times) for times in zip(*rounds, strict=True))
    print(f"| {N} sequences, 30 layers, 15 positions | bare forward | capture | ratio |")
    print("|---|---|---|---|")
    print(f"| `resid_post` | {forward:.2f} s | {captured:.2f} s | {captured / forward:.3f} |")


def _time(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
