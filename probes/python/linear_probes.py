"""Linear probes of a run, taken away from it: they score activations, and hold their card and out-of-sample scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from datamodules.card import Card, Count
from probes.analysis.auc_map import AUCMap, choose_cell
from probes.analysis.calibration import Calibration, Threshold, choose_threshold, fit_platt
from probes.analysis.scores import SCORES, Rows, Scores, load_scores
from probes.report.probes_file import PROBES, load_probes
from probes.report.run_folder import read_examples
from probes.solver.precision import full_precision


@dataclass(frozen=True, eq=False)
class CellProbe:
    """The probe of one cell.

    Attributes:
        layer: block number, 0-based.
        position: its name.
        target: name of the label set.
        weight: [D] float32, acts on activations as they are.
        bias: added to the score.

    Example:
        >>> probe = CellProbe(4, "last", "correctness", torch.tensor([1.0, -1.0]), 0.5)
        >>> probe.score(torch.tensor([[2.0, 1.0], [0.0, 3.0]]))
        tensor([ 1.5000, -2.5000])
    """

    layer: int
    position: str
    target: str
    weight: Tensor
    bias: float

    @full_precision()
    def score(self, acts: Any) -> Tensor:
        """Score activations [.., D], tensor or array: [..] float32, computed in float64; above 0 speaks for label 1.

        Raises:
            ValueError: activations of another width.
        """
        acts = torch.as_tensor(acts)
        if acts.ndim == 0 or acts.shape[-1] != len(self.weight):
            raise ValueError(
                f"acts: expected activations [.., {len(self.weight)}], got {list(acts.shape)}; take the layer and "
                "site that the probe was fitted on"
            )
        return (acts.double() @ self.weight.to(acts.device).double() + self.bias).float()


@dataclass(frozen=True, eq=False)
class LinearProbes:
    """A grid of linear probes: K targets, L layers, T positions, width D.

    Attributes:
        weight: [K, L, T, D] float32, acts on activations as they are; NaN where there is no probe.
        bias: [K, L, T] float32, likewise.
        card: of the data that they were fitted on.
        record: scores of every validation and test example; None where the run left them out.
        auc: for each split that was scored, [K][L][T], None where there is none.
        about: what else the run says of them, JSON-ready.

    Example:
        >>> probes = LinearProbes.load("outputs/latest")  # doctest: +SKIP
        >>> probes.best().score(acts) >= probes.threshold(fpr=0.05).value  # doctest: +SKIP
    """

    weight: Tensor
    bias: Tensor
    card: Card
    record: Scores | None = None
    auc: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, run: str | Path) -> "LinearProbes":
        """Read the probes of a run folder, or of its probes.safetensors, and the scores beside them.

        Raises:
            FileNotFoundError: there are no probes.
            ValueError: a file is none of a run, or the probes are not linear.
        """
        path = Path(run).expanduser()
        path = path / PROBES if path.is_dir() else path
        weight, bias, card, auc = load_probes(path)
        record = None
        if (path.parent / SCORES).exists():
            examples = read_examples(path.parent)
            record = load_scores(path.parent, None if examples is None else _number_groups(examples))
        return cls(weight, bias, card, record, auc)

    @full_precision()
    def score(
        self,
        acts: Any,
        valid: Any = None,
        layers: Sequence[int] | None = None,
        positions: Sequence[str] | None = None,
    ) -> Tensor:
        """Score activations by every probe; `score(*capture(model, texts))` scores texts.

        Args:
            acts: [N, L, T, D], tensor or array of any float dtype.
            valid: bool [N, T], which examples have the position; all of them by default.
            layers: block numbers of `acts`, in its order; those of the probes by default.
            positions: names of its positions, likewise.

        Returns:
            [K, L, T, N] float32, in the order of `acts`; NaN where not valid or without a probe.

        Raises:
            ValueError: other shapes, or a layer or position that the probes do not have.
        """
        acts = torch.as_tensor(acts)
        rows = _find(self.card.layers, self.card.layers if layers is None else layers, "layers")
        columns = _find(self.card.positions, self.card.positions if positions is None else positions, "positions")
        wanted = [len(rows), len(columns), self.card.width]
        if acts.ndim != 4 or list(acts.shape[1:]) != wanted:
            raise ValueError(
                f"acts: expected [N, {', '.join(map(str, wanted))}] (examples, layers, positions, width), got "
                f"{list(acts.shape)}; name the layers and positions of acts, or take those of the probes"
            )
        scores = torch.full((len(self.weight), *wanted[:2], len(acts)), torch.nan, device=acts.device)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):  # one cell at a time: only one is ever held in double precision
                weight, bias = (part[:, row, column].to(acts.device).double() for part in (self.weight, self.bias))
                scores[:, i, j] = (weight @ acts[:, i, j].double().mT + bias[:, None]).float()
        if valid is not None:
            valid = torch.as_tensor(valid, dtype=torch.bool, device=acts.device)
            if list(valid.shape) != [len(acts), wanted[1]]:
                raise ValueError(
                    f"valid: expected [{len(acts)}, {wanted[1]}] (examples, positions), got {list(valid.shape)}"
                )
            scores = scores.where(valid.mT[None, None], torch.nan)
        return scores

    def cell(self, layer: int, position: str, target: str | None = None) -> CellProbe:
        """The probe of one cell, of the first target by default.

        Raises:
            ValueError: no such layer, position or target, or no probe in the cell.
        """
        k = self._find_target(target)
        (row,), (column,) = (
            _find(self.card.layers, [layer], "layer"),
            _find(self.card.positions, [position], "position"),
        )
        weight, bias = self.weight[k, row, column], float(self.bias[k, row, column])
        if weight.isnan().any():
            raise ValueError(
                f"expected a probe at layer {layer}, position {position}, got none: its train rows lack a class; "
                "choose another cell"
            )
        return CellProbe(layer, position, self.card.targets[k].name, weight, bias)

    def best(self, target: str | None = None) -> CellProbe:
        """The probe of the highest AUC on validation rows; on test rows where there are none.

        Raises:
            ValueError: no such target; no cell has enough scored examples of both classes.
        """
        k = self._find_target(target)
        maps = {split: self._map(split, k) for split in ("val", "test")}
        test, val = maps["test"] or maps["val"], maps["val"]
        choice = None if test is None else choose_cell(test, val)
        if choice is None:
            raise ValueError(
                "expected a cell with enough validation or test rows of both classes, got none; name a cell, or fit "
                "with more examples"
            )
        return self.cell(self.card.layers[choice.row], self.card.positions[choice.column], self.card.targets[k].name)

    def direction(self, layer: int, position: str, target: str | None = None) -> Tensor:
        """Unit vector [D] float32 along which the score of a cell grows fastest, in activations as they are.

        Raises:
            ValueError: what `cell` raises; a probe whose weights are all zero.
        """
        weight = self.cell(layer, position, target).weight.double()
        if not (norm := weight.norm()):
            raise ValueError(
                f"expected a direction at layer {layer}, position {position}, got weights of zero; choose another cell"
            )
        return (weight / norm).float()

    def threshold(self, fpr: float = 0.05, cell: CellProbe | None = None) -> Threshold:
        """The score from which a cell calls an answer right, at a false-alarm rate; see `choose_threshold`.

        Args:
            fpr: the share of wrong answers that may be called right.
            cell: of these probes; the best one by default.

        Raises:
            ValueError: no validation rows, or too few for this rate.
        """
        scores, labels, groups = self.rows("val", cell)
        return choose_threshold(scores, labels, groups, fpr)

    def calibrate(self, cell: CellProbe | None = None) -> Calibration:
        """What turns scores of a cell, by default the best, into probabilities of being right; see `fit_platt`.

        Raises:
            ValueError: no validation rows, or of one class.
        """
        return fit_platt(*self.rows("val", cell))

    def rows(self, split: str, cell: CellProbe | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Recorded scores [n], labels [n] and groups [n] of a cell, by default the best, on a split: val or test.

        Raises:
            ValueError: the run kept no scores.
        """
        cell = self.best() if cell is None else cell
        k = self._find_target(cell.target)
        if self.record is None:
            raise ValueError(
                f"expected {SCORES} beside the probes, got none; load the run folder, or run again with a larger "
                "scores.max_bytes"
            )
        rows: Rows = self.record.of(split, min(k, len(self.record.part) - 1))
        (row,) = _find(self.card.layers, [cell.layer], "layer")
        (column,) = _find(self.card.positions, [cell.position], "position")
        scores = rows.scores[row, column]
        held = scores.isfinite()
        return scores[held], rows.labels[held], rows.groups[held]

    def _find_target(self, target: str | None) -> int:
        names = [one.name for one in self.card.targets]
        return 0 if target is None else _find(names, [target], "target")[0]

    def _map(self, split: str, k: int) -> AUCMap | None:
        """The map of a split: of the record, or of the AUCs alone with the counts of the card."""
        target = self.card.targets[k]
        if self.record is not None:
            maps = self.record.maps(split)
            one = maps[min(k, len(maps) - 1)]
            return one if int(one.n.max()) else None
        if split not in self.auc:
            return None
        auc = torch.tensor([[torch.nan if one is None else one for one in row] for row in self.auc[split][k]])
        count = target.counts.get(split, Count(0, 0))
        n, n_positive = (torch.full(auc.shape, number) for number in (count.n, count.n_positive))
        layers, positions = self.card.layers, self.card.positions
        return AUCMap(target.name, split, layers, positions, auc.double(), auc.double() * torch.nan, n, n_positive)


def _find(known: Sequence[Any], wanted: Sequence[Any], what: str) -> list[int]:
    """Where names stand among the known ones."""
    if missing := [str(one) for one in wanted if one not in known]:
        raise ValueError(
            f"{what}: expected some of {', '.join(map(str, known))}, got {', '.join(missing)}; choose among these"
        )
    return [known.index(one) for one in wanted]


def _number_groups(examples: pd.DataFrame) -> Tensor:
    groups = examples.get("group", examples.index)
    return torch.from_numpy(pd.factorize(groups, use_na_sentinel=False)[0])
