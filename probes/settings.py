"""What is wrong with the settings of a probe, told before anything large is imported. Standard library only."""

from pathlib import Path
from typing import Any


def check_logistic(l2: Any, standardize: Any, tol: Any = 1e-4, max_iter: Any = 100, offset: Any = None) -> None:
    """Hold the settings of `LogisticGrid` against what it takes.

    >>> check_logistic("auto", standardize=True)

    Raises:
        ValueError: one of them is of another kind, or out of range.
    """
    path = l2 if isinstance(l2, list | tuple) else [l2]
    by_size = l2 in ("by_size", "auto")
    if not by_size and not (path and all(_is_number(value) and 0 < value < float("inf") for value in path)):
        raise ValueError(f"probe.l2: expected a number above 0, a list of such, by_size or auto; got {l2}")
    if not isinstance(standardize, bool):
        raise ValueError(f"probe.standardize: expected true or false, got {standardize!r}")
    if by_size and not standardize:
        raise ValueError(
            f"probe.l2: expected a number, or a list of such, for columns that are not standardised, got {l2}; set it, "
            "as in probe=paper, or probe.standardize=true"
        )
    if not (_is_number(tol) and tol >= 0):
        raise ValueError(f"probe.tol: expected a number of at least 0, got {tol!r}")
    if type(max_iter) is not int or max_iter < 0:
        raise ValueError(f"probe.max_iter: expected a whole number of at least 0, got {max_iter!r}")
    if offset is not None and not (isinstance(offset, str) and offset):
        raise ValueError(f"probe.offset: expected the name of a baseline, best, or null; got {offset!r}")


def check_mass_mean(whiten: Any) -> None:
    """Hold the setting of `MassMeanGrid` against what it takes; a ValueError where it is neither true nor false.

    >>> check_mass_mean(whiten=True)
    """
    if not isinstance(whiten, bool):
        raise ValueError(f"probe.whiten: expected true or false, got {whiten!r}")


def check_minibatch(l2: Any, hidden: Any = 1) -> None:
    """Hold the settings of `LinearGrid` and `MLPGrid` against what they take.

    Raises:
        ValueError: one of them is of another kind, or out of range.
    """
    if not _is_number(l2) or not 0 < l2 < float("inf"):
        raise ValueError(f"probe.l2: expected a number above 0, got {l2}; auto and lists are for probe=logistic")
    if type(hidden) is not int or hidden < 1:
        raise ValueError(f"probe.hidden: expected a whole number of at least 1, got {hidden}")


METRICS = ("val/auc_best", "val/auc_mean", "test/auc_best", "test/auc_mean", "train/loss")
TERMINAL = ("full", "line")


def check_objective(objective: Any) -> None:
    """Refuse the name of a metric that no run measures.

    >>> check_objective("val/auc_best")

    Raises:
        ValueError: it is none of `METRICS`.
    """
    if objective not in METRICS:
        raise ValueError(
            f"objective: expected one of {', '.join(METRICS)}; got {objective!r}; "
            "~checks.objective lets a probe of your own log others"
        )


def check_terminal(terminal: Any) -> None:
    """Refuse what a run cannot show in the terminal.

    >>> check_terminal("line")

    Raises:
        ValueError: it is none of `TERMINAL`.
    """
    if terminal not in TERMINAL:
        raise ValueError(f"report.terminal: expected one of {', '.join(TERMINAL)}; got {terminal!r}")


def check_precision(precision: Any) -> None:
    """Refuse a precision of the Trainer that would round the probes themselves to 16 bits.

    >>> check_precision("bf16-mixed")  # rounds no probe: a fit and its scores switch it off

    Raises:
        ValueError: it is one of these.
    """
    if str(precision) in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision: expected 32-true, which keeps probes in float32, got {precision}; leave it out. "
            "model.dtype sets that of the language model"
        )


def check_trainer(logger: Any, callbacks: Any) -> None:
    """Refuse what the Trainer gets from groups of the configuration, and would not get from here.

    >>> check_trainer(logger=False, callbacks=None)

    Raises:
        ValueError: a logger that is neither true nor false, or any callbacks.
    """
    if not isinstance(logger, bool):
        raise ValueError(f"trainer.logger: expected true or false, got {logger!r}; choose one as in logger=tensorboard")
    if callbacks is not None:
        raise ValueError(
            f"trainer.callbacks: expected callbacks in a group of their own, got {callbacks!r}; add one with "
            "+callbacks.NAME._target_=..."
        )


def check_ckpt_path(path: Any) -> None:
    """Refuse a checkpoint to go on from that is not there.

    >>> check_ckpt_path(None)

    Raises:
        ValueError: there is no such file, or folder of a checkpoint in parts.
    """
    if path is not None and not (isinstance(path, str) and Path(path).exists()):
        raise ValueError(
            f"ckpt_path: expected a checkpoint, got {path!r}, which is not there; callbacks=checkpoint saves last.ckpt "
            "in the folder checkpoints of a run"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
