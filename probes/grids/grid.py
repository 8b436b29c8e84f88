"""What every grid of probes shares: its shape, its scores, its AUC maps. Its children do the fitting."""

import logging
from dataclasses import replace
from itertools import product
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from datamodules.card import Card, is_control, show_text
from probes.analysis.auc_map import AUCMap, choose_cell
from probes.grids.grid_auroc import GridAUROC
from probes.settings import check_precision
from probes.solver.inputs import NotFiniteError
from probes.solver.precision import full_precision

log = logging.getLogger(__name__)


class ProbeGrid(pl.LightningModule):
    """One probe for every target and layer-token cell: linear, unless a child has other parameters and its own `score`.

    `weight` [K, L, T, D] and `bias` [K, L, T] are float32, NaN where there is no probe. `card` is that of the data the
    probes were fitted on, or of the checkpoint. `tested` describes the data they were last scored on, in the rows and
    columns of the probes. After validation and test, `maps` holds K maps under `val` and `test`, the same on every
    rank. `fitted` is what summary.json says about the fit: JSON-ready, the same on every rank. `described` is what
    stands over the map.
    """

    described: str
    tested: Card
    own_cells: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.card: Card | None = None
        self._data_card: Card | None = None  # of the datamodule
        self.maps: dict[str, list[AUCMap]] = {}
        self.improved = True  # whether the probes of the last validation are the best so far
        self.fitted: dict[str, Any] = {}
        self.table = "examples.parquet"  # what people find the rows of examples in
        self.offset: Tensor | None = None  # [K or 1, N of the data], added to the scores of its examples
        self.analyses: list[Any] = []  # of the record, on global rank zero after the test; `ScoreRecord` makes them
        self.record: Any = None  # `Scores` that were analysed, likewise
        # [L * T of the data], cell of the probes; -1 where they have none.
        self.register_buffer("own_cells", torch.empty(0, dtype=torch.int64), persistent=False)

    def setup(self, stage: str) -> None:
        """Take the shape of the grid from the datamodule, or find its rows and columns in the datamodule's by name.

        Raises:
            ValueError: the datamodule lacks a layer, a position or the width of the probes; a precision that rounds the
                probes.
        """
        check_precision(self.trainer.precision)
        card: Card = self.trainer.datamodule.card  # type: ignore[attr-defined]
        self._data_card = card
        if stage == TrainerFn.FITTING:
            self.maps, self.improved = {}, True
        if self.card is None or (stage == TrainerFn.FITTING and self.card != card):
            self._shape(card)  # afresh: probes that saw other rows would be a start that knows these
        self._match(card)

    def tensors(self) -> dict[str, Tensor]:
        """What probes.safetensors holds: the tensors [K, L, T, ..] that `score` takes for one cell, in its order."""
        return {"weight": self.weight, "bias": self.bias}

    @staticmethod
    def score(acts: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Scores [K, N] of activations [N, D] by the K probes of one cell, weight [K, D] and bias [K]."""
        return weight @ acts.mT + bias[:, None]

    @full_precision()
    def forward(self, acts: Tensor, cells: Tensor) -> Tensor:
        """Score examples: the higher, the likelier label 1; above 0 where that is likelier than not.

        Args:
            acts: [C, N, D] of any float dtype.
            cells: [C] int64, `l * T + t` in the grid of the probes.

        Returns:
            [K, C, N] float64; NaN in a cell without a probe.
        """
        parts = (tensor.flatten(1, 2)[:, cells].transpose(0, 1) for tensor in self.tensors().values())
        probes = zip(*parts, strict=True)
        # One cell at a time: only one is ever held in double precision.
        scores = [
            self.score(a.double(), *(part.double() for part in probe)) for a, probe in zip(acts, probes, strict=True)
        ]
        if not scores:
            return acts.new_empty(len(next(iter(self.tensors().values()))), 0, acts.shape[1], dtype=torch.float64)
        return torch.stack(scores, 1)

    def validation_step(self, block: dict[str, Tensor]) -> dict[str, Tensor]:
        """Score a block of validation rows; see `score_block`."""
        return self.score_block(block, "val")

    def test_step(self, block: dict[str, Tensor]) -> dict[str, Tensor]:
        """Score a block of test rows; see `score_block`."""
        return self.score_block(block, "test")

    def on_validation_epoch_end(self) -> None:
        """Gather the validation maps and log their summary."""
        self._gather("val")

    def on_test_epoch_end(self) -> None:
        """Gather the test maps and log their summary."""
        self._gather("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the card, which holds the shape of the grid."""
        assert self.card is not None
        checkpoint["card"] = self.card.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make parameters of the checkpoint's shape; those of version 0.1, without targets, get an axis of one.

        Raises:
            ValueError: the datamodule lacks something of the checkpoint, or a fit is to go on with another grid.
        """
        self._shape(Card.from_json(checkpoint["card"]))
        if self._data_card is not None:  # `setup` came first, and matched other names
            self._match(self._data_card)
            grids = [(card.layers, card.positions, len(card.targets)) for card in (self.card, self._data_card) if card]
            if self.trainer.state.fn == TrainerFn.FITTING and grids[0] != grids[1]:
                raise ValueError(
                    "fit: expected the layers, positions and number of targets of the checkpoint, in its order, got "
                    "others; choose these, or fit without the checkpoint"
                )
        state, own = checkpoint["state_dict"], self.state_dict()
        for name, part in state.items():
            if name in own and part.shape == own[name].shape[1:]:
                state[name] = part[None]

    def make_parameters(self, K: int, L: int, T: int, D: int) -> None:
        """Make `weight` and `bias`; a child with other parameters makes those."""
        self.weight = nn.Parameter(torch.full((K, L, T, D), torch.nan))
        self.bias = nn.Parameter(torch.full((K, L, T), torch.nan))

    def score_block(self, block: dict[str, Tensor], split: str) -> dict[str, Tensor]:
        """Score the cells of a block that have a place in the grid of the probes, and add them to the maps.

        Returns:
            scores [K, C, N] float32, NaN where not valid; cells [C] in the grid of the probes; and of the block labels
            [K, N], held [K, N], examples [N] and groups [N]. C is 0 where the probes have none of the cells.

        Raises:
            ValueError: a valid activation that is not finite; names layer, position and example.
        """
        acts, valid, cells = block["acts"], block["valid"], self.own_cells[block["cells"]]
        if self.own_cells.numel() > self.tested.shape[1] * self.tested.shape[2]:  # the data has more than the probes
            here = cells >= 0
            acts, valid, cells = acts[here], valid[:, here], cells[here]
        K = len(self.tested.targets)  # one probe or one label set stands beside all of the other
        labels, valid = block["labels"].expand(K, -1), valid.expand(K, -1, -1)
        scores = self(acts, cells)
        if self.offset is not None:
            scores = scores + self.offset[:, None, block["examples"]]
        scores = scores.float().expand(K, -1, -1)  # as they are recorded
        if (valid & ~scores.isfinite()).any():  # or the cell has no probe
            self.refuse_not_finite(block)
            valid = valid & ~scores.isnan()  # a cell without a probe scores no example
        metric = cast(GridAUROC, self.aurocs[split])
        of_target = torch.arange(K, device=cells.device)[:, None] * (metric.auc.numel() // K)
        each = (scores, labels[:, None].expand_as(valid), valid, of_target + cells)
        flat = [part.flatten(0, 1) for part in each]
        metric.update(*flat, groups=block["groups"])
        return {
            "scores": scores.where(valid, torch.nan),
            "cells": cells,
            "labels": labels,
            "examples": block["examples"],
            "groups": block["groups"],
            "held": block["held"].expand(K, -1),
        }

    def refuse_not_finite(self, block: dict[str, Tensor]) -> None:
        """Name layer, position and example of the first valid activation of a block that is not finite, if any.

        Raises:
            ValueError: there is one.
        """
        cells = self.own_cells[block["cells"]]
        broken = (block["valid"].any(0) & ~block["acts"].isfinite().all(-1) & (cells >= 0)[:, None]).nonzero()
        if len(broken):
            cell, row = broken[0].tolist()
            place, example = self.name_cells(cells[cell : cell + 1]), int(block["examples"][row])
            raise NotFiniteError(f"at {place}, example {example} (a row of {self.table})")

    def print(self, *texts: Any, **settings: Any) -> None:
        """Print on global rank zero, with control characters of names written out."""
        super().print(*(show_text(str(text)) for text in texts), **settings)

    def name_cells(self, cells: Tensor, most: int = 3) -> str:
        """Layer and position of cells [c] of the probes, the first few of many."""
        assert self.card is not None
        names = []
        for cell in cells[:most].tolist():
            layer, position = divmod(cell, len(self.card.positions))
            name = self.card.positions[position].removeprefix("position ")  # as those without a name are called
            names.append(f"layer {self.card.layers[layer]}, position {name}")
        return "; ".join(names) + (f" and {len(cells) - most} more" if len(cells) > most else "")

    def tell_beyond_float32(self, odd: Tensor) -> None:
        """Warn of probes, bool [M] in the order of K, L, T, that no fit could give weights for their activations."""
        assert self.card is not None
        cells = odd.view(len(self.card.targets), -1).any(0)
        if self.trainer.is_global_zero and odd.any():
            log.warning(
                f"fit: {int(odd.sum())} probes are NaN, as their activations are above 1e18 or differ by less than "
                f"1e-18, beyond float32: {self.name_cells(cells.nonzero()[:, 0])}; scale them"
            )

    def name_limit(self, split: str) -> str | None:
        """The setting of the trainer that limits the batches of train, val or test; None where it takes all."""
        if fast := getattr(self.trainer, "fast_dev_run", False):
            return f"trainer.fast_dev_run={str(fast).lower()}"
        limit = getattr(self.trainer, f"limit_{split}_batches")
        everything = isinstance(limit, float) and limit == 1  # a whole number 1 is one batch
        return None if everything else f"trainer.limit_{split}_batches={limit}"

    def _shape(self, card: Card) -> None:
        self.card = card
        K, L, T, D = card.shape
        self.make_parameters(K, L, T, D)

    def _match(self, card: Card) -> None:
        """Find the rows and columns of the probes in those of the data, and pair their targets."""
        own = self.card
        assert own is not None
        card.require(own)
        if (own.model, own.site) != (card.model, card.site):
            log.warning(
                f"test: the probes were fitted on {own.site} of {own.model}, these activations are {card.site} of "
                f"{card.model}"
            )
        numbers = {cell: number for number, cell in enumerate(product(own.layers, own.positions))}
        cells = [numbers.get(cell, -1) for cell in product(card.layers, card.positions)]
        self.own_cells = torch.tensor(cells, device=self.device)
        targets = card.targets
        if len(targets) < len(own.targets):  # one label set for all probes
            targets = tuple(replace(target, counts=targets[0].counts) for target in own.targets)
        tested = replace(card.choose(own.layers, own.positions), targets=targets)
        if getattr(self, "tested", tested) != tested:
            self.maps = {}  # of other data
        self.tested = tested
        n_cells = len(targets) * len(numbers)
        self.aurocs = nn.ModuleDict({split: GridAUROC(n_cells).to(self.device) for split in ("val", "test")})

    def _gather(self, split: str) -> None:
        metric = cast(GridAUROC, self.aurocs[split])
        K, L, T, _ = self.tested.shape
        result = {name: value.view(K, L, T).cpu() for name, value in metric.compute().items()}
        metric.reset()
        layers, positions = self.tested.layers, self.tested.positions
        tensors = zip(*(result[name] for name in ("auc", "auc_se", "n", "n_positive")), strict=True)
        self.maps[split] = [
            AUCMap(target.name, split, layers, positions, *of_target)
            for target, of_target in zip(self.tested.targets, tensors, strict=True)
        ]
        scored = int((result["n"] > 0).any(0).sum())
        if (limit := self.name_limit(split)) and scored < L * T and not self.trainer.sanity_checking:
            self.print(f"{split}: {scored} of {L * T} cells are scored; {limit} leaves out the others")
        shown = self._without_controls(self.maps[split])
        # Each split of a label set by its own validation rows: those of another are among its test rows.
        by = self._without_controls(self.maps["val"]) if "val" in self.maps else [None] * len(shown)
        chosen = [choose_cell(one, of_val) for one, of_val in zip(shown, by, strict=True)]
        found = [
            (one.auc[choice.cell], one.auc[one.readable()].mean())
            for one, choice in zip(shown, chosen, strict=True)
            if choice
        ]
        if len(found) == len(shown):
            best, mean = (torch.stack(values).mean() for values in zip(*found, strict=True))
            # The same on every rank. To sync would take tensors of the CPU through a backend that may have none.
            self.log_dict({f"{split}/auc_best": best, f"{split}/auc_mean": mean}, prog_bar=True, sync_dist=False)

    def _without_controls(self, maps: list[AUCMap]) -> list[AUCMap]:
        return [one for one, target in zip(maps, self.tested.targets, strict=True) if not is_control(target.label)]
