"""Settings of a run and of its probes: their types, and what is wrong with them beyond these. Loads nothing large.

A configuration is held against the types before anything is built, see `probes.jobs.command.values`. A `doc` says what
a message calls a type, where its parts do not say it well.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, Predicate, doc


def are_different(values: Sequence[object]) -> bool:
    """Whether no value occurs twice.

    >>> are_different([1, 2]), are_different(["a", "a"])
    (True, False)
    """
    return len({repr(value) for value in values}) == len(values)


def names_cell(value: Sequence[object]) -> bool:
    """Whether two values can be a layer and a position; of the latter some are numbers, such as -1.

    >>> names_cell([12, "last_q"]), names_cell([12, -1]), names_cell(["last_q", 12])
    (True, True, False)
    """
    layer, position = value
    return (
        type(layer) is int and layer >= 0 and (type(position) is int or (isinstance(position, str) and position != ""))
    )


Count = Annotated[int, Gt(0)]
NotNegative = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]  # what Lightning and numpy take
Positive = Annotated[float, Gt(0)]
Tolerance = Annotated[float, Ge(0)]
Rate = Annotated[float, Gt(0), Lt(1)]
Area = Annotated[float, Ge(0), Le(1)]  # under a curve
Bytes = Annotated[float, Ge(0), doc("a number of bytes of at least 0")]
Text = Annotated[str, MinLen(1)]
Folder = Annotated[str | Path, MinLen(1), doc("a folder")]
FinishedRun = Annotated[str | Path, MinLen(1), doc("the folder of a finished run, such as outputs/latest")]
FinishedRuns = Annotated[
    Sequence[FinishedRun], MinLen(1), doc("a list of folders of finished runs, such as [outputs/A,outputs/B]")
]
Penalty = Annotated[
    Positive | Annotated[Sequence[Positive], MinLen(1), Predicate(are_different)] | Literal["by_size", "auto"],
    doc("a number above 0, a list of different ones, by_size or auto"),
]
OnePenalty = Annotated[float, Gt(0), doc("a number above 0 (auto and lists are for probe=logistic)")]
ClassWeight = Annotated[Literal["balanced"] | None, doc("balanced or null")]
Baseline = Annotated[Text | None, doc("the name of a baseline, best, or null")]
Cell = Annotated[
    Annotated[Sequence[int | str], MinLen(2), MaxLen(2), Predicate(names_cell)] | None,
    doc("a layer and a position, such as [12,exact_answer_last], or null"),
]
Metric = Literal["val/auc_best", "val/auc_mean", "test/auc_best", "test/auc_mean", "train/loss"]
Terminal = Literal["full", "line"]
# What train.py, and a sweep, read of a configuration themselves.
TOP: dict[str, Any] = {
    "seed": Seed,
    "folder": Folder,
    "cache.root": Folder,
    "resume": bool,
    "objective": Text,
    "ckpt_path": Annotated[Text | None, doc("a checkpoint or null")],
    "allow_targets": Annotated[Sequence[Text], Predicate(are_different)],
    "report.terminal": Terminal,
}


def check_logistic(
    l2: Penalty,
    standardize: bool,
    tol: Tolerance = 1e-4,
    max_iter: NotNegative = 100,
    offset: Baseline = None,
    class_weight: ClassWeight = None,
    batch_size: Count | None = None,
) -> None:
    """Hold the settings of `LogisticGrid`, and the `batch_size` of its data, against what it takes.

    >>> check_logistic("auto", standardize=True)

    Raises:
        ValueError: one of them is of another kind, or out of range.
    """
    require_whole_cells(batch_size)
    path: Any = l2 if isinstance(l2, list | tuple) else [l2]
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
    _require_class_weight(class_weight)


def check_mass_mean(whiten: bool, class_weight: ClassWeight = None, batch_size: Count | None = None) -> None:
    """Hold the settings of `MassMeanGrid`, and the `batch_size` of its data, against what it takes.

    >>> check_mass_mean(whiten=True)

    Raises:
        ValueError: one of them is of another kind.
    """
    require_whole_cells(batch_size)
    if not isinstance(whiten, bool):
        raise ValueError(f"probe.whiten: expected true or false, got {whiten!r}")
    _require_class_weight(class_weight)


def check_minibatch(l2: OnePenalty, hidden: Count = 1, class_weight: ClassWeight = None) -> None:
    """Hold the settings of `LinearGrid` and `MLPGrid` against what they take.

    Raises:
        ValueError: one of them is of another kind, or out of range.
    """
    if not _is_number(l2) or not 0 < l2 < float("inf"):
        raise ValueError(f"probe.l2: expected a number above 0, got {l2}; auto and lists are for probe=logistic")
    if type(hidden) is not int or hidden < 1:
        raise ValueError(f"probe.hidden: expected a whole number of at least 1, got {hidden}")
    _require_class_weight(class_weight)


def require_whole_cells(batch_size: int | None) -> None:
    """Refuse blocks of some examples for a probe that is solved at once: each block would replace the one before.

    >>> require_whole_cells(None)

    Raises:
        ValueError: there is a number of examples.
    """
    if batch_size is not None:
        raise ValueError(
            f"datamodule.batch_size: expected null, as this probe is solved from all examples of a cell at once, got "
            f"{batch_size!r}; leave it out, or choose probe=minibatch"
        )


def check_objective(objective: Any) -> None:
    """Refuse the name of a metric that no run measures.

    >>> check_objective("val/auc_best")

    Raises:
        ValueError: it is none of `Metric`.
    """
    if objective not in get_args(Metric):
        raise ValueError(
            f"objective: expected one of {', '.join(get_args(Metric))}; got {objective!r}; "
            "~checks.objective lets a probe of your own log others"
        )


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


def check_trainer(callbacks: Any) -> None:
    """Refuse callbacks among the arguments of the Trainer, which gets them from a group of their own.

    >>> check_trainer(callbacks=None)

    Raises:
        ValueError: there are some.
    """
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


def _require_class_weight(class_weight: Any) -> None:
    if class_weight not in (None, "balanced"):
        raise ValueError(f"probe.class_weight: expected balanced or null, got {class_weight!r}; set one of these")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
