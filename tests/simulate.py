"""Holds the errors, bands and p-values of a map against worlds whose truth is known, and prints a table.

python -m tests.simulate
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.analysis.band import band
from probes.analysis.chance import null_of_best
from probes.analysis.clusters import measure_areas
from probes.analysis.paired import compare, two_sided_p

N_VAL, N_TEST = 225, 376  # rows of the validation and the test part of the cities
COLUMNS, LAYERS = 6, 10
WORLDS = 1_000


@dataclass(frozen=True)
class World:
    """How examples are drawn.

    Attributes:
        largest: sizes of groups are uniform from 1 to this.
        n: examples.
        of_scores: standard deviation of what the scores of a group share; that of the examples is 1.
        of_labels: likewise of the latent number whose sign is the label.
        equal: all groups have the largest size.
    """

    largest: int
    n: int = N_TEST
    of_scores: float = 0.7
    of_labels: float = 1.0
    equal: bool = False

    def deal(self, generator: torch.Generator) -> Tensor:
        """Group of each example, [N], about n of them."""
        sizes = torch.randint(1, self.largest + 1, (self.n,), generator=generator)
        if self.equal:
            sizes[:] = self.largest
        sizes = sizes[sizes.cumsum(0) <= self.n]
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    def draw(self, groups: Tensor, areas: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Scores [L, T, N] float32 of true AUROC `areas` [L, T], and labels [N], a third of them 1.

        Cells of a column share four fifths of their variance.
        """
        labels = (self._noise((), groups, self.of_labels, generator) > 0.43 * math.hypot(1, self.of_labels)).long()
        column = self._noise((1, areas.shape[1]), groups, self.of_scores, generator)
        own = self._noise(areas.shape, groups, self.of_scores, generator)
        return 0.8**0.5 * column + 0.2**0.5 * own + self.part(areas) * labels, labels

    def part(self, areas: Tensor) -> Tensor:
        """How far the means of the classes are apart in cells of AUROC `areas` [L, T]: [L, T, 1]."""
        apart = math.sqrt(2) * math.hypot(1, self.of_scores) * torch.special.ndtri(areas.double())
        return apart.float()[..., None]

    def _noise(self, shape: Sequence[int], groups: Tensor, spread: float, generator: torch.Generator) -> Tensor:
        of_groups = torch.randn(*shape, int(groups[-1]) + 1, generator=generator)
        return spread * of_groups[..., groups] + torch.randn(*shape, len(groups), generator=generator)


ALONE = World(1, of_scores=0.0, of_labels=0.0)
WORLD_OF = {
    "each its own group": ALONE,
    "groups of 1 to 4": World(4),
    "groups of 1 to 20": World(20),
    "groups of 1 to 20, labels without groups": World(20, of_labels=0.0),
    "groups of 20": World(20, equal=True),
}
NOTHING = torch.full((LAYERS, COLUMNS), 0.5)
# A map like that of the cities: two strong columns, brightest in the upper layers.
PLANTED = 0.55 + torch.linspace(0, 0.2, LAYERS)[:, None] * torch.tensor([0.2, 0.4, 0.6, 0.8, 1.7, 1.5])
PARTLY = torch.where(torch.arange(COLUMNS) < 4, 0.5, PLANTED)


def share(flags: list[bool]) -> str:
    """A share with its Monte Carlo standard error."""
    p = sum(flags) / len(flags)
    return f"{p:.3f} ± {math.sqrt(p * (1 - p) / len(flags)):.3f}"


def cover_one_cell(world: World, generator: torch.Generator) -> list[str]:
    """How often 95% limits of one cell hold its AUROC, [share by log-odds and t, share of AUC ± 1.96 SE, SE / SD]."""
    by_t, by_normal, found, errors = [], [], [], []
    truth = torch.tensor(0.75)
    for _ in range(2 * WORLDS):
        groups = world.deal(generator)
        scores, labels = world.draw(groups, truth.expand(1, 1), generator)
        areas = measure_areas(scores[0, 0], labels, groups=groups)
        area, error = areas.auc, areas.error()
        off = area.logit() - truth.logit()
        by_t.append(bool(two_sided_p(off, error / (area * (1 - area)), areas.freedom) > 0.05))
        by_normal.append(bool((area - truth).abs() < 1.96 * error))
        found.append(area)
        errors.append(error)
    ratio = torch.stack(errors).square().mean().sqrt() / torch.stack(found).std()
    return [share(by_t), share(by_normal), f"{ratio:.3f}"]


def cover_all_cells(world: World, generator: torch.Generator) -> list[str]:
    """How often the band holds all cells, how often the set of near cells holds the truly best, and its mean size."""
    covered, held, sizes = [], [], []
    best = divmod(int(PLANTED.argmax()), COLUMNS)
    for seed in range(WORLDS):
        groups = world.deal(generator)
        scores, labels = world.draw(groups, PLANTED, generator)
        chosen = choose_on_validation(world, PLANTED, generator)
        limits = band(measure_areas(scores, labels, groups=groups), chosen, seed=seed)
        assert limits.near_best is not None
        covered.append(bool(((limits.lower <= PLANTED) & (limits.upper >= PLANTED)).all()))
        held.append(bool(limits.near_best[best]))
        sizes.append(float(limits.near_best.sum()))
    return [share(covered), share(held), f"{sum(sizes) / WORLDS:.1f} of {PLANTED.numel()}"]


def choose_on_validation(world: World, truth: Tensor, generator: torch.Generator) -> tuple[int, int]:
    """The best cell of other rows."""
    world = replace(world, n=N_VAL)
    groups = world.deal(generator)
    areas = measure_areas(*world.draw(groups, truth, generator), groups=groups)
    layer, column = divmod(int(areas.auc.argmax()), COLUMNS)
    return layer, column


def find_bias_of_best(world: World, truth: Tensor, generator: torch.Generator) -> list[str]:
    """Mean of the best cell's AUROC less its true one, [chosen on validation rows, chosen on the test rows]."""
    fair, lucky = [], []
    for _ in range(WORLDS):
        groups = world.deal(generator)
        off = measure_areas(*world.draw(groups, truth, generator), groups=groups).auc
        best = divmod(int(off.argmax()), COLUMNS)
        fair.append((off - truth)[choose_on_validation(world, truth, generator)])
        lucky.append((off - truth)[best])
    return [f"{torch.stack(one).mean():+.4f} ± {torch.stack(one).std() / len(one) ** 0.5:.4f}" for one in (fair, lucky)]


def find_false_positives(world: World, truth: Tensor, generator: torch.Generator) -> list[str]:
    """How often a cell that knows nothing is above the 95% of chance, [by groups, by permuting single labels]."""
    nothing = truth == 0.5
    found: list[list[bool]] = [[], []]
    for seed in range(2 * WORLDS):
        groups = world.deal(generator)
        scores, labels = world.draw(groups, truth, generator)
        for flags, given in zip(found, (groups, None), strict=True):
            if given is not None or seed < WORLDS // 4:
                chance = null_of_best(scores, labels, groups=given, draws=999, seed=seed)
                flags.append(bool((chance.p_family[nothing] <= 0.05).any()))
    return [share(flags) for flags in found]


def find_false_differences(world: World, generator: torch.Generator) -> list[str]:
    """How often two sets of probes of equal AUROCs differ: [one cell, any cell by Holm, any cell by the band]."""
    one, holm, by_band = [], [], []
    for seed in range(WORLDS):
        groups = world.deal(generator)
        scores, labels = world.draw(groups, PLANTED, generator)
        noise, _ = world.draw(groups, NOTHING, generator)  # twice the variance, so the signal is to be sqrt(2) as large
        again = scores + noise + (math.sqrt(2) - 1) * world.part(PLANTED) * labels
        first, second = (measure_areas(part, labels, groups=groups) for part in (scores, again))
        found = compare(first, second, seed=seed)
        one.append(bool(found.p[0, 0] <= 0.05))
        holm.append(bool((found.p_holm <= 0.05).any()))
        by_band.append(bool(((found.lower > 0) | (found.upper < 0)).any()))
    return [share(flags) for flags in (one, holm, by_band)]


def report(title: str, columns: list[str], measure: Callable[[World, torch.Generator], list[str]]) -> None:
    """Print a table with a row for each kind of groups."""
    start = time.perf_counter()
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, world in WORLD_OF.items():
        print(f"| {name} | {' | '.join(measure(world, torch.Generator().manual_seed(0)))} |", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s")


def main() -> None:
    """Print all tables."""
    report(
        "One cell, AUC .75: share of 95% limits that hold it",
        ["log-odds, t", "AUC ± 1.96 SE", "SE / SD"],
        cover_one_cell,
    )
    report("All cells", ["band holds all cells", "near the best: holds the best", "size"], cover_all_cells)
    columns = ["chosen on validation", "chosen on test"]
    report("Bias of the best cell, no signal", columns, lambda *given: find_bias_of_best(given[0], NOTHING, given[1]))
    report("Bias of the best cell, planted", columns, lambda *given: find_bias_of_best(given[0], PLANTED, given[1]))
    columns = ["with groups", "single labels permuted"]
    report("False positives, no signal", columns, lambda *given: find_false_positives(given[0], NOTHING, given[1]))
    report("False positives beside signals", columns, lambda *given: find_false_positives(given[0], PARTLY, given[1]))
    report("Two sets of equal probes: false differences", ["one cell", "Holm", "band"], find_false_differences)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
