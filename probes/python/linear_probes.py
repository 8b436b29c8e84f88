"""Linear probes of a run, taken away from it: they score activations, and hold their card and out-of-sample scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from datamodules.card import Card, show_text
from probes.analysis.analysis import MOST_TARGETS
from probes.analysis.assessment import Assessment, assess
from probes.analysis.calibration import Calibration, Threshold, choose_threshold, fit_platt
from probes.analysis.reading import finite, nested
from probes.analysis.scores import PARTS, SCORES, Scores, load_scores
from probes.python.best_cell import find_best
from probes.python.cell_probe import CellProbe
from probes.python.cell_rows import find_names, read_rows, require_own, require_rows
from probes.python.hub import push_folder
from probes.report.about_run import name_model, read_about
from probes.report.cell_result import CellResult
from probes.report.model_card import write_model_card
from probes.report.probes_file import PROBES, find_probes, load_probes, read_notes, write_tensors
from probes.report.run_folder import number_groups, read_examples
from probes.report.whole_file import whole_file
from probes.solver.precision import full_precision

README = "README.md"


@dataclass(frozen=True, eq=False)
class LinearProbes:
    """A grid of linear probes: K targets, L layers, T positions, width D.

    Attributes:
        weight: [K, L, T, D] float32, acts on activations as they are; NaN where there is no probe.
        bias: [K, L, T] float32, likewise.
        card: of the data that they were fitted on.
        record: scores of every validation and test example; None where the run left them out.
        auc: for each split that was scored, [K][L][T], None where there is none.
        about: what else the run says of them, JSON-ready; see `describe_run`.

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

    def __repr__(self) -> str:
        k, layers, positions, width = self.weight.shape
        return (
            f"LinearProbes: {k} targets, {layers} layers x {positions} positions, width {width}, fitted on "
            f"{self.card.dataset} with {self.card.model}"
        )

    @classmethod
    def load(cls, run: str | Path) -> "LinearProbes":
        """Read the probes of a run folder, or of its probes.safetensors, and the scores beside them.

        Raises:
            FileNotFoundError: there are no probes.
            ValueError: a file is none of a run, the files are of different runs, or the probes are not linear.
        """
        path = find_probes(run)
        weight, bias, card, auc = load_probes(path)
        record = None
        if (path.parent / SCORES).exists():
            examples = read_examples(path.parent)
            groups = None if examples is None else number_groups(examples)
            record = require_own(card, load_scores(path.parent, groups), path.parent)
        return cls(weight, bias, card, record, auc, read_notes(path) or read_about(path.parent, card))

    def save(self, folder: str | Path, license: str | None = None) -> Path:
        """Write probes.safetensors, scores.safetensors where there is a record, and README.md, the model card.

        The folder can be loaded again, and is ready for a hub repository; other files in it stay. A model of a local
        folder is named without the way there.

        Args:
            folder: made if missing.
            license: of the probes, as the hub names it, such as `mit`; the card names none by default.

        Raises:
            ValueError: a file is in the way; no such license.
        """
        described = self.describe(license=license)
        folder = Path(folder).expanduser()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"save: expected a folder, got the file {folder}; choose another name")
        folder.mkdir(parents=True, exist_ok=True)
        card = replace(self.card, model=name_model(self.card))
        with whole_file(folder / PROBES) as path:
            write_tensors(path, {"weight": self.weight, "bias": self.bias}, card, self._list_auc(), self.about)
        if self.record is not None:
            with whole_file(folder / SCORES) as path:
                path.write_bytes(replace(self.record, card=card).to_bytes())
        with whole_file(folder / README) as path:
            path.write_text(described, "utf-8")
        return folder

    def push_to_hub(self, repo_id: str, private: bool = True, license: str | None = None) -> str:
        """Upload what `save` writes to a repository of the Hugging Face hub, made if missing, and return its address.

        Raises:
            ValueError: no such name of a repository; no such license.
        """
        with TemporaryDirectory() as folder:
            return push_folder(self.save(folder, license), repo_id, private)

    def describe(self, fpr: float = 0.05, license: str | None = None) -> str:
        """The model card, Markdown with a YAML front matter; see `write_model_card`.

        Args:
            fpr: the false-alarm rate of the thresholds that it tells.
            license: as in `save`.
        """
        return write_model_card(self.card, self.about, self._list_results(fpr), license)

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
        rows = find_names(self.card.layers, self.card.layers if layers is None else layers, "layers")
        columns = find_names(self.card.positions, self.card.positions if positions is None else positions, "positions")
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
            find_names(self.card.layers, [layer], "layer"),
            find_names(self.card.positions, [position], "position"),
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
        choice = find_best(self.card, self.record, self.auc, k).choice
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
        scores, labels, groups = require_rows(self.rows("val", cell))
        return choose_threshold(scores, labels, groups, fpr)

    def calibrate(self, cell: CellProbe | None = None) -> Calibration:
        """What turns scores of a cell, by default the best, into probabilities of being right; see `fit_platt`.

        Raises:
            ValueError: no validation rows, or of one class.
        """
        return fit_platt(*require_rows(self.rows("val", cell)))

    def assess(self, cell: CellProbe | None = None, fpr: float = 0.05) -> Assessment:
        """Calibrate a cell, by default the best, and choose a threshold on validation rows; measure both on test rows.

        Raises:
            ValueError: what `calibrate` raises; no test rows.
        """
        cell = self.best() if cell is None else cell
        return assess(self.rows("val", cell), self.rows("test", cell), fpr)

    def rows(self, split: str, cell: CellProbe | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Recorded scores [n], labels [n] and groups [n] of a cell, by default the best, on a split: val or test.

        Raises:
            ValueError: another split, no cell of these probes; the run kept no scores, or they are those of the probes
                and a baseline together.
        """
        if offset := self.about.get("offset"):
            raise ValueError(
                f"expected scores of the probes alone, got those of probes fitted beside {show_text(str(offset))}; "
                "calibrate scores of your own with fit_platt, or fit with probe.offset=null"
            )
        cell = self.best() if cell is None else cell
        return read_rows(self.card, self.record, split, cell)

    def _find_target(self, target: str | None) -> int:
        names = [one.name for one in self.card.targets]
        return 0 if target is None else find_names(names, [target], "target")[0]

    def _list_results(self, fpr: float) -> list[CellResult]:
        """What the card tells of the best cell of each target."""
        found = []
        for k, target in enumerate(self.card.targets[:MOST_TARGETS]):
            choice, test, val = find_best(self.card, self.record, self.auc, k)
            if choice is None:
                continue
            cell = self.cell(self.card.layers[choice.row], self.card.positions[choice.column], target.name)
            assessment, left_out = None, ""
            try:
                assessment = self.assess(cell, fpr)
            except ValueError as error:
                left_out = str(error)
            at = choice.cell
            auc, error, n = (
                (None, None, 0) if test is None else (finite(test.auc[at]), finite(test.auc_se[at]), int(test.n[at]))
            )
            val_auc = None if val is None else finite(val.auc[at])
            found.append(
                CellResult(
                    target.name, cell.layer, cell.position, choice.on, val_auc, auc, error, n, assessment, left_out
                )
            )
        return found

    def _list_auc(self) -> Mapping[str, Any]:
        if self.auc or self.record is None:
            return self.auc
        return {split: [nested(one.auc) for one in self.record.maps(split)] for split in PARTS}
