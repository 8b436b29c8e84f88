"""The callback that draws the map of a run."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.trainer.states import TrainerFn

from probes.report.findings import decorate
from probes.report.map_files import save_figure, write_heatmap
from probes.report.picture import check_colours
from probes.report.style import UNDATED, VMAX, VMIN
from probes.settings import Area, Folder


class Heatmap(pl.Callback):
    """Writes heatmap.png, heatmap.pdf and heatmap.csv after validation and after test; within a fit no PDF.

    The picture is of the split just measured; the CSV holds every map so far, val before test. A fit of several epochs
    also leaves the validation map of each, epochs/000.png and so on. A label set that was split several times is drawn
    as the mean of its maps beside their standard deviation, which heatmap_mean.csv holds. Of more than eight label sets
    the first eight are drawn. It reads ``maps``, ``tested``, ``fitted`` and ``analyses`` of the module. Global rank
    zero only; every file appears whole or not at all.

    Args:
        folder: where the files go; made if missing.
        vmin, vmax: AUC of the lightest and of the darkest colour.
        within_fit: whether a fit of one epoch draws its validation map, which that of the test replaces. It is drawn
            anyway where a logger may take pictures.

    Raises:
        ValueError: vmin and vmax are not two AUC, the first below the second.
    """

    def __init__(self, folder: Folder, vmin: Area = VMIN, vmax: Area = VMAX, within_fit: bool = True) -> None:
        check_colours(vmin, vmax)
        self.folder, self.within_fit = Path(folder), within_fit
        self.vmin, self.vmax = vmin, vmax

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Draw the validation map, except during the sanity check."""
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Draw the test map."""
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: pl.Trainer, pl_module: Any, split: str) -> None:
        if not trainer.is_global_zero:
            return
        card, maps = pl_module.tested, pl_module.maps
        found = (
            decorate(maps["test"], card, pl_module.analyses, pl_module.fitted.get("short", ()))
            if split == "test"
            else {}
        )
        in_fit = split == "val" and trainer.state.fn == TrainerFn.FITTING
        kinds = ("png",) if in_fit else tuple(UNDATED)  # a PDF takes as long as all else, and the next map replaces it
        if in_fit and not (self.within_fit or trainer.max_epochs != 1 or _take_pictures(trainer)):
            kinds = ()
        figure = write_heatmap(
            self.folder, maps, card, pl_module.described, split, vmin=self.vmin, vmax=self.vmax, kinds=kinds, **found
        )
        if figure and in_fit and trainer.max_epochs != 1:
            save_figure(figure, self.folder / "epochs" / f"{trainer.current_epoch:03}.png")


def _take_pictures(trainer: pl.Trainer) -> bool:
    """Whether a logger may take pictures."""
    return any(not isinstance(logger, CSVLogger) for logger in trainer.loggers)
