"""The parts of a run, rebuilt from its folder: its model, positions and finder of exact answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from datamodules.card import Card
from probes.jobs.command.mistakes import is_mistake
from probes.jobs.command.targets import ALLOWED, refuse_other_targets
from probes.report.run_folder import EXAMPLES, read_examples

CONFIG = ".hydra/config.yaml"
RESPONSES = "datamodules.questions.responses.FileResponses"
PARTS = ("model", "positions", "spans")
ASKING = {"number", "model"}  # ways to find an exact answer that need nothing of the question


@dataclass(frozen=True)
class RunParts:
    """What a run was made with.

    Attributes:
        folder: of the run.
        cfg: its configuration of `PARTS`, and `cache_root`.
        examples: its table.
        stated: whether it read statements, so that no model answered.
        answered: whether its answers came from elsewhere.
    """

    folder: Path
    cfg: DictConfig
    examples: pd.DataFrame
    stated: bool
    answered: bool

    def build(self, part: str) -> Any:
        """Instantiate one of `PARTS`.

        Raises:
            ValueError: it cannot be built, in the words of its constructor.
        """
        try:
            return hydra.utils.instantiate(self.cfg[part], _convert_="all")
        except InstantiationException as error:
            cause = error.__cause__ or error
            if not is_mistake(cause):
                raise ValueError(f"run: expected a configuration that can be built, got {cause}") from cause
            raise cause from None

    @property
    def ways(self) -> set[str]:
        """How exact answers were found: `gold`, the name of a rule, or `model`."""
        column = self.examples["exact_answer_by"] if "exact_answer_by" in self.examples else pd.Series(dtype=str)
        return set(column.dropna()) - {"not looked for"}

    @property
    def finds_exact_answers(self) -> bool:
        """Whether exact answers can be found where no gold answer is known."""
        return bool(self.ways) and "gold" not in self.ways

    def can_locate(self, question: Any) -> bool:
        """Whether the exact answer of a question's answer can be found without its gold answer."""
        if not self.finds_exact_answers:
            return False
        return self.ways <= ASKING or bool(question.pattern) or len(question.options) > 1

    @property
    def digests(self) -> Path | None:
        """Folder in which the run remembered the digests of large files; None where it is gone."""
        folder = Path(str(self.cfg.cache_root)).expanduser() / "digests"
        return folder if folder.is_dir() else None

    @property
    def begins_blank(self) -> bool:
        """Whether most answers of the run begin with a blank, as those behind a prompt without one at its end do."""
        return bool(self.examples["answer"].str.match(r"\s").mean() > 0.5)


def limit_answers(model: Any, max_new_tokens: int | None) -> Any:
    """The settings of a language model, with another longest answer if one is given.

    Raises:
        ValueError: the model has random weights.
    """
    if model.random_weights:
        raise ValueError("run: expected probes of a model that answers, got random weights; name another run")
    return model if max_new_tokens is None else replace(model, max_new_tokens=max_new_tokens)


def is_stated(card: Card) -> bool:
    """Whether a run read statements: there is then no prompt among what its activations depend on."""
    return "prompt" not in card.identity if card.identity else card.targets[0].label == "label"


def read_parts(folder: Path, card: Card, overrides: Sequence[str], allowed: Sequence[str], loaded: bool) -> RunParts:
    """Read the parts of a run folder. Its configuration may name classes of this project, and those of `allowed`.

    Args:
        folder: of the run.
        card: of its probes.
        overrides: KEY=VALUE of the model.
        allowed: as `allow_targets` of a run. What the file itself allows does not count.
        loaded: whether the model is loaded already, so that its files are not looked for.

    Raises:
        FileNotFoundError: there is no configuration, or no table of examples.
        ValueError: the run has no language model, or its configuration names other classes.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"run: expected {path}, which says what the model read, got none; name the folder of a run of train.py"
        )
    try:
        whole: Any = OmegaConf.load(path)
        for name in ("datamodule", *PARTS, "dataset", "cache"):
            if not isinstance(OmegaConf.select(whole, name), DictConfig):
                raise ValueError(
                    f"run: expected the configuration of a run in {path}, got one without {name}; name the folder of "
                    "another run"
                )
        if str(OmegaConf.select(whole, "datamodule._target_")) != "datamodules.activations.ActivationDataModule":
            raise ValueError(
                f"run: expected a run on a language model, got one on activations from elsewhere in {folder}; "
                "LinearProbes.load scores activations"
            )
        whole = OmegaConf.merge(whole, OmegaConf.from_dotlist(list(overrides)))
        if not any(one.startswith("model.device=") for one in overrides) and "device" in whole.model:
            whole.model.device = None  # where the run ran; this machine may be another
        if loaded and "id" in whole.model:
            whole.model.update({"id": "loaded/model", "gguf": None, "adapter": None, "name": card.model})
        answered = str(OmegaConf.select(whole, "dataset._target_")) == RESPONSES
        root = str(whole.cache.root)
        for part in PARTS:
            whole[part] = OmegaConf.to_container(whole[part], resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"run: expected the configuration of a run in {path}, got another ({reason}); name the folder of another "
            "run"
        ) from None
    cfg: Any = OmegaConf.create({part: whole[part] for part in PARTS} | {"cache_root": root, ALLOWED: list(allowed)})
    refuse_other_targets(cfg)
    examples = read_examples(folder)
    if examples is None or not {"prompt_ids", "answer_ids", "finish"} <= set(examples):
        raise FileNotFoundError(f"run: expected {folder / EXAMPLES} with the answers of the run, got none; run again")
    return RunParts(folder, cfg, examples, is_stated(card), answered)
