"""Progress of a long stage: an estimate before it starts, then a bar with the time left."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
)
from rich.text import Text

from datamodules.stream.out_of_memory import pass_over_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

TRUST_SECONDS = 1.0  # in which the estimate given beforehand fades
RECENT_SECONDS, RECENT_BATCHES = 15.0, 8  # work this long ago counts half; the longer of the two. A shard has 8 batches
OPERATIONS = 60  # small operations in one block of a transformer: norms, rotations, masks, and Python between them


class TimeLeft:
    """Estimates the seconds left in a stage: first from an estimate, then from the measured speed, mainly the recent.

    Args:
        total: work of the stage, in any unit, such as tokens.
        expected: estimated seconds.
        clock: gives the time in seconds.

    Example:
        >>> now = 0.0
        >>> left = TimeLeft(total=100, expected=60, clock=lambda: now)
        >>> now = 20.0
        >>> left.advance(10)
        >>> round(left.estimate())
        180
    """

    def __init__(self, total: float, expected: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.batches = total, 0.0, 0
        self._announced = max(expected, 1.0) / max(total, 1e-9)  # seconds a unit of work, as last said
        self._guess, self._clock = self._announced, clock
        self._start = self._last = clock()
        self._work = self._time = 0.0  # done lately, and how long it took

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @property
    def pace(self) -> float:
        """Seconds a unit of work takes now."""
        if not self._work:
            return self._guess
        trust = 1 - math.exp((self._start - self._last) / TRUST_SECONDS)
        return (1 - trust) * self._guess + trust * self._time / self._work

    def advance(self, work: float) -> None:
        """Count work that has just been done."""
        now = self._clock()
        took, self._last = now - self._last, now
        if self.batches == 1:  # the first batch also loads kernels and fills caches: it counts until there is a second
            self._work = self._time = 0.0
        kept = 0.5 ** min(took / RECENT_SECONDS, 1 / RECENT_BATCHES)
        self._work, self._time = kept * self._work + work, kept * self._time + took
        self.done, self.batches = self.done + work, self.batches + 1

    def estimate(self) -> float:
        """Return the seconds left. They count down between batches, and up in a batch that takes far longer."""
        rest = max(0.0, self.total - self.done) * self.pace
        waited = self._clock() - self._last
        return max(rest - waited, waited / 4) if rest else 0.0

    def check_change(self) -> tuple[float, float] | None:
        """Return the seconds left, now and as last reported, if they differ enough to report; else None.

        They differ if the stage takes more than twice or less than half as long, by at least half a minute, and enough
        is measured: two batches and 5 s, or one of 30 s. The returned value counts as reported.
        """
        if self.elapsed < 5 or not self.batches or (self.batches < 2 and self.elapsed < 30):
            return None
        rest = max(0.0, self.total - self.done)
        left, said = self.estimate(), rest * self._announced
        whole, whole_said = self.elapsed + left, self.total * self._announced
        if abs(left - said) < 30 or 1 / 2 <= whole / whole_said <= 2:
            return None
        self._announced = whole / self.total
        return left, said


class TimeLeftColumn(ProgressColumn):
    """The time left of a task whose field `left` is a `TimeLeft`, or the time that it took."""

    def render(self, task: Task) -> Text:
        """Words such as `12 min left`."""
        left: TimeLeft = task.fields["left"]
        words = (
            f"in {format_duration(task.elapsed or 0)}" if task.finished else f"{format_duration(left.estimate())} left"
        )
        return Text(words, style="progress.remaining")


@contextmanager
def show_bar(
    stage: str, total: int, quiet: bool, expected: float, work: float | None = None
) -> Iterator[Callable[[int, float], None]]:
    """Show a bar of a stage, and log if it takes much longer or shorter than estimated.

    Args:
        stage: its name.
        total: number of examples.
        quiet: show and log nothing.
        expected: seconds that the stage was estimated to take.
        work: what all examples together cost, in any unit such as tokens.

    Yields:
        a function to call with the number of examples just done and their work.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(text_format="{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeLeftColumn(),
    )
    left = TimeLeft(total if work is None else work, expected)
    with Progress(*columns, disable=quiet) as progress:
        task = progress.add_task(stage, total=total, rate="", left=left)
        done = 0

        def advance(n: int, cost: float) -> None:
            nonlocal done
            done += n
            left.advance(cost)
            progress.update(task, advance=n, rate=format_rate(done / max(left.elapsed, 1e-3)))
            changed = None if quiet else left.check_change()
            if changed:
                way = "slower" if changed[0] > changed[1] else "faster"
                log.info(
                    f"{stage}: going {way} than estimated: {done:,} of {total:,} done, "
                    f"about {format_duration(changed[0])} left instead of {format_duration(changed[1])}"
                )

        yield advance


class Speed:
    """Estimates how long forward passes take, from timed matrix products with the shape of the model.

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

    def estimate(self, tokens: int, batch: int, steps: int = 1) -> float:
        """Seconds of `steps` passes one after the other, each of `tokens` tokens of a batch at once.

        It assumes that every token uses every weight, which is too high for a mixture of experts.
        """
        rows, product = max(1, min(tokens, 2048)), None
        while product is None and rows:  # the weights may leave no room for a large product
            with pass_over_out_of_memory():
                product = self._time(rows)
            rows = rows if product else rows // 2
        plain = self._time(0)
        each = self.weights / (4 * self.width**2) * product * tokens / rows if product else 0.0
        return steps * (each + self.depth * OPERATIONS * plain)

    def estimate_batches(self, examples: int, size: int, tokens: int, steps: int = 0) -> float:
        """Seconds for examples in batches of at most `size`: `tokens` of each read at once, then `steps` one by one."""
        batch = min(examples, size)
        written = self.estimate(batch, batch, steps) if steps else 0
        return math.ceil(examples / batch) * (self.estimate(batch * tokens, batch) + written)

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


def format_duration(seconds: float) -> str:
    """Write seconds in words, to be read at a glance.

    >>> format_duration(40), format_duration(150), format_duration(86400)
    ('40 s', '2.5 min', '24 h')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{max(1, seconds):.0f} s"


def format_rate(each_second: float) -> str:
    """Write examples a second in words, or a minute where these are few.

    >>> format_rate(12), format_rate(0.5)
    ('12/s', '30/min')
    """
    return f"{each_second:.0f}/s" if each_second >= 1 else f"{60 * each_second:.0f}/min"


def format_size(n: float) -> str:
    """Write bytes in words, to be read at a glance.

    >>> format_size(2_500_000), format_size(10)
    ('2 MB', '10 B')
    """
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"
