"""Folders with an adapter, which the tests of merging, of refusing and of finding one start from."""

import shutil

import pytest

from datamodules.language.adapter import list_adapter_files
from tests.support.adapters import lora, train
from tests.support.families import build


@pytest.fixture
def adapter(tmp_path):
    """Folder of a LoRA of the Llama family."""
    train(build("llama"), lora(), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def both(adapter, tmp_path):
    """Folder with full weights and an adapter beside them."""
    build("llama").save_pretrained(tmp_path / "both")
    for path in list_adapter_files(adapter):
        shutil.copy(path, tmp_path / "both")
    return tmp_path / "both"
