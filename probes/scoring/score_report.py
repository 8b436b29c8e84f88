"""What many scored answers come to: how well probabilities and decisions fit where gold answers say what is right."""

import math
from array import array
from typing import Any

import torch
from torch import Tensor

from datamodules.card import MIN_PER_CLASS, Card
from probes.analysis.auroc import auroc_with_variance
from probes.analysis.calibration import measure_calibration_error, risk_coverage, tabulate_reliability
from probes.analysis.shares import Share, measure_share
from probes.report.console import PlainConsole
from probes.scoring.ensemble import Ensemble
from probes.scoring.scored_answer import ScoredAnswer
from probes.scoring.scored_page import draw_curve
from probes.scoring.wording import LABEL_SETS, Wording, choose_wording

COVERAGES = (0.5, 0.8)  # at which the risk is told
POINTS = 200  # of a curve


class Outcome:
    """Collects a few numbers of each answer.

    Args:
        run: its folder.
        card: of the run.
        dataset: name of the set that is scored.
        ensembles: those that may judge.
        seen: how many of its texts the run had too; scores of those are too good.
        label: what label 1 means, as in `TargetCard.label`.

    Example:
        >>> outcome = Outcome("outputs/latest", card, "cities", ensembles)  # doctest: +SKIP
        >>> outcome.add(record, group="q0")  # doctest: +SKIP
        >>> outcome.measure()["auc"]  # doctest: +SKIP
    """

    def __init__(
        self,
        run: str,
        card: Card,
        dataset: str,
        ensembles: list[Ensemble],
        seen: int = 0,
        label: str = "correctness",
    ) -> None:
        self.seen, self.wording = seen, choose_wording(label)
        self.meaning = None if label in LABEL_SETS else label  # a class
        self.run, self.card, self.dataset, self.ensembles = run, card, dataset, ensembles
        self.counts = {one.name: 0 for one in ensembles}
        self._probability, self._label, self._decision = array("d"), array("b"), array("b")
        self._group, self._groups = array("q"), dict[str, int]()

    def add(self, record: ScoredAnswer, group: str) -> None:
        """Add an answer."""
        p, label = record.probability, record.label
        self._probability.append(math.nan if p is None else p)
        self._label.append(-1 if label is None else int(label))
        self._decision.append(-1 if record.decision is None else int(record.decision))
        self._group.append(self._groups.setdefault(group, len(self._groups)))
        if p is not None:
            self.counts[record.cell] += 1

    def rank(self) -> list[int]:
        """Numbers of all answers, the least probable first, those without a score last."""
        p = torch.tensor(self._probability, dtype=torch.float64)
        return p.nan_to_num(2.0).argsort(stable=True).tolist()

    def judged(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Probability, label, decision and group of the answers with both a score and a label, [n] each."""
        columns = [torch.tensor(one) for one in (self._probability, self._label, self._decision, self._group)]
        held = columns[0].isfinite() & (columns[1] >= 0)
        probability, label, decision, group = (one[held] for one in columns)
        return probability.double(), label, decision, group

    def measure(self) -> dict[str, Any]:
        """Numbers by name, None where they cannot be told; rates are shares."""
        decided = torch.tensor(self._decision)
        found: dict[str, Any] = {
            "answers": len(decided),
            "scored": int((decided >= 0).sum()),
            "called_right": int((decided == 1).sum()),
            "fpr": self.ensembles[0].threshold.fpr,
        }
        probability, label, decision, group = self.judged()
        n, right = len(label), int(label.sum())
        found |= {"judged": n, "right": right}
        if not n:
            return found
        risk = risk_coverage(probability, label)["risk"].to_list()
        wrong = label == 0
        found |= {
            "calibration_error": measure_calibration_error(probability, label, group)._asdict(),
            "aurc": sum(risk) / n,
            "risk": {str(one): risk[max(0, math.ceil(one * n - 1e-9) - 1)] for one in COVERAGES},
        }
        if n > right:
            found["false_alarms"] = measure_share(decision[wrong] == 1, group[wrong])._asdict()
        if min(right, n - right) >= MIN_PER_CLASS:
            held = torch.ones(n, dtype=torch.bool)
            auc, variance = auroc_with_variance(probability, label, held, group)
            se = float(variance.sqrt())
            found |= {"auc": float(auc), "auc_se": se if math.isfinite(se) else None}
        return found

    def to_json(self) -> dict[str, Any]:
        """What was scored by what, and the numbers of `measure`."""
        cells = [
            {
                "cells": one.name,
                "answers": self.counts[one.name],
                "threshold": one.threshold._asdict(),
                "calibration": one.calibration._asdict(),
                "false_alarms_in_test": one.tested and one.tested._asdict(),
            }
            for one in self.ensembles
        ]
        return {
            "run": self.run,
            "model": self.card.model,
            "dataset": self.dataset,
            "seen": self.seen,
            "right_stands_for": self.meaning,
            "judges": cells,
        } | self.measure()


def describe_outcome(outcome: Outcome) -> dict[str, str]:
    """The numbers as people read them, by what they say."""
    found, card, words = outcome.measure(), outcome.card, outcome.wording
    shown = {
        "model": card.model + (f" at {card.revision}" if card.revision else ""),
        "probes of": f"{outcome.run}, {card.site}, fitted on {card.dataset}",
        "answers to": f"{outcome.dataset}, {found['answers']:,}",
    }
    if outcome.meaning is not None:
        shown["class"] = outcome.meaning
    if outcome.seen:
        shown["of the run's own texts"] = f"{outcome.seen:,}, whose scores are too good: probes were fitted on some"
    for i, one in enumerate(outcome.ensembles):
        n = outcome.counts[one.name]
        p = float(one.calibration.probability(torch.tensor(one.threshold.value, dtype=torch.float64)))
        name = "cell" if i == 0 else "cell where there is no exact answer"
        shown[name] = f"{one.name}, {n:,} answers, threshold {one.threshold.value:.3g} (probability {p:.2f})"
    if outcome.ensembles[0].tested:
        shown["false alarms in the run's test"] = _describe_alarms(outcome.ensembles[0].tested, found["fpr"], words)
    if missing := found["answers"] - found["scored"]:
        shown["without a score"] = f"{missing:,}, which lack the position"
    shown[words.called] = f"{found['called_right']:,} of {found['scored']:,}"
    if not found["judged"]:
        return shown
    shown[words.known] = f"{found['right']:,} of {found['judged']:,}"
    if "auc" in found:
        se = "" if found["auc_se"] is None else f" ± {found['auc_se']:.3f}"
        shown["AUC"] = f"{found['auc']:.3f}{se}"
    error = found["calibration_error"]
    shown["calibration error"] = f"{error['value']:.3f} (95%: {error['low']:.3f} to {error['high']:.3f})"
    shown["area under risk and coverage"] = f"{found['aurc']:.3f}"
    for coverage, risk in found["risk"].items():
        shown[f"{words.negative} among the most probable {float(coverage):.0%}"] = f"{risk:.1%}"
    if "false_alarms" in found:
        shown["false alarms"] = _describe_alarms(Share(**found["false_alarms"]), found["fpr"], words)
    return shown


def _describe_alarms(share: Share, asked: float, words: Wording) -> str:
    return (
        f"{round(share.value * share.n):,} of {share.n:,} {words.rest}, {share.value:.1%} (95%: {share.low:.1%} to "
        f"{share.high:.1%}; {asked:.1%} asked for)"
    )


def draw_outcome(outcome: Outcome) -> list[str]:
    """SVG of reliability and of risk and coverage; none without labels."""
    probability, label, _, _ = outcome.judged()
    if not len(label):
        return []
    bins, risk = tabulate_reliability(probability, label), risk_coverage(probability, label)
    risk = risk.iloc[:: -(-len(risk) // POINTS)]
    rate, error = f"share {outcome.wording.positive}", f"share {outcome.wording.negative}"
    return [
        draw_curve("Reliability", [*bins["probability"]], [*bins["rate"]], ("probability", rate), True),
        draw_curve("Risk and coverage", [*risk["coverage"]], [*risk["risk"]], ("share answered", error), False),
    ]


def print_outcome(console: PlainConsole, outcome: Outcome) -> None:
    """Print the numbers as a short table."""
    shown = describe_outcome(outcome)
    width = max(map(len, shown))
    console.print()
    for name, value in shown.items():
        console.print(f"{name:<{width}}  {value}", soft_wrap=True)
    console.print()
