"""Which classes and functions a `_target_` may name: a configuration from elsewhere calls nothing else."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import _locate  # get_object logs two lines of its own
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from probes.jobs.command.shipped import read_shipped

OURS = ("datamodules", "probes")
THEIRS = ("torch.optim", "pytorch_lightning", "torchmetrics")  # of these the classes alone
PROGRAMS = ("pytorch_lightning.cli.", "probes.jobs.", "datamodules.language.cache.")  # do things when they are called
ALLOWED = "allow_targets"
CALLED = ("_target_", "()", "class")  # keys of what Hydra and Python's logging call
PLUGINS = (  # what may stand in the node `hydra`
    "hydra._internal.core_plugins.", "hydra.experimental.", "hydra_plugins.", "optuna.samplers.", "logging.",
    "colorlog.", "ext://sys.std",
)  # fmt: skip
OF_HYDRA = (  # what conf/ has there
    "probes.jobs.command.claim.RunFolder", "probes.jobs.sweep.sweep.Sweep", "probes.jobs.messages.WithoutNoise",
    "probes.jobs.log_lines.LogLines",
)  # fmt: skip


def refuse_other_targets(cfg: DictConfig) -> None:
    """Refuse a `_target_` that is none of this project, torch.optim, pytorch_lightning or torchmetrics.

    `allow_targets` adds dotted names, or packages and modules whose own classes and functions may then be named. It
    counts on the command line and in `hydra.compose` alone: a file that could allow its own targets would not be held
    by this. The module of a name that is not allowed is not imported. What another module only imports, as in
    `probes.grids.grid.torch.load`, is refused by where it was defined. Functions of this project pass where conf/
    names them.
    The node `hydra` is checked by `refuse_other_targets_of_hydra`.

    Raises:
        ValueError: names the first such key, and what allows it.

    Example:
        >>> command = {"_target_": "os.system", "command": "ls"}
        >>> refuse_other_targets(OmegaConf.create({"command": command}))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: command._target_: expected a class of datamodules, probes, torch.optim, pytorch_lightning or ...
    """
    more = _read_allowed(cfg)
    shipped = read_shipped().arguments
    for key, target in iterate_targets(cfg, ""):
        if not isinstance(target, str) or not target:
            raise ValueError(f"{key}: expected the dotted name of a class, got {target!r}")
        if target not in shipped and target not in more:
            _check(key, target, more)


def iterate_targets(node: DictConfig | ListConfig, place: str) -> Iterator[tuple[str, Any]]:
    """Every `_target_` in a configuration with its key, interpolations resolved as far as they can be."""
    names: Any = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for name in names:
        key = f"{place}.{name}" if place else str(name)
        if key == "hydra":
            continue
        value = None
        with suppress(OmegaConfBaseException):  # what is missing is told by who needs it
            value = node[name]
        if name == "_target_":
            yield key, value
        elif isinstance(value, DictConfig | ListConfig) and not value._is_none() and not value._is_missing():
            yield from iterate_targets(value, key)


def load_target(key: str, target: str) -> Any:
    """What a `_target_` names.

    Raises:
        ValueError: there is no such module or name; `key` is named.
    """
    try:
        return _locate(target)
    except Exception as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{key}: expected a class that can be imported, got {target}: {cause}") from None


def _read_allowed(cfg: DictConfig) -> list[str]:
    allowed: Any = list(cfg.get(ALLOWED) or [])
    if not allowed or not HydraConfig.initialized():
        return allowed
    if not any(given.lstrip("+").startswith(f"{ALLOWED}=") for given in HydraConfig.get().overrides.task):
        raise ValueError(
            f"{ALLOWED}: expected on the command line, got {allowed} from a file, which could allow anything; if you "
            f"trust it, write '{ALLOWED}=[{','.join(map(str, allowed))}]'"
        )
    return allowed


def _check(key: str, target: str, more: list[str]) -> None:
    package = next((one for one in (*OURS, *THEIRS, *more) if target.startswith(f"{one}.")), None)
    if package is None:
        _refuse(key, target, "")
    if any(part.startswith("_") for part in target.split(".")) or target.startswith(PROGRAMS):
        _refuse(key, target, ", which is no part to build with")
    found = load_target(key, target)
    own = str(getattr(found, "__module__", None))
    if not f"{own}.".startswith(f"{package}."):
        _refuse(key, target, f", which is {own}.{getattr(found, '__qualname__', found)}")
    if not inspect.isclass(found) and not (inspect.isfunction(found) and package in more):
        _refuse(key, target, ", which is neither class nor function" if package in more else ", which is no class")


@contextmanager
def refuse_other_targets_of_hydra() -> Iterator[None]:
    """Hold the node `hydra` against what Hydra may build there, before it does: its callbacks and its logging.

    What stands on the command line is the user's own. A configuration from elsewhere may name Hydra's plugins, and what
    this project sets there.

    Raises:
        ValueError: names the first other class or function.
    """
    load = ConfigLoaderImpl.load_configuration

    def load_and_check(self: Any, *arguments: Any, **more: Any) -> DictConfig:
        cfg = load(self, *arguments, **more)
        typed = str(OmegaConf.to_container(cfg.hydra.overrides.hydra))  # unresolved: some values are those of a job
        for key, target in _iterate_called(cfg.hydra, "hydra"):
            if target not in OF_HYDRA and not target.startswith(PLUGINS) and target not in typed:
                raise ValueError(
                    f"{key}: expected what Hydra's plugins or this project define, got {target}; remove it"
                )
        return cfg

    ConfigLoaderImpl.load_configuration = load_and_check
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load


def _iterate_called(node: DictConfig | ListConfig, place: str) -> Iterator[tuple[str, str]]:
    """What Hydra and Python's logging would import, with its key: `_target_`, `()`, `class`, and ext:// anywhere."""
    names: Any = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for name in names:
        held = node._get_node(name)
        if isinstance(held, DictConfig | ListConfig):
            if not held._is_none() and not held._is_missing() and not held._is_interpolation():
                yield from _iterate_called(held, f"{place}.{name}")
            continue
        value = held._value() if held is not None else None  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(value, str) and (name in CALLED or value.startswith("ext://")):
            yield f"{place}.{name}", value


def _refuse(key: str, target: str, which: str) -> None:
    raise ValueError(
        f"{key}: expected a class of {', '.join((*OURS, *THEIRS)[:-1])} or {THEIRS[-1]}, got {target}{which}; if you "
        f"trust it, write '{ALLOWED}=[{target}]'"
    )
