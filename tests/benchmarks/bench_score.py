"""What scores of tokens cost on top of generation.

    python -m tests.benchmarks.bench_score [FILE.gguf]

Probes as `experiment=score` has them: one cell, or three cells and the three that need no exact answer, of six layers.
The models are the embedded one, a Llama with random weights, and one from a GGUF file if it is named; on a GPU also the
shape of a 7B Llama. First single steps of a batch of 16, with and without probes in turns, which a busy machine can
measure too; the time that hooks take to be set is in them, though generation sets them once. Then whole answers, as the
answers stage writes them: 32 tokens each, and as they end; here the last tokens take a step of their own. Last, what a
second pass over the same answers would cost. Each pair gives one ratio, of the process's CPU time on a CPU and of the
clock on a GPU; the medians and the quartiles of these ratios are printed.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table

from datamodules.language.demo import build_demo_model
from datamodules.language.generation import _make_row_cache, generate_answers
from datamodules.language.language_model import LanguageModel
from datamodules.language.sites import find_blocks
from datamodules.language.token_taps import TokenTaps, read_token_scores
from datamodules.questions.sets.cities import build_city_questions
from tests.benchmarks.bench_capture import LAYERS, SEVEN, SMALL, made

BATCH, LONGEST, PAIRS, STEPS = 16, 32, 9, 60


def ask(model: Any, tokenizer: Any, prompts: list[list[int]], ends: list[int], taps: TokenTaps | None) -> Any:
    """Answers to the prompts."""
    return generate_answers(model, tokenizer, prompts, LONGEST, stop_ids=ends, taps=taps)


def draw_taps(model: Any, n: int) -> TokenTaps:
    """n random probes, each of another layer as far as there are that many."""
    width, depth = model.config.get_text_config(decoder=True).hidden_size, len(find_blocks(model))
    layers = [(depth - 1 - k) % depth for k in range(n)]
    return TokenTaps(model, "resid_post", layers, torch.randn(n, width), torch.zeros(n))


def compare(
    plain: Callable[[], object], other: Callable[[], object], clock: Callable[[], float], pairs: int
) -> list[float]:
    """Ratios of the time of `other` to that of `plain`, a pair in turns each; the first pair is not counted."""
    ratios = []
    for turn in range(pairs + 1):
        order = (plain, other) if turn % 2 else (other, plain)
        taken = {}
        for run in order:
            start = clock()
            run()
            taken[run] = clock() - start
        if turn:
            ratios.append(taken[other] / taken[plain])
    return ratios


def read_clock() -> float:
    """Seconds: of the clock on a GPU, else of the process."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@torch.inference_mode()
def measure_steps(console: Console, name: str, model: Any) -> None:
    """Print what probes add to one step of a batch."""
    ids = torch.randint(3, 1000, (BATCH, LONGEST), device=model.device)
    cache = _make_row_cache(model)
    assert cache is not None
    model(input_ids=ids, past_key_values=cache, use_cache=True)

    def step() -> None:
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    for cells in (1, 6):
        taps = draw_taps(model, cells)

        def tapped(taps: TokenTaps = taps) -> None:
            with taps:
                step()
            taps.take()

        low, middle, high = statistics.quantiles(compare(step, tapped, read_clock, STEPS), n=4)
        console.print(f"{name}, a step, {cells} probes: {middle:.3f} ({low:.3f} to {high:.3f})")


def measure(console: Console, name: str, model: Any, tokenizer: Any, prompts: list[list[int]], ends: list[int]) -> None:
    """Print the table of one model."""
    measure_steps(console, name, model)
    model.generation_config.eos_token_id = None
    table = Table(title=f"{name}, {len(prompts)} answers", title_justify="left", box=None)
    for column in ("answers", "probes", "median of the ratios", "quartiles"):
        table.add_column(column, justify="right")
    for kind, stops in ((f"{LONGEST} tokens", []), ("as they end", ends)):
        for cells in (1, 6):
            taps = draw_taps(model, cells)

            def tapped(stops: list[int] = stops, taps: TokenTaps = taps) -> None:
                with taps:
                    ask(model, tokenizer, prompts, stops, taps)
                for i, prompt in enumerate(prompts):
                    taps.collect(prompt, i)

            def plain(stops: list[int] = stops) -> None:
                ask(model, tokenizer, prompts, stops, None)

            ratios = compare(plain, tapped, read_clock, PAIRS)
            low, middle, high = statistics.quantiles(ratios, n=4)
            table.add_row(kind, str(cells), f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
    answers = ask(model, tokenizer, prompts, ends, None)
    again = TokenTaps(
        model, "resid_post", [0], draw_taps(model, 1)._weight[len(find_blocks(model)) - 1], torch.zeros(1), True
    )

    def read() -> None:
        ask(model, tokenizer, prompts, ends, None)
        with again:
            read_token_scores(again, [[*one.prompt_ids, *one.answer_ids] for one in answers])

    ratios = compare(lambda: ask(model, tokenizer, prompts, ends, None), read, read_clock, PAIRS)
    low, middle, high = statistics.quantiles(ratios, n=4)
    table.add_row("as they end", "second pass", f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
    console.print(table)


def main() -> None:
    """Print every table."""
    console = Console(width=110)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; asked for: 1.05 at most\n")
    demo = build_demo_model(prompt="<s>Q: {question}\nA:", dtype="float32")
    tokenizer, device = cast(Any, demo.load_tokenizer()), "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 61, (BATCH,), generator=generator).tolist()
    drawn = [torch.randint(3, 1900, (length,), generator=generator).tolist() for length in lengths]
    questions = [f"In which town was {name} born?" for name in ("Sukade Ning", "Mobuta Gurd", "Kemona Gint", "A")]
    asked = demo.encode(tokenizer, questions * (BATCH // len(questions)))
    measure(console, "embedded model", demo.load(device), tokenizer, asked, [tokenizer.eos_token_id])
    measure(console, "8 layers of width 256", made(SMALL, device, 8), tokenizer, drawn, list(range(100)))
    if torch.cuda.is_available():
        measure(console, "7B", made(SEVEN, device, LAYERS), tokenizer, drawn, list(range(100)))
    for path in map(Path, sys.argv[1:]):
        model = LanguageModel(gguf=str(path), chat=True)
        tokenizer: Any = model.load_tokenizer()
        prompts = model.encode(
            tokenizer,
            [
                one.text
                for one in build_city_questions(
                    question="In which country is the city of {city}?", group=None, limit=BATCH, seed=0, name="cities"
                ).load(lambda line: None)
            ],
        )
        measure(console, path.stem, model.load(device), tokenizer, prompts, model.find_stop_ids(tokenizer))


if __name__ == "__main__":
    main()
