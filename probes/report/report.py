"""What is left of a run when it is over: the callback that writes summary.json and the probes, and prints the map."""

import json
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from datamodules.card import Card
from probes.report.console import PlainConsole
from probes.report.map_files import PICTURE, caption
from probes.report.probes_file import PROBES, save_probes
from probes.report.run_folder import SUMMARY
from probes.report.summary import print_maps, summarise
from probes.report.whole_file import whole_file
from probes.settings import Folder, Terminal


class Report(pl.Callback):
    """After the test: writes summary.json and probes.safetensors; when all is over, prints the map and its reading.

    It reads ``maps``, ``card``, ``tested``, ``fitted`` and ``tensors()`` of the module, and ``seconds`` of the
    datamodule. Global rank zero only; every file appears whole or not at all.

    Args:
        folder: where the files go; made if missing. The folder of ``Heatmap``, whose picture the last lines name.
        terminal: "full" prints the map and its reading; "line" nothing, as the job of a sweep prints a line itself.
    """

    def __init__(self, folder: Folder, terminal: Terminal = "full") -> None:
        self.folder, self.terminal = Path(folder), terminal
        self._seconds: dict[str, float] = {}
        self._start = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count the seconds of the fit from here, its validation included."""
        self._start = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Stop counting."""
        self._seconds["fit and validation"] = time.monotonic() - self._start

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count the seconds of the test from here."""
        self._start = time.monotonic()

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the files."""
        self._seconds["test"] = time.monotonic() - self._start
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        card, maps, fitted = pl_module.tested, pl_module.maps, pl_module.fitted
        seconds = getattr(trainer.datamodule, "seconds", {}) | self._seconds  # type: ignore[attr-defined]
        with whole_file(self.folder / SUMMARY) as path:
            summary = summarise(card, fitted, maps, seconds, pl_module.analyses, pl_module.described, pl_module.record)
            path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", "utf-8")
        with whole_file(self.folder / PROBES) as path:
            save_probes(path, pl_module.tensors(), pl_module.card, maps)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Print, once the progress bars have left the screen."""
        shown = trainer.is_global_zero and stage == "test" and self.terminal == "full"
        if not shown or "test" not in pl_module.maps:
            return
        card: Card = pl_module.tested
        console = PlainConsole()
        title, subtitle = caption(card, pl_module.described, "test")
        console.print("", title, style="bold", sep="\n")
        console.print(" ".join(subtitle.split()), style="dim")
        print_maps(console, pl_module.maps, card, pl_module.analyses, pl_module.record)
        console.print()
        for path in (self.folder / name for name in (PICTURE, SUMMARY, PROBES)):
            if path.exists():
                console.print(str(path), soft_wrap=True)
