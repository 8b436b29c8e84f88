"""Runs the code of a notebook in one namespace, as Jupyter would, and stores what it shows.

`python -m tests.support.notebooks docs/notebook.ipynb` runs a notebook and writes its outputs into it.
"""

import ast
import base64
import io
import json
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

NARROW = 90  # dots an inch of stored pictures: they are part of the repository


def read_code(path: Path) -> list[str]:
    """The sources of the code cells."""
    return ["".join(cell["source"]) for cell in read_cells(path) if cell["cell_type"] == "code"]


def read_cells(path: Path) -> list[dict[str, Any]]:
    """All cells, as the notebook format has them."""
    return json.loads(path.read_text("utf-8"))["cells"]


def run_code(
    sources: list[str], folder: Path, pictures: bool = True
) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Run cells in order, in a folder; returns the namespace, and the outputs of each cell."""
    namespace: dict[str, Any] = {}
    with chdir(folder):
        return namespace, [_run_cell(source, namespace, pictures) for source in sources]


def _run_cell(source: str, namespace: dict[str, Any], pictures: bool) -> list[dict[str, Any]]:
    tree, printed, shown = ast.parse(source), io.StringIO(), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), namespace)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _split(printed.getvalue())})
    if shown is not None:
        data: dict[str, Any] = {"text/plain": _split(repr(shown))}
        if isinstance(shown, Figure) and pictures:
            buffer = io.BytesIO()
            shown.savefig(buffer, format="png", dpi=NARROW, metadata={"Software": None})
            data["image/png"] = base64.b64encode(buffer.getvalue()).decode()
        outputs.append({"data": data, "execution_count": None, "metadata": {}, "output_type": "execute_result"})
    return outputs


def _split(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def store_outputs(path: Path) -> None:
    """Run a notebook in its folder and write what its cells show into it."""
    content = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    _, outputs = run_code(read_code(path), path.parent)
    for number, (cell, shown) in enumerate(zip(cells, outputs, strict=True), 1):
        cell["execution_count"] = number
        cell["outputs"] = [one | {"execution_count": number} if "execution_count" in one else one for one in shown]
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    store_outputs(Path(sys.argv[1]))
