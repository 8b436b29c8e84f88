"""Greedy answers in batches against one question at a time, and against transformers' continuous batching.

    python -m tests.benchmarks.bench_generation

A Llama with random weights answers questions of 20 to 60 tokens: on a CPU 8 layers of width 256, on a GPU also the
shape of a 7B Llama. One at a time is what the study's code does. Continuous batching puts the next question where an
answer has ended, so answers are timed that all have 48 tokens, and answers that stop tokens end after 1 to 48. Large
embeddings make the model write many different tokens, of which some can serve as stop tokens. Ways are
timed in turns, after one round that is not counted; times are medians.
"""

import random
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from datamodules.language.batches import Batches
from datamodules.language.demo import build_demo_model
from datamodules.language.generation import generate_answers
from tests.benchmarks.bench_capture import LAYERS, SEVEN, SMALL, Sizes, made, timed

QUESTIONS, LONGEST, BATCH = 64, 48, 32
TOKENIZER = build_demo_model(prompt="{question}").load_tokenizer()  # only shows the text of the answers
Ids = list[Sequence[int]]


def in_batches(model: PreTrainedModel, asked: Ids, ends: Sequence[int], size: int) -> Ids:
    """Answers up to a token of `ends` as the answers stage makes them, in batches of similar questions."""
    told: dict[int, Sequence[int]] = {}
    for batch, answers in Batches(size).run(
        range(len(asked)),
        [len(ids) for ids in asked],
        lambda batch: generate_answers(model, TOKENIZER, [list(asked[i]) for i in batch], LONGEST, stop_ids=ends),
    ):
        told |= {i: list(answer.answer_ids) for i, answer in zip(batch, answers, strict=True)}
    return [told[i] for i in range(len(asked))]


def continuously(model: PreTrainedModel, asked: Ids, ends: Sequence[int]) -> Ids:
    """Answers up to a token of `ends` by continuous batching, with their log-probabilities as the answers stage."""
    stop: int | list[int] = list(ends) or -1
    told: dict[str, Sequence[int]] = {}
    with model.continuous_batching_context_manager(  # type: ignore[operator]
        generation_config=GenerationConfig(do_sample=False, max_new_tokens=LONGEST, eos_token_id=stop, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(return_logprobs=True, max_requests_per_batch=BATCH),
    ) as manager:
        names = [manager.add_request(ids, max_new_tokens=LONGEST) for ids in asked]
        while len(told) < len(asked):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                told[result.request_id] = list(result.generated_tokens)
    return [told[name] for name in names]


def measure(console: Console, sizes: Sizes, layers: int, device: str, repeats: int) -> None:
    """Print the table of one model."""
    model, rng = made(sizes, device, layers), random.Random(0)
    model.generation_config.eos_token_id = None  # type: ignore[union-attr]
    model.get_input_embeddings().weight.mul_(50)  # type: ignore[union-attr]
    asked: Ids = [[rng.randrange(3, 32000) for _ in range(rng.randint(20, 60))] for _ in range(QUESTIONS)]
    table = Table(
        title=f"{device}, {layers} layers of width {sizes['hidden_size']}, {QUESTIONS} answers",
        title_justify="left",
        box=None,
    )
    for column in ("answers of", "way", "time", "times faster than one at a time", "the same ids"):
        table.add_column(column, justify="left" if column in ("answers of", "way") else "right")
    whole = in_batches(model, asked, (), BATCH)
    stops = sorted({ids[rng.randrange(LONGEST)] for ids in whole})
    for kind, ends in ((f"{LONGEST} tokens", ()), (f"1 to {LONGEST} tokens", stops)):
        ways: dict[str, Callable[[], Ids]] = {
            "one at a time": lambda ends=ends: in_batches(model, asked, ends, 1),
            f"batches of {BATCH}": lambda ends=ends: in_batches(model, asked, ends, BATCH),
            f"continuous, {BATCH} at once": lambda ends=ends: continuously(model, asked, ends),
        }
        said, taken = {way: run() for way, run in ways.items()}, timed(ways, repeats)
        for way, seconds in taken.items():
            same = sum(one == other for one, other in zip(said[way], said["one at a time"], strict=True))
            table.add_row(
                kind, way, f"{seconds:.2f} s", f"{taken['one at a time'] / seconds:.2f}", f"{same} of {QUESTIONS}"
            )
    console.print(table)
    console.print("asked for: 5 times on a CPU\n")


def main() -> None:
    """Print every table."""
    console = Console(width=130)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    measure(console, SMALL, 8, "cpu", 2)
    if torch.cuda.is_available():
        measure(console, SMALL, 8, "cuda", 3)
        measure(console, SEVEN, LAYERS, "cuda", 3)


if __name__ == "__main__":
    main()
