"""Probes by their names of the command line, with the settings that conf/probe gives them."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch.optim.lr_scheduler import CosineAnnealingLR

from probes.grids.grid import ProbeGrid
from probes.grids.logistic import LogisticGrid
from probes.grids.mass_mean import MassMeanGrid
from probes.grids.minibatch import LinearGrid, MLPGrid

EPOCHS, BATCH, PATIENCE = 30, 256, 10


class NamedProbe(NamedTuple):
    """A module, and how it is trained.

    Attributes:
        module: not fitted.
        epochs: of the trainer.
        batch_size: examples of a batch; None where cells come whole.
        callbacks: of the trainer.
    """

    module: ProbeGrid
    epochs: int = 1
    batch_size: int | None = None
    callbacks: tuple[Callback, ...] = ()


def make_probe(name: str, settings: Mapping[str, Any]) -> NamedProbe:
    """Make a probe from its name.

    Args:
        name: `logistic`, `paper`, `mass_mean`, `minibatch` or `mlp`.
        settings: of its class, beside or in place of the usual ones; of `minibatch` and `mlp` also epochs and
            batch_size.

    Raises:
        ValueError: another name, a setting that the probe does not take, or one of the wrong kind.

    Example:
        >>> make_probe("logistic", {"l2": 100}).module.described
        'logistic regression, standardised, l2 = 100'
    """
    exact: dict[str, tuple[Callable[..., ProbeGrid], dict[str, Any]]] = {
        "logistic": (LogisticGrid, {}),
        "paper": (LogisticGrid, {"l2": 1.0, "standardize": False}),
        "mass_mean": (MassMeanGrid, {}),
    }
    trained: dict[str, tuple[Callable[..., ProbeGrid], float]] = {
        "minibatch": (LinearGrid, 0.02),
        "mlp": (MLPGrid, 0.003),
    }
    if name in exact:
        make, usual = exact[name]
        if settings.get("offset") is not None:
            raise ValueError("offset: expected none, as arrays hold no baselines, got one; use the command line")
        return NamedProbe(_make(make, usual | dict(settings), ()))
    if name in trained:
        make, rate = trained[name]
        given = {"epochs": EPOCHS, "batch_size": BATCH} | dict(settings)
        epochs, batch_size = given.pop("epochs"), given.pop("batch_size")
        if type(epochs) is not int or epochs < 1:
            raise ValueError(f"epochs: expected a whole number above 0, got {epochs!r}")
        usual = {
            "optimizer": partial(torch.optim.Adam, lr=rate),
            "scheduler": partial(CosineAnnealingLR, T_max=epochs),
        }
        stop = EarlyStopping("val/auc_mean", mode="max", patience=PATIENCE, strict=False)
        return NamedProbe(_make(make, usual | given, ("epochs", "batch_size")), epochs, batch_size, (stop,))
    raise ValueError(f"probe: expected one of {', '.join([*exact, *trained])}; got {name!r}")


def _make(make: Callable[..., ProbeGrid], settings: dict[str, Any], beside: tuple[str, ...]) -> ProbeGrid:
    known = [*inspect.signature(make).parameters, *beside]
    if unknown := [key for key in settings if key not in known]:
        raise ValueError(
            f"{unknown[0]}: expected a setting of fit_grid, or one of {', '.join(known)}; correct the name"
        )
    return make(**settings)
