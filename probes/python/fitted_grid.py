"""A fitted grid: its probes, its scores and its maps, in memory, as a run folder, and back."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.card import Card
from probes.analysis.analysis import Analysis, analyse
from probes.analysis.auc_map import AUCMap, choose_cell
from probes.analysis.reading import finite
from probes.analysis.scores import PARTS, SCORES, Rows, Scores, require_split
from probes.python.cell_rows import require_own
from probes.python.linear_probes import README, LinearProbes
from probes.report.about_run import describe_run
from probes.report.findings import decorate
from probes.report.map_files import MEANS, TABLE, draw_maps, save_figure, write_heatmap
from probes.report.probes_file import PROBES, read_tensors, save_probes
from probes.report.run_folder import EXAMPLES, SUMMARY, read_record
from probes.report.style import STYLE, UNDATED, VMAX, VMIN
from probes.report.summary import summarise
from probes.report.whole_file import whole_file

FILES = {PROBES, SCORES, EXAMPLES, SUMMARY, TABLE, MEANS, README, *(f"heatmap.{kind}" for kind in UNDATED)}


class Best(NamedTuple):
    """The best cell of a map.

    Attributes:
        layer, position: of the cell.
        auc: on the test rows.
        auc_se: its standard error, clustered by groups.
        chosen_on: the rows whose AUC chose the cell: `val`, or `test` where no validation rows could, and `auc` is then
            too high.
        val_auc: on the validation rows; None where there are none.
        n: test rows.
        target: name of the label set.
    """

    layer: int
    position: str
    auc: float
    auc_se: float
    chosen_on: str
    val_auc: float | None
    n: int
    target: str


@dataclass(frozen=True, eq=False, repr=False)
class FittedGrid:
    """The probes of K targets, L layers and T positions, with every score that they gave to rows they did not see.

    Attributes:
        tensors: what probes.safetensors holds: weight [K, L, T, D] and bias [K, L, T], where the probes are linear.
        card: of the data that they were fitted on.
        record: scores of every validation and test example, with the card of the data that were scored.
        maps: for each split that was scored, `val` and `test`, the K maps.
        table: of all N examples: their row, group, label, split and valid positions.
        described: the probe in words.
        fitted: what summary.json says of the fit.
        seconds: of each stage.
        notes: what a run would have warned of.

    Example:
        >>> grid = fit_grid(acts, labels)  # doctest: +SKIP
        >>> grid.best()  # doctest: +SKIP
        Best(layer=12, position='last', auc=0.974, auc_se=0.013, chosen_on='val', val_auc=0.985, n=100, ...)
    """

    tensors: Mapping[str, Tensor]
    card: Card
    record: Scores
    maps: Mapping[str, Sequence[AUCMap]]
    table: pa.Table
    described: str
    fitted: Mapping[str, Any]
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def map(self) -> AUCMap:
        """The test map of the first target."""
        return self.maps["test"][0]

    @property
    def examples(self) -> pd.DataFrame:
        """The table of all N examples; `record.examples` are its row numbers."""
        return self.table.to_pandas()

    @cached_property
    def analyses(self) -> list[Analysis]:
        """What the record says of each target: chance, limits of all cells, near-best cells; made when asked for."""
        return analyse(self.record, self.examples)

    @cached_property
    def probes(self) -> LinearProbes:
        """The probes alone.

        Raises:
            ValueError: they are not linear.
        """
        if set(self.tensors) != {"weight", "bias"}:
            raise ValueError(f"expected linear probes, got {self.described}; take probe=logistic, or read its tensors")
        auc = {split: [one.auc.tolist() for one in maps] for split, maps in self.maps.items()}
        about = describe_run(self.card, {"described": self.described, "fit": self.fitted}, self.examples)
        return LinearProbes(self.tensors["weight"], self.tensors["bias"], self.card, self.record, auc, about)

    def best(self, target: str | None = None) -> Best:
        """The cell that the validation rows choose, with its AUC on the test rows.

        Raises:
            ValueError: no such target, or no cell has enough test rows of both classes.
        """
        k = self._find_target(target)
        test, val = self.maps["test"][k], self.maps["val"][k] if "val" in self.maps else None
        if (choice := choose_cell(test, val)) is None:
            raise ValueError("best: expected a cell with enough test rows of both classes, got none; fit more examples")
        cell = choice.cell
        return Best(
            test.layers[choice.row],
            test.positions[choice.column],
            float(test.auc[cell]),
            float(test.auc_se[cell]),
            choice.on,
            None if val is None else finite(val.auc[cell]),
            int(test.n[cell]),
            test.target,
        )

    def scores(self, split: str = "test", target: str | None = None) -> Rows:
        """Scores [L, T, m], labels [m], row numbers [m] and groups [m] of the examples of a split, `val` or `test`.

        Raises:
            ValueError: another split, or no such target.
        """
        require_split(split)
        return self.record.of(split, self._find_target(target))

    def direction(self, layer: int, position: str, target: str | None = None) -> Tensor:
        """Unit vector [D] along which the score of a cell grows; see `LinearProbes.direction`."""
        return self.probes.direction(layer, position, target)

    def apply(self, acts: Any, **names: Any) -> Tensor:
        """Scores [K, L, T, N] of other activations [N, L, T, D]; see `LinearProbes.score`."""
        return self.probes.score(acts, **names)

    def plot(self, path: str | Path | None = None, vmin: float = VMIN, vmax: float = VMAX) -> Figure:
        """Draw the test maps as heatmap.png shows them, with chance, near-best cells and the best cell.

        Args:
            path: also write it there, as .png or .pdf.
            vmin, vmax: AUC of the lightest and of the darkest colour.

        Raises:
            ValueError: another kind of file.
        """
        kind = None if path is None else Path(path).suffix.lower()[1:]
        if kind is not None and kind not in UNDATED:
            raise ValueError(f"plot: expected a path that ends in .{' or .'.join(UNDATED)}, got {path}; rename it")
        found = self._decorate()
        figure = draw_maps(
            self.maps["test"], self.record.card, self.described, "test", found["marks"], found["foot"], vmin, vmax
        )
        if path is not None:
            save_figure(figure, Path(path).expanduser())
        return figure

    def save(self, folder: str | Path) -> Path:
        """Write a run folder, which `load_grid`, `LinearProbes.load`, experiment=analyse and compare read.

        It holds probes.safetensors, scores.safetensors, examples.parquet, heatmap.csv, heatmap.png, heatmap.pdf and
        summary.json; what `save` has written there before is replaced. `grid.probes.save` of the same folder adds a
        model card.

        Raises:
            ValueError: the folder holds anything else.
        """
        folder = Path(folder).expanduser()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"save: expected a folder, got the file {folder}; choose another name")
        if others := sorted({path.name for path in folder.glob("*")} - FILES):
            raise ValueError(f"save: expected a new folder, got {folder}, which holds {others[0]}; choose another name")
        folder.mkdir(parents=True, exist_ok=True)
        card, maps = self.record.card, {split: list(of_split) for split, of_split in self.maps.items()}
        with whole_file(folder / PROBES) as path:
            save_probes(path, dict(self.tensors), self.card, maps)
        with whole_file(folder / SCORES) as path:
            path.write_bytes(self.record.to_bytes())
        with whole_file(folder / EXAMPLES) as path:
            pq.write_table(self.table, path)
        write_heatmap(folder, maps, card, self.described, "test", **self._decorate())
        summary = summarise(card, dict(self.fitted), maps, self.seconds, self.analyses, self.described, self.record)
        with whole_file(folder / SUMMARY) as path:
            path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", "utf-8")
        return folder

    def __repr__(self) -> str:
        """What was fitted, and the best cell."""
        K, L, T, D = self.card.shape
        counts = self.card.targets[0].counts
        sizes = " + ".join(f"{count.n} {split}" for split, count in counts.items() if count.n)
        lines = [
            f"FittedGrid: {L} layers x {T} positions, width {D}, {self.described}; "
            f"{f'{K} targets, the first ' * (K > 1)}{self.map.target}: {sizes} examples"
        ]
        try:
            best = self.best()
        except ValueError:
            lines.append("best cell: none has enough test rows of both classes")
        else:
            how = "chosen on validation rows" if best.chosen_on == "val" else "chosen on these rows, so too high"
            lines.append(
                f"best cell ({how}): layer {best.layer}, {best.position}, test AUC {best.auc:.3f} ± {best.auc_se:.3f}; "
                f"mean of all cells {float(self.map.auc[self.map.readable()].mean()):.3f}"
            )
        if self.notes:
            lines.append(f"{len(self.notes)} notes, the first: {self.notes[0]}")
        return "\n".join(lines)

    def _repr_png_(self) -> bytes:
        """The map, where a notebook shows the grid."""
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.plot().savefig(buffer, format="png")
        return buffer.getvalue()

    def _decorate(self) -> dict[str, Any]:
        short = self.fitted.get("short", ())
        return decorate(self.maps["test"], self.record.card, self.analyses, short)

    def _find_target(self, target: str | None) -> int:
        names = [one.target for one in self.maps["test"]]
        if target is None:
            return 0
        if target not in names:
            raise ValueError(f"target: expected one of {', '.join(names)}; got {target}")
        return names.index(target)


def load_grid(run: str | Path) -> FittedGrid:
    """Read a run folder: of `FittedGrid.save`, or of any run of the command line that kept its scores.

    >>> load_grid("outputs/latest").best()  # doctest: +SKIP

    Raises:
        FileNotFoundError: there is no such folder, or it lacks a file.
        ValueError: a file is none of a run, the files are of different runs, or the run was not tested.
    """
    record = read_record(run)
    content, tensors = read_tensors(record.folder / PROBES)
    maps = {split: record.scores.maps(split) for split in PARTS if (record.scores.part == PARTS[split]).any()}
    if "test" not in maps:
        raise ValueError(
            f"run: expected test scores in {record.folder}, got none; test the probes, or name another run"
        )
    try:
        card = Card.from_json(content)
    except ValueError as error:
        raise ValueError(f"run: expected the probes of a run in {record.folder}, got another card ({error})") from None
    scores, summary = require_own(card, record.scores, record.folder), record.summary
    if set(tensors) == {"weight", "bias"}:
        linear = LinearProbes.load(record.folder)
        tensors = {"weight": linear.weight, "bias": linear.bias}
    return FittedGrid(
        tensors,
        card,
        scores,
        maps,
        pq.read_table(record.folder / EXAMPLES),
        summary.get("described") or "probe",
        summary.get("fit") or {},
        summary.get("seconds") or {},
    )
