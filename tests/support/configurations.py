"""Configurations composed in the test's own process, as a notebook composes them."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import train


def compose_run(*overrides: str) -> DictConfig:
    """The configuration of `python train.py OVERRIDES`."""
    with initialize_config_dir(str(train.CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))
