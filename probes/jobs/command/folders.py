"""Folders of a job: where it was started, where it writes, and what relative paths stand for."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from probes.jobs.command.claim import claim_folder

PATHS = (
    "cache.root", "dataset.path", "dataset.test_path", "datamodule.path", "model.gguf", "rule.model.gguf",
    "spans.model.gguf", "run", "runs", "ckpt_path",
)  # fmt: skip
NAMES_OR_PATHS = (  # a name of the hub, unless there is such a folder
    "model.id", "model.adapter", "rule.model.id", "rule.model.adapter", "spans.model.id", "spans.model.adapter",
    "dataset.id",
)  # fmt: skip
SQLITE = "sqlite:///"  # before the path of a store of MLflow


def find_start_folder() -> Path:
    """Where the program was started; `hydra.job.chdir=true` takes a job to its run folder."""
    return Path(HydraConfig.get().runtime.cwd) if HydraConfig.initialized() else Path.cwd()


def find_run_folder() -> str:
    """What `${run_folder:}` stands for: the folder that Hydra made for this run; without Hydra, when it starts."""
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        is_shown = OmegaConf.is_missing(hydra.runtime, "output_dir")  # by --cfg job --resolve: there is no run
        return str(hydra.run.dir if is_shown else hydra.runtime.output_dir)
    started = datetime.now()
    return str(Path.cwd() / "outputs" / f"{started:%Y-%m-%d}" / f"{started:%H-%M-%S}")


def settle_folders(cfg: DictConfig) -> DictConfig:
    """Return a copy of a configuration in which the run folder is named, and paths hold wherever the job runs.

    Relative paths of a job that has left the start folder become absolute ones. A run that Hydra has not started, as
    in a notebook, gets its folder and `.hydra/config.yaml` here.

    Args:
        cfg: composed configuration; it is left as it is, so that it gets another folder when it is run again.

    Raises:
        ValueError: an empty `cache.root`, which would be the folder that the job runs in.
    """
    root = cfg.cache.root
    if root is None or not str(root).strip():
        raise ValueError(f"cache.root: expected a folder, got {root!r}; name one")
    settled = cfg.copy()
    settled.folder = str(cfg.folder)
    start = find_start_folder()
    if Path.cwd() != start:
        for key in (*PATHS, *NAMES_OR_PATHS):
            value = OmegaConf.select(settled, key, throw_on_missing=False)
            if value is not None:
                OmegaConf.update(settled, key, _start_at(start, value, only_existing=key in NAMES_OR_PATHS))
        for logger in (settled.get("logger") or {}).values():
            store = logger.get("tracking_uri") if isinstance(logger, DictConfig) else None
            if isinstance(store, str) and store.startswith(SQLITE):
                logger.tracking_uri = f"{SQLITE}{start / store.removeprefix(SQLITE)}"
    if not HydraConfig.initialized() and cfg.command is None:
        named = "${run_folder:" not in str(OmegaConf.to_container(cfg)["folder"])  # type: ignore[index,call-overload]
        settled.folder = str(claim_folder("folder", Path(settled.folder).absolute(), named))
        record = Path(settled.folder) / ".hydra"
        record.mkdir(exist_ok=True)
        OmegaConf.save(settled, record / "config.yaml")
    return settled


def iterate_inputs(cfg: DictConfig, start: Path) -> Iterator[Path]:
    """Files that a configuration names as inputs, and those in folders that it names, as far as they are there."""
    for key in (*PATHS, *NAMES_OR_PATHS):
        if key in ("cache.root", "run", "runs"):  # a run writes there
            continue
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        for one in value if OmegaConf.is_list(value) else [value]:
            if isinstance(one, str) and one.strip():
                path = start / Path(one).expanduser()
                found = sorted(path.iterdir()) if path.is_dir() else [path]
                yield from (file for file in found if file.is_file())


def _start_at(start: Path, value: Any, only_existing: bool) -> Any:
    if OmegaConf.is_list(value):
        return [_start_at(start, path, only_existing) for path in value]
    path = start / str(value)
    if (
        not isinstance(value, str)
        or not value.strip()
        or value.startswith("~")
        or (only_existing and not path.exists())
    ):
        return value
    return str(path)
