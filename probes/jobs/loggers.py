"""Loggers of a job: whether their packages are there, and the configuration that they get."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    import pytorch_lightning as pl

PACKAGES = {  # by the last part of a _target_; each is named as the extra that brings it
    "TensorBoardLogger": "tensorboard",
    "WandbLogger": "wandb",
    "MLFlowLogger": "mlflow",
    "open_mlflow": "mlflow",
}


def check_loggers(loggers: dict[str, Any] | None) -> None:
    """Refuse a logger that is none, and one whose package is not installed.

    Args:
        loggers: nodes of the configuration by name, each with a `_target_`; None for no logger.

    Raises:
        ValueError: a node has no `_target_`, or its package is missing; the line says which extra brings it.
    """
    for name, node in (loggers or {}).items():
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if target is None:
            raise ValueError(f"logger.{name}: expected a logger, got {node}; choose it with logger={name} as well")
        package = PACKAGES.get(str(target).rpartition(".")[-1])
        if package and find_spec(package) is None:
            raise ValueError(
                f"logger: expected the package {package} for logger={name}, got none; install it with "
                f"pip install -c constraints.txt -e '.[{package}]', or choose logger=csv"
            )


def report_to_loggers(trainer: "pl.Trainer", cfg: DictConfig) -> None:
    """Start the trainer's loggers, and have them get the configuration and the results of the run.

    Raises:
        ValueError: a logger does not start.
    """
    if not trainer.loggers:
        return
    from probes.report.logged import Logged, open_loggers

    open_loggers(trainer)
    trainer.callbacks.append(Logged(flatten(cfg), cfg.folder))  # type: ignore[attr-defined]


def flatten(cfg: DictConfig) -> dict[str, Any]:
    """Values of a configuration by their whole names; a group that only refers to another one is left out.

    >>> flatten(OmegaConf.create({"probe": {"l2": 1.0}, "datamodule": {"probe": "${probe}", "seed": 0}}))
    {'probe.l2': 1.0, 'datamodule.seed': 0}
    """
    return dict(_walk(cfg, ""))


def _walk(node: DictConfig, before: str) -> Iterator[tuple[str, Any]]:
    key: Any  # a text, or a label such as true
    for key in node:
        name = f"{before}{key}"
        if name in ("hydra", "checks") or OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig):
            if not OmegaConf.is_interpolation(node, key):
                yield from _walk(value, f"{name}.")
        else:
            yield name, OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
