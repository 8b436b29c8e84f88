"""On a GPU: the two stages of the language model as a run has them, cache included, with a model of 7B parameters.

    python -m tests.benchmarks.bench_gpu_stages

A Llama with random weights is saved to a folder, as a user has one, with the embedded model's tokenizer. Then 1,024
questions of about 40 tokens get answers of 48 tokens, and 15 tokens of each are read at 32 layers, into an empty cache:
four shards of about 1 GB each. The forward alone is the same batches without the cache. The table goes to
docs/benchmarks.md too. Without a GPU it says so and ends; `--small` runs it in miniature on whatever there is and
writes nothing.
"""

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from datamodules.language.capture import capture
from datamodules.language.demo import build_demo_model
from datamodules.language.language_model import LanguageModel
from datamodules.language.stages import LanguageModelStages
from datamodules.questions.question import QuestionSet
from tests.benchmarks.bench_capture import LAYERS, POSITIONS, SEVEN, SMALL, Sizes, made
from tests.benchmarks.gpu_page import write_table

LONGEST = 48  # tokens of an answer


@contextmanager
def clocked(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Write down how long a block of code took, the device's work included."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds[what] = time.perf_counter() - start


def measure(
    console: Console, sizes: Sizes, layers: int, n: int, device: torch.device
) -> tuple[list[str], list[list[str]], str]:
    """Print the table of one model; returns its columns, its rows and the line below."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, root = Path(name) / "model", str(Path(name) / "cache")
        made(sizes, device.type, layers).save_pretrained(folder)
        build_demo_model(prompt="{question}").load_tokenizer().save_pretrained(folder)
        model = LanguageModel(str(folder), prompt="{question}", max_new_tokens=LONGEST)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        questions = QuestionSet()
        questions.name = "random"
        rng, ids = random.Random(0), [str(i) for i in range(n)]
        prompts = [[rng.randrange(3, 400) for _ in range(rng.randint(30, 50))] for _ in ids]
        with LanguageModelStages(model, questions, root, device) as stages:
            with clocked(seconds, "loading"):
                network = stages.running.network
            with clocked(seconds, "answers"):
                answers = stages.answer(ids, prompts)
            lengths = [len(one.prompt_ids) + len(one.answer_ids) for one in answers]
            at = torch.tensor(lengths)[:, None] - POSITIONS + torch.arange(POSITIONS)
            tokens, names = at[..., None].repeat(1, 1, 2), [str(t) for t in range(POSITIONS)]
            valid = torch.ones(n, POSITIONS, dtype=torch.bool)
            with clocked(seconds, "activations"):
                stages.capture(ids, answers, names, tokens, valid, ["resid_post"], range(layers))
            sequences = [[*one.prompt_ids, *one.answer_ids] for one in answers]
            with clocked(seconds, "their forward alone"):
                for start in range(0, n, model.batch_size):
                    some = slice(start, start + model.batch_size)
                    capture(network, sequences[some], tokens[some], ["resid_post"], range(layers))
            with clocked(seconds, "activations again, from the cache"):
                stages.capture(ids, answers, names, tokens, valid, ["resid_post"], range(layers))
        n_bytes = sum(path.stat().st_size for path in Path(root).rglob("*.safetensors"))
    foot, columns = f"{n} questions, {n_bytes / 1e9:.2f} GB of activations", ["stage", "time", "each second"]
    table, rows = Table(title=foot, title_justify="left", box=None), []
    for column in columns:
        table.add_column(column, justify="left" if column == "stage" else "right")
    written = sum(len(one.answer_ids) for one in answers)
    for what, taken in seconds.items():
        rate = {"loading": "", "answers": f"{written / taken:,.0f} tokens"}.get(what, f"{n / taken:,.0f} examples")
        rows.append([what, f"{taken:.2f} s", rate])
        table.add_row(*rows[-1])
    console.print(table)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
        foot += f"; peak device memory from the last batch of answers on {peak:.1f} GiB"
        console.print(foot)
    return columns, rows, foot + "."


def main() -> None:
    """Print the table, or why there is none."""
    console = Console(width=140)
    if "--small" in sys.argv:
        measure(console, SMALL, 2, 40, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    elif torch.cuda.is_available():
        console.print(torch.cuda.get_device_name())
        write_table("bench_gpu_stages", *measure(console, SEVEN, LAYERS, 1024, torch.device("cuda")))
    else:
        console.print("no GPU here: nothing measured on one")


if __name__ == "__main__":
    main()
