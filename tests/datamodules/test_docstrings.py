"""The examples in docstrings are run."""

import doctest
import importlib
import pkgutil

import pytest

from datamodules import labels, language, precomputed, questions, stream

MODULES = [
    module.name
    for package in (labels, language, precomputed, questions, stream)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_give_what_they_show(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES) > 10
