"""The rules of the house: who may import whom, how many rooms a floor has, and what importing loads."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.places import ROOT

PACKAGES = ("datamodules", "probes")
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics"}
DRAWING = {"matplotlib", "seaborn"}
# What a folder may import of its own package beside itself: folders, and files of the ground floor.
ALLOWED = {
    "datamodules.stream": set(),
    "datamodules.questions": {"datamodules.stream.local_paths", "datamodules.stream.ranges"},
    "datamodules.language": {"datamodules.questions", "datamodules.stream", "datamodules.card"},
    "datamodules.language.cache": {"datamodules.stream", "datamodules.language.progress", "datamodules.card"},
    "datamodules.labels": {
        "datamodules.questions", "datamodules.stream", "datamodules.language",
        "datamodules.card", "datamodules.examples",
    },
    "probes.solver": set(),
    "probes.analysis": {"probes.solver"},
    "probes.jobs": {"probes.analysis", "probes.report", "probes.settings"},
}  # fmt: skip

SCORER = "probes.scoring.scorer"  # brings a language model and probes together


def files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in files()}


def find_imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere; of `from package import name`, the module `name`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import; write the whole name"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in full}
    return found


IMPORTS = {module: find_imports(path) for module, path in MODULES.items()}


def is_in(module: str, folder: str) -> bool:
    return module == folder or module.startswith(folder + ".")


def find_offences(folder: str, allowed: set[str], watched: str) -> list[str]:
    """Imports by files in `folder` of what is in `watched`, but neither in the folder nor in what is allowed."""
    return [
        f"{module} imports {name}"
        for module in MODULES
        if is_in(module, folder)
        for name in sorted(IMPORTS[module])
        if is_in(name, watched) and not any(is_in(name, place) for place in {folder, *allowed})
    ]


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes of a circle in the order of their edges; none where there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node not in done:
            for other in sorted(graph.get(node, ())):
                if circle := visit(other, [*path, node]):
                    return circle
            done.add(node)
        return []

    for node in sorted(graph):
        if circle := visit(node, []):
            return circle
    return []


def room_of(module: str) -> str:
    """The folder or the file of the ground floor that a module is in, such as `probes.solver`."""
    return ".".join(module.split(".")[:2])


def test_a_circle_is_found():
    assert find_circle({"a": {"b"}, "b": {"c", "d"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_imports_are_found_wherever_they_stand():
    assert {"datamodules.activations", "importlib", "typing"} <= IMPORTS["datamodules"]
    assert {"numba", "numba.core", "pathlib"} <= IMPORTS["probes.solver.compiled"]
    assert is_in("probes.solver.rows", "probes.solver")
    assert not is_in("probes.solvers", "probes.solver")


def test_the_packages_meet_in_the_card_alone():
    assert find_offences("datamodules", set(), "probes") == []
    offences = find_offences("probes", {"datamodules.card"}, "datamodules")
    assert {line.partition(" imports ")[0] for line in offences} == {SCORER}  # the one file that needs both


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_go_one_way(folder):
    assert any(is_in(module, folder) for module in MODULES)
    assert find_offences(folder, ALLOWED[folder], folder.partition(".")[0]) == []


@pytest.mark.parametrize("folder", ["probes.solver", "probes.analysis"])
def test_solver_and_analysis_load_neither_lightning_nor_drawing_nor_language_models(folder):
    for banned in LIGHTNING | DRAWING | {"transformers"}:
        assert find_offences(folder, set(), banned) == []


def test_files_do_not_import_each_other_in_circles():
    graph = {module: names & set(MODULES) for module, names in IMPORTS.items()}
    assert find_circle(graph) == []


def test_nor_do_folders():
    graph: dict[str, set[str]] = {}
    for module, names in IMPORTS.items():
        rooms = {room_of(name) for name in names if name in MODULES}
        graph.setdefault(room_of(module), set()).update(rooms - {room_of(module)})
    assert find_circle(graph) == []


def test_train_reaches_both_packages_through_the_configuration_but_for_jobs():
    names = find_imports(ROOT / "train.py")
    assert not [name for name in names if name.partition(".")[0] in PACKAGES and not is_in(name, "probes.jobs")]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_ground_floor_has_at_most_twelve_entries(package):
    entries = [path.name for path in (ROOT / package).iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 12, entries


def test_a_file_is_under_300_lines():
    paths = [*MODULES.values(), *sorted((ROOT / "tests").rglob("*.py"))]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert "tests/test_house.py" in lines
    assert {path: n for path, n in lines.items() if n >= 300} == {}


def test_a_file_says_what_it_covers():
    for module, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), f"{module}: say in a line what it covers"


def find_loaded(statement: str) -> set[str]:
    """Top-level modules, none of the standard library, that a fresh interpreter holds after a statement."""
    program = f"""
import sys
{statement}
print(*sorted({{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_solver_loads_torch_and_numpy_alone():
    assert find_loaded("from probes import fit_logistic") - find_loaded("import numpy, torch") == {"probes"}


def test_the_card_loads_the_standard_library_alone():
    assert find_loaded("import datamodules.card") - find_loaded("") == {"datamodules"}


def test_the_command_starts_with_hydra_alone():
    of_hydra = find_loaded("import annotated_types, hydra, hydra.core.hydra_config, yaml")
    assert find_loaded("import train") - of_hydra == {"probes", "train"}


def test_the_parts_of_a_configuration_load_no_torch():
    """So that a mistake in them is told at once. The datamodule around them and the probe are Lightning's."""
    texts = [
        path.read_text()
        for path in (ROOT / "conf").rglob("*.yaml")
        if path.parent.name not in ("datamodule", "experiment", "probe")
    ]
    targets = {target for text in texts for target in re.findall(r"_target_: (datamodules\S+)", text)}
    modules = sorted({target.rpartition(".")[0] for target in targets})
    assert {"datamodules.language.demo", "datamodules.labels.judge", "datamodules.split"} <= set(modules)
    assert not find_loaded(f"import {', '.join(modules)}") & {"torch", *LIGHTNING, *DRAWING}


def test_the_hooks_of_a_commit_run_what_make_runs():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    lines = [line.strip() for line in (ROOT / "Makefile").read_text().splitlines()]
    made = [line.replace("$(BIN)", ".venv/bin") for line in lines if line.startswith(("$(BIN)/ruff", "$(BIN)/pyright"))]
    assert [hook["entry"] for hook in local["hooks"]] == made
    assert local["repo"] == "local"  # nothing is fetched
