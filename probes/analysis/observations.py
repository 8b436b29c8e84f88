"""Says in sentences what a map shows, each sentence with the numbers that it states. Pure functions of the map.

The observations, in this order, each left out where the map lacks its positions:

- ``block``: the dominant block, its share of the map and its mean; or by how much no block stands out.
- ``gradient``: how AUC falls per layer above and below the block, and per token to its left and right.
- ``question``: the question's end and the first tokens of the answer against the other columns.
- ``trailing``: the tokens counted from the end of the answer.
- ``last_layer``: columns that the last layer alone reads.
- ``chance``: cells that equal chance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes.analysis.auc_map import AUCMap
from probes.analysis.block import Block, find_block, find_darkest, median_spread, required_lead, split_columns
from probes.analysis.wording import digits, join_names, name_layers, name_positions, shorten_names

EARLY = ("last_q", "first_answer", "second_answer")
CLEAR = 2.0  # spreads of a cell that count as a difference
SPREADS = {"SE": "standard error", "SD": "standard deviation"}


@dataclass(frozen=True)
class _View:
    """A map with what several observations need; AUC is NaN in unreadable cells."""

    map: AUCMap
    auc: Tensor
    block: Block | None
    chance: float | None
    spread: float | None
    rank: Tensor  # chooses the best layer of a column: validation AUC where there is one, NaN likewise

    def best_row(self, column: int) -> int:
        """Row of the best cell of a column, which has one."""
        return int(self.rank[:, column].nan_to_num(-1.0).argmax())

    def means(self) -> dict[str, float]:
        """Mean AUC of each column that can be read, by name."""
        means = zip(self.map.positions, self.auc.nanmean(0).tolist(), strict=True)
        return {name: mean for name, mean in means if mean == mean}


def observe(
    auc_map: AUCMap, chance: float | None = None, spread: float | None = None, val: AUCMap | None = None
) -> list[dict[str, Any]]:
    """Say what a map shows.

    Args:
        auc_map: the map, ``[L, T]``.
        chance: AUC that the best cell of a map without signal stays below (in 95% of such maps), if known.
        spread: see `find_block`.
        val: the validation map of the same probes, which chooses the best layer of a column.

    Returns:
        Observations, JSON-ready: name, sentence, and numbers, a dict with every number of the sentence. Empty where no
        cell can be read.

    Example:
        >>> auc, n = torch.tensor([[0.5, 0.5], [0.5, 0.9]]), torch.full((2, 2), 40)
        >>> shown = observe(AUCMap("correctness", "test", (0, 4), ("a", "b"), auc, auc / 20, n, n // 2))
        >>> shown[0]["sentence"]
        'The dominant block is layer 4 at b: 25% of the readable cells, mean AUC .900 against .500 elsewhere.'
    """
    readable = auc_map.readable()
    if not readable.any():
        return []
    auc = torch.where(readable, auc_map.auc.double(), torch.nan)
    rank = auc
    if val is not None:  # columns that validation rows cannot rank are ranked by the map itself
        own = torch.where(readable & val.readable(), val.auc.double(), torch.nan)
        rank = torch.where(own.isfinite().any(0), own, auc)
    view = _View(auc_map, auc, find_block(auc_map, chance, spread), chance, spread, rank)
    observers: Sequence[Callable[[_View], tuple[str, dict[str, Any]] | None]] = (
        _observe_block,
        _observe_gradient,
        _observe_question,
        _observe_trailing,
        _observe_last_layer,
        _observe_chance,
    )
    found = [(observer.__name__.removeprefix("_observe_"), observer(view)) for observer in observers]
    return [{"name": name, "sentence": one[0], "numbers": one[1]} for name, one in found if one is not None]


def _observe_block(view: _View) -> tuple[str, dict[str, Any]]:
    block, one = view.block, view.map
    if block is None:
        return _observe_no_block(view)
    layers = one.layers[block.top], one.layers[block.bottom]
    positions = one.positions[block.left], one.positions[block.right]
    sentence = (
        f"The dominant block is {name_layers(*layers)} at {name_positions(*positions)}: {block.share:.0%} of the "
        f"readable cells, mean AUC {digits(block.mean_inside)} against {digits(block.mean_outside)} elsewhere."
    )
    return sentence, {
        "layers": list(layers),
        "positions": list(positions),
        "share": block.share,
        "mean_inside": block.mean_inside,
        "mean_outside": block.mean_outside,
    }


def _observe_no_block(view: _View) -> tuple[str, dict[str, Any]]:
    one, known = view.map, view.auc[view.auc.isfinite()]
    numbers: dict[str, Any] = {"mean": float(known.mean()), "best": float(known.max()), "chance": view.chance}
    sentence = f"No block stands out: the mean AUC is {digits(numbers['mean'])}, the highest {digits(numbers['best'])}"
    if view.chance is not None and numbers["best"] <= view.chance:
        return f"{sentence}, and noise alone reaches {digits(view.chance)}.", numbers
    darkest = find_darkest(one, view.chance)
    spread = median_spread(one) if view.spread is None else view.spread
    if darkest is None or spread is None:
        return f"{sentence}.", numbers
    lead, needed = darkest.mean_inside - darkest.mean_outside, required_lead(darkest.share)
    numbers |= {"lead": lead, "spread": spread, "spreads_needed": needed}
    unit = SPREADS[one.spread]
    return (
        f"{sentence}, and the darkest rectangle is on average {digits(lead)} above the rest, less than {needed:.1f} "
        f"{unit}s of a cell ({digits(needed * spread)})."
    ), numbers


def _observe_gradient(view: _View) -> tuple[str, dict[str, Any]] | None:
    block, one = view.block, view.map
    if block is None:
        return None
    by_layer = view.auc[:, block.left : block.right + 1].nanmean(1)
    by_token = view.auc[block.top : block.bottom + 1].nanmean(0)
    layers = torch.tensor(one.layers, dtype=torch.float64)
    run = next(run for run in split_columns(one.positions) if block.left in run and block.right in run)
    tokens = torch.arange(len(by_token), dtype=torch.float64)
    first, last = one.layers[0], one.layers[-1]
    sides = {
        "above": (by_layer[: block.top + 1], -layers[: block.top + 1], f"per layer up to layer {first}"),
        "below": (by_layer[block.bottom :], layers[block.bottom :], f"per layer down to layer {last}"),
        "left": (
            by_token[run.start : block.left + 1],
            -tokens[run.start : block.left + 1],
            f"per token to the left (to {one.positions[run.start]})",
        ),
        "right": (
            by_token[block.right : run.stop],
            tokens[block.right : run.stop],
            f"per token to the right (to {one.positions[run.stop - 1]})",
        ),
    }
    falls = {side: _fall(auc, place) for side, (auc, place, _) in sides.items()}
    parts, verb = [], ""
    for side, fall in falls.items():
        if fall is not None:
            before, verb = verb, "falls" if fall >= 0 else "rises"
            parts.append(f"{'' if verb == before else verb + ' '}by {digits(abs(fall))} {sides[side][2]}")
    if not parts:
        return None
    return f"Away from the block AUC {join_names(parts)}.", falls


def _fall(auc: Tensor, place: Tensor) -> float | None:
    """How much AUC falls per unit of place, by least squares; None with fewer than two known values."""
    known = auc.isfinite()
    auc, place = auc[known], place[known]
    if len(auc) < 2:
        return None
    place = place - place.mean()
    return -float((place * auc).sum() / (place * place).sum())


def _observe_question(view: _View) -> tuple[str, dict[str, Any]] | None:
    means = view.means()
    early = {name: means[name] for name in EARLY if name in means}
    others = {name: mean for name, mean in means.items() if name not in EARLY}
    if not early or not others:
        return None
    mean_early, mean_others = (sum(some.values()) / len(some) for some in (early, others))
    apart = mean_others - mean_early
    other = min(others, key=lambda name: others[name])
    lightest = all(mean < others[other] for mean in early.values())
    numbers: dict[str, Any] = {
        "means": early,
        "others_mean": mean_others,
        "below_others": apart,
        "lightest": lightest,
        "lightest_other": {"position": other, "mean": others[other]},
    }
    if list(early) == ["last_q"]:
        subject = f"The question's end is {'the' if lightest else 'not the'} lightest column"
    else:
        end = "question's end and the " if "last_q" in early else ""
        subject = f"The {end}first answer tokens are {'the' if lightest else 'not all the'} lightest columns"
    told = join_names([f"{name} {digits(mean)}" for name, mean in early.items()])
    sentence = (
        f"{subject}: {told} on average over the layers, {digits(abs(apart))} {'below' if apart >= 0 else 'above'} the "
        f"others ({digits(mean_others)}; the lightest of them is {other}, {digits(others[other])})"
    )
    if "last_q" in early:
        column = view.map.positions.index("last_q")
        row = view.best_row(column)
        layer, best = view.map.layers[row], float(view.auc[row, column])
        numbers["last_q_best"] = {"layer": layer, "auc": best}
        sentence += f"; last_q is best in layer {layer}, {digits(best)}"
    return f"{sentence}.", numbers


def _observe_trailing(view: _View) -> tuple[str, dict[str, Any]] | None:
    columns = [column for column, name in enumerate(view.map.positions) if name[:1] == "-" and name[1:].isdecimal()]
    known = [(row, column) for column in columns for row in view.auc[:, column].isfinite().nonzero()[:, 0].tolist()]
    if not known:
        return None
    names = [view.map.positions[column] for column in columns]
    ends = {}
    for word, choose in (("lowest", min), ("highest", max)):
        row, column = choose(known, key=lambda cell: float(view.auc[cell]))
        place = {"position": view.map.positions[column], "layer": view.map.layers[row]}
        ends[word] = place | {"auc": float(view.auc[row, column])}
    bests = {}  # layer of the highest AUC in each column
    for column in dict.fromkeys(column for _, column in known):
        bests[view.map.positions[column]] = view.map.layers[view.best_row(column)]
    mean = float(view.auc[:, columns].nanmean())
    low, high = ends["lowest"], ends["highest"]
    subject = f"At the trailing tokens {name_positions(names[0], names[-1])}" if len(names) > 1 else f"At {names[0]}"
    spot = "{position}, layer {layer}" if len(names) > 1 else "layer {layer}"
    sentence = (
        f"{subject} AUC runs from {digits(low['auc'])} ({spot.format(**low)}) to {digits(high['auc'])} "
        f"({spot.format(**high)}), mean {digits(mean)}"
    )
    if len(bests) > 1:
        among = name_layers(min(bests.values()), max(bests.values()))
        sentence += f"; the best layer of each is {'among ' if ' to ' in among else ''}{among}"
    return f"{sentence}.", {"mean": mean, **ends, "best_layers": bests}


def _observe_last_layer(view: _View) -> tuple[str, dict[str, Any]] | None:
    auc = view.auc
    if len(auc) < 2:
        return None
    earlier = auc[:-1].nan_to_num(-1.0).amax(0)
    needed = CLEAR * view.map.auc_se[-1].double()
    lead = torch.where((earlier >= 0) & needed.isfinite(), auc[-1] - earlier, torch.nan)  # one group has no error
    if not lead.isfinite().any():
        return None
    leads = {
        name: float(lead[column])
        for column, name in enumerate(view.map.positions)
        if bool(lead[column].isfinite() & (lead[column] > 0) & (lead[column] >= needed[column]))
    }
    leads = dict(sorted(leads.items(), key=lambda entry: -entry[1]))
    column = int(lead.nan_to_num(-2.0).argmax())
    largest = {"position": view.map.positions[column], "lead": float(lead[column]), "needed": float(needed[column])}
    numbers = {"layer": view.map.layers[-1], "leads": leads, "largest": largest, "spreads_needed": CLEAR}
    last, unit = f"layer {view.map.layers[-1]}, the last,", f"{CLEAR:.0f} {SPREADS[view.map.spread]}s"
    if leads:
        told = shorten_names([f"{name} (+{digits(gain)})" for name, gain in leads.items()])
        return (
            f"In {len(leads)} of {int(lead.isfinite().sum())} columns {last} is at least {unit} above the best earlier "
            f"layer: {told}."
        ), numbers
    return (
        f"In no column is {last} {unit} above the best earlier layer: its largest lead is {digits(largest['lead'])} "
        f"({largest['position']}; {unit} are {digits(largest['needed'])})."
    ), numbers


def _observe_chance(view: _View) -> tuple[str, dict[str, Any]]:
    readable = view.auc.isfinite()
    if view.chance is not None:
        equal = readable & (view.auc <= view.chance)
        how = f"reach no more than chance, {digits(view.chance)} (95% of the best cells without signal)"
    else:
        equal = readable & ((view.auc - 0.5).abs() < CLEAR * view.map.auc_se)
        how = f"equal chance: AUC within {CLEAR:.0f} {SPREADS[view.map.spread]}s of .5"
    n_equal, n = int(equal.sum()), int(readable.sum())
    whole_rows, whole_columns = ((equal | ~readable).all(axis) & readable.any(axis) for axis in (1, 0))
    layers = [layer for layer, whole in zip(view.map.layers, whole_rows.tolist(), strict=True) if whole]
    positions = [name for name, whole in zip(view.map.positions, whole_columns.tolist(), strict=True) if whole]
    numbers: dict[str, Any] = {"chance": view.chance, "n_equal": n_equal, "n_readable": n, "share": n_equal / n}
    numbers |= {"layers": layers, "positions": positions}
    if n_equal in (0, n):
        return f"{'None' if n_equal == 0 else 'All'} of the {n} readable cells {how}.", numbers
    whole = []
    if layers:
        whole.append(f"{'layer' if len(layers) == 1 else 'layers'} {shorten_names([str(layer) for layer in layers])}")
    if positions:
        whole.append(shorten_names(positions))
    end = f"; among them is every cell of {join_names(whole)}" if whole else ""
    share = f"{n_equal / n:.0%}" if n_equal / n >= 0.01 else "less than 1%"
    return f"{n_equal} of {n} readable cells ({share}) {how}{end}.", numbers
