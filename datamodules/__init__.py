"""From questions to cell blocks: the language-model stages, their cache, and the Lightning datamodule above them.

A name is loaded when it is first used, so that the parts which need no model load no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.activations import ActivationDataModule
    from datamodules.base import GridDataModule
    from datamodules.card import Card
    from datamodules.language.language_model import LanguageModel
    from datamodules.language.loaded_model import LoadedModel, load_model
    from datamodules.language.notebook import Captured, ask, capture
    from datamodules.language.positions import Positions
    from datamodules.language.tokens import locate
    from datamodules.precomputed import PrecomputedDataModule
    from datamodules.questions.question import Question, QuestionSet
    from datamodules.split import GroupSplit
    from datamodules.targets import Targets

__all__ = [
    "ActivationDataModule",
    "Captured",
    "Card",
    "GridDataModule",
    "GroupSplit",
    "LanguageModel",
    "LoadedModel",
    "Positions",
    "PrecomputedDataModule",
    "Question",
    "QuestionSet",
    "Targets",
    "ask",
    "capture",
    "load_model",
    "locate",
]

_MODULES = {
    "ActivationDataModule": "datamodules.activations",
    "Captured": "datamodules.language.notebook",
    "Card": "datamodules.card",
    "GridDataModule": "datamodules.base",
    "GroupSplit": "datamodules.split",
    "LanguageModel": "datamodules.language.language_model",
    "LoadedModel": "datamodules.language.loaded_model",
    "Positions": "datamodules.language.positions",
    "PrecomputedDataModule": "datamodules.precomputed",
    "Question": "datamodules.questions.question",
    "QuestionSet": "datamodules.questions.question",
    "Targets": "datamodules.targets",
    "ask": "datamodules.language.notebook",
    "capture": "datamodules.language.notebook",
    "load_model": "datamodules.language.loaded_model",
    "locate": "datamodules.language.tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
