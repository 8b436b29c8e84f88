"""What classes of Lightning and torch take, where their own types say too little, or importing them takes too long."""

# pyright: reportOperatorIssue=false
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt, MinLen, Predicate, doc

from probes.settings import Count, NotNegative, Positive, Text, are_different

AtLeastZero = Annotated[float, Ge(0)]
Batches = Annotated[float, Ge(0), Le(1)] | NotNegative | None
Decay = Annotated[float, Ge(0), Lt(1)]
Mode = Literal["max", "min"]
Unlimited = Annotated[int, Ge(-1)]


def _are_numbers(text: str) -> bool:
    """Whether a text is a number of devices, or device numbers with commas."""
    parts = text.strip().removesuffix(",").split(",")
    return text.strip() == "-1" or (all(part.strip().isdecimal() for part in parts) and are_different(parts))


Devices = Annotated[
    Literal["auto", -1]
    | Count
    | Annotated[list[NotNegative], MinLen(1), Predicate(are_different)]
    | Annotated[str, Predicate(_are_numbers)],
    doc("a number of devices, a list of different device numbers, -1 or auto"),
]
Precision = Annotated[
    Literal[
        "32-true", "32", 32, "64-true", "64", 64, "16-mixed", "16", 16, "bf16-mixed", "bf16", "16-true", "bf16-true"
    ],
    doc("32-true, 64-true, 16-mixed or bf16-mixed"),
]  # fmt: skip
# All keys of conf/trainer, so that a mistake in them is told without Lightning.
TRAINER: dict[str, Any] = {
    "accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps"],
    "devices": Devices,
    "num_nodes": Count,
    "strategy": Text | type,
    "precision": Precision | None,
    "max_epochs": Annotated[int, Ge(-1)],
    "min_epochs": NotNegative | None,
    "max_steps": Unlimited,
    "min_steps": NotNegative | None,
    "fast_dev_run": bool | NotNegative,
    "limit_train_batches": Batches,
    "limit_val_batches": Batches,
    "limit_test_batches": Batches,
    "overfit_batches": Annotated[float, Ge(0), Le(1)] | NotNegative,
    "check_val_every_n_epoch": Count | None,
    "logger": Annotated[bool, doc("true or false (the group logger chooses one, as in logger=tensorboard)")],
    "num_sanity_val_steps": Unlimited,
    "enable_checkpointing": bool | None,
    "enable_progress_bar": bool | None,
    "enable_model_summary": bool | None,
    "use_distributed_sampler": bool,
    "log_every_n_steps": NotNegative,
    "accumulate_grad_batches": Count,
    "gradient_clip_val": AtLeastZero | None,
    "gradient_clip_algorithm": Literal["norm", "value"] | None,
    "default_root_dir": Text | None,
}
SHARPER: dict[str, dict[str, Any]] = {
    "pytorch_lightning.Trainer": TRAINER,
    "pytorch_lightning.callbacks.EarlyStopping": {
        "monitor": Text,
        "mode": Mode,
        "patience": NotNegative,
        "min_delta": float,
        "strict": bool,
    },
    "pytorch_lightning.callbacks.ModelCheckpoint": {
        "dirpath": Text | None,
        "filename": Text | None,
        "monitor": Text | None,
        "mode": Mode,
        "save_top_k": Unlimited,
        "save_last": bool | Literal["link"] | None,
        "every_n_epochs": NotNegative | None,
    },
    "pytorch_lightning.loggers.WandbLogger": {
        "project": Text | None,
        "save_dir": Text,
        "offline": bool,
        "reinit": bool | Literal["default", "return_previous", "finish_previous", "create_new"] | None,
    },
}
# Arguments of optimizers and schedules that mean the same in all of torch.optim.
OPTIMISATION: dict[str, Any] = {
    "lr": Positive,
    "betas": Annotated[tuple[Decay, Decay], doc("two numbers of at least 0 and below 1")],
    "eps": AtLeastZero,
    "weight_decay": AtLeastZero,
    "momentum": AtLeastZero,
    "amsgrad": bool,
    "nesterov": bool,
    "T_max": Count,
    "eta_min": AtLeastZero,
    "step_size": Count,
    "gamma": Positive,
    "last_epoch": Unlimited,
}
