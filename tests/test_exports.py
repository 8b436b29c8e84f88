"""What the packages offer by name is there, and loads when it is used."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import datamodules
import probes
from tests.support.places import ROOT


@pytest.mark.parametrize("package", [probes, datamodules])
def test_the_three_lists_of_names_agree(package):
    """For people and type checkers, for `import *`, and for loading."""
    tree = ast.parse(Path(package.__file__).read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == package._MODULES
    assert sorted(imported) == package.__all__
    assert set(imported) <= set(dir(package))
    for name, module in package._MODULES.items():
        assert getattr(package, name) is getattr(import_module(module), name)


@pytest.mark.parametrize("package", [probes, datamodules])
def test_another_name_is_refused(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


def test_what_reads_the_cache_loads_no_code_of_networks():
    """The code that all language models share takes as long to import as all probes of the demo to fit."""
    program = "import sys, datamodules.activations; print({'torch', 'transformers.modeling_utils'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "{'torch'}\n"
