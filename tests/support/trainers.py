"""A trainer that writes and prints nothing by itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as pl


def quiet_trainer(folder: Path, **settings: Any) -> pl.Trainer:
    """On the CPU, for one epoch unless told otherwise; what is asked of it goes under `folder`."""
    usual: dict[str, Any] = {"max_epochs": 1, "num_sanity_val_steps": 0}
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **(usual | settings),
    )


def stand_in(rank: int, n: int) -> Any:
    """What a datamodule asks of the trainer of one of `n` ranks, nothing limited."""
    limits = {f"limit_{split}_batches": 1.0 for split in ("train", "val", "test")}
    return SimpleNamespace(global_rank=rank, world_size=n, **limits)
