"""Builds a small cache in processes of its own, which can be killed at chosen moments.

`python -m tests.support.accidents build MODEL QUESTIONS ROOT...` builds one in each folder.
`python -m tests.support.accidents kill MODEL QUESTIONS FOLDER N` builds one
undisturbed and counts its steps on files; then, N times, starts anew, is killed before a step, and goes on.
"""

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from datamodules.activations import ActivationDataModule
from datamodules.labels.rules import TextRule, judge_by_gold
from datamodules.labels.spans import RuleSpans
from datamodules.language.cache import shards
from datamodules.language.language_model import LanguageModel
from datamodules.language.positions import Positions, Rule
from datamodules.questions.files import FileQuestions
from datamodules.split import GroupSplit

STEPS = ("open", "os.rename", "os.mkdir", "os.link", "os.remove", "fcntl.flock")


def build(model: str, questions: str, root: str) -> None:
    """Make the cache of 80 questions in five shards each of answers and activations."""
    torch.set_num_threads(1)
    shards.SHARD = 16
    ActivationDataModule(
        model=LanguageModel(model, prompt="Q: {question}\nA:", dtype="float32", max_new_tokens=6, batch_size=16),
        dataset=FileQuestions(path=questions, pattern=r"\w+", limit=80),
        rule=TextRule(judge_by_gold),
        spans=RuleSpans(),
        positions=Positions([Rule("last_q", "prompt", -1), Rule("-1", "answer", -1)]),
        site="resid_post",
        split=GroupSplit(),
        cache_root=root,
    ).setup()


def forked(root: str, work: Callable[[], None], on_step: Callable[[str], None]) -> int:
    """Run in a child that calls `on_step` before each of its steps on files of the cache; returns its wait status."""
    child = os.fork()
    if child == 0:

        def hook(event: str, args: tuple) -> None:
            if event in STEPS and (event == "fcntl.flock" or str(args[0]).startswith(root)):
                on_step(event)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def tree(root: str | Path) -> dict[str, bytes]:
    """Every file of a cache but those of this machine."""
    paths = (path for path in Path(root).rglob("*") if path.is_file() and ".local" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def records(root: str | Path) -> dict[str, int]:
    """Records of finished shards, with when they were written."""
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in Path(root).rglob("shard-*.json")}


def kill(model: str, questions: str, folder: str, n: int) -> list[dict]:
    """What became of each of N runs that were killed, spread evenly over the steps of one."""
    alone, log = f"{folder}/alone", Path(folder) / "steps"
    with log.open("w") as steps:
        status = forked(alone, lambda: build(model, questions, alone), lambda event: count(steps.fileno()))
    assert status == 0
    total = log.stat().st_size
    told = []
    for k in range(n):
        root, moment = f"{folder}/killed-{k}", round((k + 0.5) * total / n)
        numbers = itertools.count(1)  # of two threads, so each has to have a number of its own

        def at_its_moment(event: str, moment: int = moment, numbers: Iterator[int] = numbers) -> None:
            if next(numbers) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        status = forked(root, lambda root=root: build(model, questions, root), at_its_moment)
        before, half = records(root), tree(root)
        recorded = {name for path in before for name in json.loads((Path(root) / path).read_bytes())}
        status_after = forked(root, lambda root=root: build(model, questions, root), lambda event: None)
        after = records(root)
        told.append(
            {
                "moment": moment,
                "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
                "finished": len(before),
                "unrecorded": sorted(
                    {name.split("/", 2)[2] for name in half if "safetensors" in name or "parquet" in name} - recorded
                ),
                "went_on": status_after == 0,
                "remade": [path for path in before if after[path] != before[path]],
                "same": tree(root) == tree(alone),
            }
        )
    return [{"steps": total}, *told]


def count(file: int) -> None:
    """Write down one step, so that the parent sees it."""
    os.write(file, b"x")


def main(what: str, model: str, questions: str, *rest: str) -> None:
    """Do what the command line says."""
    if what == "kill":
        folder, n = rest
        print(json.dumps(kill(model, questions, folder, int(n))))
        return
    for root in rest:
        build(model, questions, root)
        print(f"built {root}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
