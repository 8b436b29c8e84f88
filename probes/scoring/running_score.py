"""The running score while `model.generate` of transformers writes, and a stop where it falls too low."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from probes.scoring.ensemble import Ensemble


class RunningScore:
    """Scores the newest token of each row in each step; use in a `with` block around `generate`.

    It hooks into the model of the scorer, `scorer.network`. Batches are padded on the left, as `generate` has them.
    Greedy search and sampling keep their rows in place, so their scores are whole; beams do not.

    Args:
        tap: gives the hooks on the model: entered, their `take()` returns [B, S, C] of the tokens since the last call.
        ensemble: which score.
        columns: of the hooks' C probes, those of its cells.
        ends: tokens that end an answer: padding follows, which has no score.
        stop_below: end an answer where the probability of being right falls below; None: never.
        at_least: tokens of an answer that are written before it may end so.
        on_token: called in each step with the probabilities [B]; NaN for rows that have ended.

    Example:
        >>> with scorer.hook(stop_below=0.1) as running:  # doctest: +SKIP
        ...     ids = scorer.network.generate(**inputs, **running.arguments, max_new_tokens=50)
        >>> running.probabilities[0]  # of the first row, from the end of its prompt on  # doctest: +SKIP
        tensor([0.61, 0.64, 0.58])
    """

    def __init__(
        self,
        tap: Callable[[], Any],
        ensemble: Ensemble,
        columns: Sequence[int],
        ends: Collection[int],
        stop_below: float | None,
        at_least: int,
        on_token: Callable[[Tensor], object] | None,
    ) -> None:
        number = isinstance(stop_below, int | float) and not isinstance(stop_below, bool)
        if stop_below is not None and not (number and 0 <= stop_below <= 1):
            raise ValueError(f"stop_below: expected a probability from 0 to 1, or None, got {stop_below!r}")
        if type(at_least) is not int or at_least < 1:
            raise ValueError(f"at_least: expected a whole number above 0, got {at_least!r}")
        if on_token is not None and not callable(on_token):
            raise ValueError(f"on_token: expected a function of probabilities, or None, got {on_token!r}")
        self.ensemble, self.stop_below, self.at_least, self.on_token = ensemble, stop_below, at_least, on_token
        self._tap, self._columns, self._ends = tap, list(columns), torch.tensor(sorted(ends), dtype=torch.long)
        self._taps: Any = None  # inside the `with` block
        self._reader: _Reader | None = None  # of the call of generate
        self._width = 0  # tokens that it had at the newest step
        self._steps: list[Tensor] = []
        self._over: Tensor | None = None  # [B] rows that have ended
        self._stopped: Tensor | None = None  # [B] those that ended for their score

    def __enter__(self) -> "RunningScore":
        self._steps, self._over, self._stopped, self._reader = [], None, None, None
        taps = self._tap()
        taps.__enter__()
        self._taps = taps
        return self

    def __exit__(self, *error: Any) -> None:
        taps, self._taps = self._taps, None
        taps.__exit__(*error)

    @property
    def arguments(self) -> dict[str, Any]:
        """What `generate` gets: a logits processor, which leaves the logits as they are, and a stopping criterion.

        Raises:
            ValueError: outside the `with` block.
        """
        self._require_entered()
        return {
            "logits_processor": LogitsProcessorList([_Reader(self)]),
            "stopping_criteria": StoppingCriteriaList([_Stopper(self)]),
        }

    @property
    def scores(self) -> Tensor:
        """[B, S] float32: the last token of the prompt, and every token that was read since; NaN behind an end.

        The last token of an answer is never read while it is written.

        Raises:
            ValueError: nothing was generated.
        """
        if not self._steps:
            raise ValueError("hook: expected a call of generate with hook.arguments, got none; see RunningScore")
        return torch.stack(self._steps, 1).cpu()

    @property
    def probabilities(self) -> Tensor:
        """[B, S] of being right, by the calibration of the cell's own position."""
        return self.ensemble.calibration.probability(self.scores)

    @property
    def stopped(self) -> Tensor:
        """[B] bool, rows that ended because their probability fell below `stop_below`."""
        if self._stopped is None:
            return torch.zeros(len(self.scores), dtype=torch.bool)
        return self._stopped.cpu()

    def read(self, input_ids: Tensor, reader: "_Reader") -> None:
        """Take the scores of the newest tokens.

        Args:
            input_ids: [B, S], all tokens so far.
            reader: who calls; another one belongs to another call of `generate`.

        Raises:
            ValueError: outside the `with` block, or in a second call of `generate`.
        """
        self._require_entered()
        width = input_ids.shape[1]
        if self._reader is None:
            self._reader = reader
        elif reader is not self._reader or width != self._width + 1:
            raise ValueError("hook: expected one call of generate in a with block, got another; open one for each call")
        self._width = width
        scores = self.ensemble.combine(self._taps.take()[:, -1, self._columns])
        if self._over is None:
            self._over = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        self._steps.append(scores.masked_fill(self._over, torch.nan))
        if len(self._steps) > 1:  # the first is of the prompt
            newest = input_ids[:, -1].to(scores.device)
            self._over = self._over | torch.isin(newest, self._ends.to(scores.device))
        if self.on_token is not None:
            self.on_token(self.ensemble.calibration.probability(self._steps[-1]).cpu())

    def stop(self, input_ids: Tensor) -> Tensor:
        """Which rows end here, [B] bool."""
        low = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        if self.stop_below is not None and len(self._steps) > self.at_least:
            assert self._over is not None  # set by the first step
            low = (self.ensemble.calibration.probability(self._steps[-1]) < self.stop_below) & ~self._over
            self._over = self._over | low
            low = low.to(input_ids.device)
        self._stopped = low if self._stopped is None else self._stopped | low
        return self._stopped

    def _require_entered(self) -> None:
        if self._taps is None:
            raise ValueError("hook: expected a call inside its with block, got one outside; see RunningScore")


class _Reader(LogitsProcessor):
    def __init__(self, running: RunningScore) -> None:
        self.running = running

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.running.read(input_ids, self)
        return scores


class _Stopper(StoppingCriteria):
    def __init__(self, running: RunningScore) -> None:
        self.running = running

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        return self.running.stop(input_ids)
