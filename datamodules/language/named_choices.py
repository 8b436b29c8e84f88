"""Choices of conf/ by their names, for Python: what the command line makes of model=NAME or positions=NAME."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf


def make_named(group: str, name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Make what a file of conf/ describes; None where there is no file of this name.

    Args:
        group: folder of conf/, such as `model`.
        name: of the file.
        settings: values in place of those of the file.

    Example:
        >>> make_named("positions", "exact").names[0]
        'exact_answer_before_first'
    """
    content = _read(group, name)
    if content is None:
        return None
    make = get_object(content.pop("_target_"))
    return make(**content | dict(settings or {}))


def _read(group: str, name: str) -> dict[str, Any] | None:
    """The content of a file, with that of the file of its group that it starts from."""
    if not name.isidentifier():
        return None
    path = files("conf") / group / f"{name}.yaml"
    if not path.is_file():
        return None
    loaded = OmegaConf.create(path.read_text("utf-8"))
    assert isinstance(loaded, DictConfig)
    content: Any = OmegaConf.to_container(loaded)
    bases = [_read(group, base) or {} for base in content.pop("defaults", []) if isinstance(base, str)]
    return {key: value for part in [*bases, content] for key, value in part.items() if key != "_self_"}
