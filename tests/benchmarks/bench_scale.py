"""Memory and time of a cache by its number of questions: 1,000 against 10,000, and the way back into a finished one.

    python -m tests.benchmarks.bench_scale [questions ...]

The embedded model answers questions about people; each figure is from a process of its own. Memory is the most that it
grows beyond what it holds once everything is imported, until the stages are done; the stream behind them has a budget
of its own. The way back is from the datamodule's construction to the first block of cells, with everything in the
cache, best of three; beside it the whole process, imports included.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from datamodules.activations import ActivationDataModule
from datamodules.labels.rules import TextRule, judge_by_gold
from datamodules.labels.spans import RuleSpans
from datamodules.language.demo import build_demo_model
from datamodules.language.demo.world import World
from datamodules.language.positions import Positions
from datamodules.questions.files import FileQuestions
from datamodules.split import GroupSplit
from tests.benchmarks.bench_capture import held

SIZES = (1000, 10_000)
PATTERN = r"(?P<exact>\w+)[.,]"
RULES = [
    {"name": "last_q", "of": "prompt", "at": "last"},
    {"name": "exact_answer_first", "of": "exact_answer", "at": "first"},
    {"name": "exact_answer_last", "of": "exact_answer", "at": "last"},
    {"name": "-1", "of": "answer", "at": -1},
]


def write_questions(path: Path, n: int) -> None:
    """n different questions about people of the embedded model's world, as a CSV file."""
    world, texts, seed = World(), dict[str, str](), 0
    while len(texts) < n:
        texts |= {question.text: question.answers[0] for question in world.fact_questions(2000, seed)}
        seed += 1
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *list(texts.items())[:n]])


def datamodule(folder: str, n: int) -> ActivationDataModule:
    """Four positions in every layer, with exact answers by a rule."""
    return ActivationDataModule(
        model=build_demo_model(prompt="<s>Q: {question}\nA:", dtype="float32", max_new_tokens=48, batch_size=64),
        dataset=FileQuestions(path=f"{folder}/{n}.csv", pattern=PATTERN),
        rule=TextRule(judge_by_gold),
        spans=RuleSpans(),
        positions=Positions(RULES),
        site="resid_post",
        split=GroupSplit(),
        cache_root=f"{folder}/cache-{n}",
    )


def only(folder: str, n: int) -> None:
    """Print, in the process that is measured: seconds to the first block and megabytes grown."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest size so far is that of now
    before, start = held("VmRSS"), time.perf_counter()
    data = datamodule(folder, n)
    data.setup()
    grown = held("VmHWM") - before
    next(iter(data.train_dataloader()))
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, grown]))


def measured(folder: str, n: int) -> tuple[float, float, float]:
    """Seconds to the first block, megabytes, and seconds of the whole process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "tests.benchmarks.bench_scale", "only", folder, str(n)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])  # behind the bars of the stages
    return seconds, megabytes, time.perf_counter() - start


def main() -> None:
    """Print the table."""
    table = Table(box=None)
    for column in ("questions", "built", "peak memory", "again, to the first block", "with imports", "peak memory"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for n in map(int, sys.argv[1:]) if len(sys.argv) > 1 else SIZES:
            write_questions(Path(folder) / f"{n}.csv", n)
            built, grown, _ = measured(folder, n)
            again, grown_again, whole = min(measured(folder, n) for _ in range(3))
            row = (
                f"{n:,}",
                f"{built:.0f} s",
                f"{grown:.0f} MB",
                f"{again:.2f} s",
                f"{whole:.1f} s",
                f"{grown_again:.0f} MB",
            )
            table.add_row(*row)
    Console(width=130).print(table)
    print("asked for: peak memory independent of the number of questions; under 3 s before the first block at 10,000")


if __name__ == "__main__":
    only(sys.argv[2], int(sys.argv[3])) if sys.argv[1:2] == ["only"] else main()
