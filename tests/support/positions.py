"""The lists of positions that come with the program."""

from typing import Any

from omegaconf import OmegaConf

from tests.support.places import ROOT


def shipped(name: str) -> list[Any]:
    """The rules of a list in conf/positions."""
    loaded: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "positions" / f"{name}.yaml"))
    return loaded["rules"]
