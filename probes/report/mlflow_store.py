"""MLflow's store in a file: opened by one process at a time, as opening it the first time makes its tables."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock
from pytorch_lightning.loggers import MLFlowLogger

from probes.settings import Text

SQLITE = "sqlite:///"


def open_mlflow(tracking_uri: Text, **settings: Any) -> MLFlowLogger:
    """Lightning's MLFlowLogger, made safely where several jobs or ranks share a new SQLite file.

    Args:
        tracking_uri: address of the store: ``sqlite:///mlflow.db``, or that of a server.
        settings: other arguments of MLFlowLogger.
    """
    lock = nullcontext()
    if tracking_uri.startswith(SQLITE):
        path = Path(tracking_uri.removeprefix(SQLITE))
        path.parent.mkdir(parents=True, exist_ok=True)
        name = settings.get("experiment_name", "lightning_logs")
        settings.setdefault("artifact_location", str((path.parent / "mlruns" / name).resolve()))
        lock = FileLock(f"{path}.lock")
    with lock:
        return MLFlowLogger(tracking_uri=tracking_uri, **settings)
