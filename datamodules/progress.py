"""What a person sees of a long stage: a bar, and beforehand how long it will take."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from transformers import PreTrainedModel

OPERATIONS = 60  # small operations in one block of a transformer: norms, rotations, masks, and Python between them


@contextmanager
def bar(stage: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar of `total` examples; yields what to call with the number of those done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True, text_format="{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=quiet) as progress:
        task = progress.add_task(stage, total=total, rate="")

        def advance(n: int) -> None:
            progress.advance(task, n)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:.0f}/s" if speed else "")

        yield advance


class Speed:
    """Estimates how long forward passes will take, from products of the model's own shape that are timed first.

    Args:
        model: whose passes are estimated; none is run.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config(decoder=True)
        self.model, self.width, self.depth = model, config.hidden_size, config.num_hidden_layers
        embeddings = sum(
            p.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()
        )
        self.weights = sum(p.numel() for p in model.parameters()) - embeddings

    def seconds(self, tokens: int, batch: int, steps: int = 1) -> float:
        """Seconds of `steps` passes one after the other, each of `tokens` tokens of a batch at once.

        Every weight is taken to be used for every token, which is too much for a mixture of experts.
        """
        rows = max(1, min(tokens, 2048))
        product, plain = self._time(rows), self._time(0)
        each = self.weights / (4 * self.width**2) * product * tokens / rows
        return steps * (each + self.depth * OPERATIONS * plain)

    def of_batches(self, examples: int, size: int, tokens: int, steps: int = 0) -> float:
        """Seconds for examples in batches of at most `size`: `tokens` of each read at once, then `steps` one by one."""
        batch = min(examples, size)
        written = self.seconds(batch, batch, steps) if steps else 0
        return math.ceil(examples / batch) * (self.seconds(batch * tokens, batch) + written)

    def _time(self, rows: int) -> float:
        """Seconds of a product [rows, D] [D, 4 D], the median of five; without rows, of adding 1 to one number."""
        kind = {"device": self.model.device, "dtype": self.model.dtype}
        left, right = torch.ones(rows, self.width, **kind), torch.ones(self.width, 4 * self.width, **kind)
        one, times = torch.ones(1, **kind), []
        for _ in range(5):
            start = time.perf_counter()
            result = left @ right if rows else one + 1
            result.sum().item() if rows else result.item()  # waits for the device
            times.append(time.perf_counter() - start)
        return sorted(times)[2]


def duration(seconds: float) -> str:
    """Seconds in words, to be read at a glance."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{max(1, seconds):.0f} s"


def size(n: float) -> str:
    """Bytes in words, to be read at a glance."""
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"
