"""Probes for every cell of activations in memory, in one call."""

import io
import math
import operator
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from hydra.utils import get_class
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.utilities.seed import isolate_rng

from probes.python.fitted_grid import FittedGrid
from probes.python.named_probes import make_probe
from probes.python.quiet import collect_words, pass_interrupts_on
from probes.report.record import ScoreRecord


def fit_grid(
    acts: Any,
    labels: Any,
    groups: Any = None,
    valid: Any = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[str] | None = None,
    targets: Sequence[str] | str | None = None,
    *,
    probe: str = "logistic",
    seed: int | Sequence[int] = 0,
    val: float = 0.15,
    test: float = 0.25,
    control_labels: bool = False,
    classes: Sequence[str] | None = None,
    device: str | torch.device = "auto",
    model: str = "precomputed",
    dataset: str = "in memory",
    site: str = "activations",
    **settings: Any,
) -> FittedGrid:
    """Fit a probe in every cell on train rows, and score it on validation and test rows.

    It is what `python train.py datamodule=precomputed` does with a file of these tensors, and gives the same numbers;
    but in memory, without a word, and without a file. `FittedGrid.notes` holds what a run would have warned of.

    Args:
        acts: [N, L, T, D], a tensor on any device or an array, in float16, bfloat16, float32 or float64. It is not
            copied as a whole.
        labels: [N], 0 or 1 in any dtype; or [M, N], M label sets that are fitted together; or [N] texts, the classes,
            each of which against the rest is a target.
        groups: [N] numbers or texts, equal for examples that must stay in one split, as those of one question.
        valid: [N, T] bool, false where an example lacks a position.
        layers: [L] numbers of the rows; 0 .. L - 1 by default.
        positions: [T] names of the columns; `position 0` and so on by default.
        targets: [M] names of what label 1 of each label set means; for one set a text will do.
        probe: `logistic`, `paper` (as in the study), `mass_mean`, `minibatch` or `mlp`.
        seed: of the split; several give a target for each.
        val: share of the examples for validation.
        test: share of the examples for test.
        control_labels: also fit random labels, whose map is what a probe can read of nothing.
        classes: [K] names, where labels [N] number them from 0.
        device: where the probes are fitted: `auto` (the GPU where there is one), `cpu`, `cuda` or `cuda:1`.
        model, dataset, site: what people are shown.
        settings: of the probe, such as `l2` and `standardize` of `logistic`; see `LogisticGrid`, `MassMeanGrid`,
            `LinearGrid` and `MLPGrid`.

    Raises:
        ValueError: shapes, labels, names or settings that do not fit; a split without one of the classes; a valid
            activation that is not finite.

    Example:
        >>> acts, labels = torch.randn(400, 4, 2, 8), torch.arange(400) % 2
        >>> acts[:, 2, 1, 0] += 3 * labels  # one cell tells
        >>> grid = fit_grid(acts, labels, layers=[4, 8, 12, 16], positions=["first", "last"], l2=1.0)
        >>> grid.best().layer, grid.best().position
        (12, 'last')
    """
    seeds = _list_seeds(seed)
    named = make_probe(probe, settings)
    split = get_class("datamodules.split.GroupSplit")(val=val, test=test, seed=seeds if len(seeds) > 1 else seeds[0])
    arrays = get_class("datamodules.precomputed.arrays.Arrays")(
        acts, labels, groups, valid, layers, positions, targets, model, dataset, site, classes
    )
    datamodule: Any = get_class("datamodules.precomputed.PrecomputedDataModule")(
        arrays, split, batch_size=named.batch_size, seed=seeds[0], control_labels=control_labels
    )
    record = ScoreRecord(None, max_bytes=math.inf)
    module = named.module
    module.table = "acts"
    with collect_words(module) as notes:
        trainer = pl.Trainer(
            **_choose_device(device),
            max_epochs=named.epochs,
            callbacks=[*named.callbacks, record],
            plugins=[LightningEnvironment()],  # also within a SLURM job, or torchrun
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        try:
            with isolate_rng(), pass_interrupts_on():
                torch.manual_seed(seeds[0])
                trainer.fit(module, datamodule)
                trainer.test(module, datamodule, verbose=False)
        except ValueError as error:
            raise error.with_traceback(None) from None  # the way through Lightning tells nobody anything
    assert module.card is not None
    assert record.scores is not None
    return FittedGrid(
        {name: tensor.detach().cpu() for name, tensor in module.tensors().items()},
        module.card,
        record.scores,
        dict(module.maps),
        pq.read_table(io.BytesIO(datamodule.make_table())),
        module.described,
        module.fitted,
        datamodule.seconds,
        tuple(notes),
    )


def _list_seeds(seed: Any) -> list[int]:
    try:
        return [operator.index(seed)]
    except TypeError:
        pass
    try:
        seeds = [operator.index(one) for one in seed]
    except TypeError:
        seeds = []
    if not seeds:
        raise ValueError(f"seed: expected a whole number, or several, got {seed!r}")
    return seeds


def _choose_device(device: str | torch.device) -> dict[str, Any]:
    """The accelerator and the devices of a trainer."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected auto, cpu, cuda or one such as cuda:1, got {device}")
    if found.type == "cpu":
        return {"accelerator": "cpu", "devices": 1}
    if (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: expected one of {torch.cuda.device_count()} GPUs, got {device}; take cpu or auto")
    return {"accelerator": "gpu", "devices": [found.index or 0]}
