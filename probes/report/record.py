"""The record of scores: the callback that collects every out-of-sample score, writes scores.safetensors, and has the
record analysed.
"""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from probes.analysis.analysis import analyse
from probes.analysis.scores import PARTS, SCORES, TENSORS, Scores, find_misfit, join_parts
from probes.report.run_folder import read_examples
from probes.report.whole_file import whole_file
from probes.settings import Bytes, Folder

log = logging.getLogger(__name__)


class ScoreRecord(pl.Callback):
    """Keeps the scores of the last validation and of the test, and writes them when testing ends.

    After the test the record and its analysis are in ``record`` and ``analyses`` of the module, for the callbacks that
    come behind. Every rank holds the scores of all cells, its own filled in; global rank zero writes their sum. After a
    fit of several epochs the validation scores are those of the probes that are kept.

    Args:
        folder: where scores.safetensors goes; made if missing. If it holds examples.parquet, that is analysed too.
            Where None, the scores stay in memory, in ``scores``, and nothing is analysed.
        max_bytes: of all scores; above it they are left out, and the run says so.
    """

    def __init__(self, folder: Folder | None, max_bytes: Bytes = 1e9) -> None:
        if not isinstance(max_bytes, int | float) or max_bytes < 0:
            raise ValueError(f"scores.max_bytes: expected a number of bytes of at least 0, got {max_bytes!r}")
        self.folder, self.max_bytes = None if folder is None else Path(folder), max_bytes
        self.scores: Scores | None = None  # of the last test or validation, on global rank zero
        self.parts: dict[str, Scores] = {}
        self._resumed: dict[str, Scores] = {}
        self._latest: Scores | None = None  # of the split that is being scored
        self._scored: Tensor | None = None  # [L * T], how often each cell was
        self._left_out = 0  # bytes

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Forget the scores of earlier probes, but for those that the checkpoint of a resumed fit brought."""
        self.parts, self._resumed, self._left_out = self._resumed, {}, 0

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the validation scores of the best epoch, which a resumed fit may never see again."""
        if "val" in self.parts and trainer.state.stage is not None:  # a finished fit has its file
            val = self.parts["val"]
            checkpoint["val_scores"] = {name: getattr(val, name) for name in (*TENSORS, "groups")}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take them back, for a fit that goes on."""
        if trainer.state.fn == TrainerFn.FITTING and "val_scores" in checkpoint:
            saved = checkpoint["val_scores"]
            if fault := find_misfit(saved, pl_module.tested):
                raise ValueError(f"ckpt_path: expected a checkpoint of this data, got one with {fault}; take another")
            self._resumed = {"val": Scores(**saved, card=pl_module.tested)}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begin anew."""
        self._latest = None

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begin anew."""
        self._latest = None

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the scores of a block."""
        self._add("val", pl_module, outputs)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the scores of a block."""
        self._add("test", pl_module, outputs)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Keep the validation scores, if their probes are the best so far; write them where nothing else is asked."""
        alone = trainer.state.fn == TrainerFn.VALIDATING
        if self._latest is not None and not trainer.sanity_checking and (pl_module.improved or alone):
            self.parts["val"] = self._sum_over_ranks(self._latest, pl_module.device)
        if alone:
            self._write(trainer, pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the file, and analyse the record."""
        if self._latest is not None:
            self.parts["test"] = self._sum_over_ranks(self._latest, pl_module.device)
        self._write(trainer, pl_module)
        pl_module.analyses, pl_module.record = [], None
        if self.scores is not None and self.folder is not None and "test" in self.parts:
            pl_module.record = self.scores
            pl_module.analyses = analyse(self.scores, read_examples(self.folder))

    def _write(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Put the scores together on global rank zero, and write them where there is a folder."""
        # Row numbers of other data would lead to other examples.
        self.parts = {split: one for split, one in self.parts.items() if one.card == pl_module.tested}
        self.scores = None
        if not trainer.is_global_zero:
            return
        if self._left_out:
            log.warning(
                f"scores: {self._left_out:,} bytes are more than scores.max_bytes = {self.max_bytes:,.0f}, and "
                f"{SCORES} is left out; raise it to keep them"
            )
            if self.folder is not None:  # of an earlier run into the same folder
                (self.folder / SCORES).unlink(missing_ok=True)
        elif self.parts:
            self.scores = join_parts(self.parts)
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                with whole_file(self.folder / SCORES) as path:
                    path.write_bytes(self.scores.to_bytes())

    def _add(self, split: str, module: Any, outputs: dict[str, Tensor]) -> None:
        K, L, T, _ = module.tested.shape
        outputs = {name: part.cpu() for name, part in outputs.items()}
        if self._latest is None:
            n = len(outputs["examples"])
            others = sum(
                one.scores.nbytes for name, one in self.parts.items() if name != split and one.card == module.tested
            )
            if others + 4 * K * L * T * n > self.max_bytes:
                self._left_out = others + 4 * K * L * T * n
                return
            part = outputs["held"].to(torch.uint8) * PARTS[split]
            # Zero for now, so that the ranks' cells can be summed up.
            scores, labels = torch.zeros(K, L, T, n), outputs["labels"].to(torch.uint8)
            self._latest = Scores(scores, outputs["examples"], part, labels, outputs["groups"], module.tested)
            self._scored = torch.zeros(L * T, dtype=torch.int64)
        assert self._scored is not None
        self._latest.scores.flatten(1, 2)[:, outputs["cells"]] = outputs["scores"]
        self._scored[outputs["cells"]] += 1

    def _sum_over_ranks(self, latest: Scores, device: torch.device) -> Scores:
        """Put the cells of all ranks together, a layer at a time on the device, where every backend can.

        A cell that no rank scored is NaN.
        """
        assert self._scored is not None
        scored = self._scored.to(device, copy=True)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(scored)
            for layer in latest.scores.transpose(0, 1):
                on_device = layer.to(device, copy=True)
                dist.all_reduce(on_device)
                layer.copy_(on_device)
        latest.scores.flatten(1, 2)[:, scored.cpu() == 0] = torch.nan
        return latest
