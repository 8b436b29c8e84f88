"""A checkpoint that a fit goes on from: checked before it is used, and one line where it does not fit."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from datamodules.card import Card

if TYPE_CHECKING:
    import pytorch_lightning as pl

PARTS = {
    "epoch": int,
    "global_step": int,
    "state_dict": Mapping,
    "card": Mapping,
    "loops": Mapping,
    "callbacks": Mapping,
    "optimizer_states": list,
    "lr_schedulers": list,
}


@contextmanager
def restoring(trainer: "pl.Trainer", path: str | None) -> Iterator[None]:
    """Check a checkpoint, and turn what Lightning raises while it takes it up into one line.

    Args:
        trainer: that is to fit within the block.
        path: of the checkpoint; None: there is nothing to go on from.

    Raises:
        ValueError: a file that is no checkpoint of a run, was damaged, or does not fit this run.

    Example:
        >>> with restoring(trainer, path):  # doctest: +SKIP
        ...     trainer.fit(probe, datamodule, ckpt_path=path, weights_only=True)
    """
    if path is None:
        yield
        return
    saved = -1
    if not Path(path).is_dir():  # a folder is a checkpoint in parts, which Lightning puts together
        saved = check_checkpoint(Path(path), trainer.fit_loop.state_dict())
    try:
        yield
    except Exception as error:
        # States of optimizers and callbacks are first used in the epoch that follows that of the checkpoint.
        restored = not trainer._checkpoint_connector._loaded_checkpoint and trainer.current_epoch > saved + 1
        if restored or isinstance(error, (ValueError, OSError, torch.OutOfMemoryError)):
            raise
        _refuse(path, f"one that does not fit this run ({_shorten(error)})", "; choose the settings it was fitted with")


def check_checkpoint(path: Path, fit_loop: Mapping[str, Any]) -> int:
    """Refuse a file that is no checkpoint of a fit of probes, or whose parts contradict each other.

    Only tensors and plain values are read: code in the file is never run.

    Args:
        path: the file.
        fit_loop: state of a fit loop, whose form the one in the file must have.

    Returns:
        The number of its epoch, from 0.

    Raises:
        ValueError: see above.
    """
    if not path.is_file():  # a pipe would wait for its writer
        _refuse(path, "no regular file")
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()  # torch does not hold all parts against their checksums
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        _refuse(path, "a file with code of its own, or a damaged one")
    except Exception as error:  # readers of damaged files raise nearly anything
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            raise
        _refuse(path, f"one that cannot be read ({_shorten(error)})")
    if damaged:
        _refuse(path, f"one whose part {_shorten(damaged)} was altered")
    if not isinstance(content, dict):
        _refuse(path, f"a {type(content).__name__}")
    for name, kind in PARTS.items():
        if not isinstance(content.get(name), kind):
            _refuse(path, f"one without {name}, or with {name} of another kind")
    if not content["optimizer_states"]:  # Lightning would begin with new ones
        _refuse(path, "one without optimizer_states")
    try:
        card = Card.from_json(content["card"])
    except ValueError as error:
        _refuse(path, f"one whose card is another ({error})")
    K, L, T, _ = card.shape
    for name, tensor in content["state_dict"].items():
        if not isinstance(tensor, torch.Tensor):
            _refuse(path, f"one with {_shorten(name)} that is no tensor")
        if tensor.isinf().any():
            _refuse(path, f"one with infinity in {_shorten(name)}")
    bias = content["state_dict"].get("bias")
    if bias is not None and tuple(bias.shape) not in ((K, L, T), (L, T)):  # without targets in version 0.1
        _refuse(path, f"one with bias {list(bias.shape)} where its card asks for {[K, L, T]}")
    if not _has_form(content["loops"].get("fit_loop"), fit_loop):
        _refuse(path, "one whose fit loop has another form")
    return content["epoch"]


def _has_form(saved: Any, own: Any) -> bool:
    """Whether a saved state has values of the same kinds under the same names, as far as both have them."""
    if isinstance(own, Mapping):
        return isinstance(saved, Mapping) and all(_has_form(saved[key], own[key]) for key in own if key in saved)
    return type(saved) is type(own) and not (isinstance(own, int) and saved < 0)


def _shorten(error: object) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _refuse(path: str | Path, got: str, do: str = "; take one of a run, such as last.ckpt") -> NoReturn:
    raise ValueError(f"ckpt_path: expected a checkpoint of a fit of probes, got {path}, {got}{do}") from None
