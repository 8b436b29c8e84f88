"""Names are data: whatever they hold, no report lets them act on a terminal, a page or a picture."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from tests.support.runs import run_here

# Markup of rich, an escape that colours, a line of its own, carriage return, a mark that turns the direction, HTML,
# Markdown, mathematics of matplotlib.
HOSTILE = "[red]a[/] [link=http://x.y]b[/link]\x1b[31m\nerror: c\r\u202e\x9b2J<b>d</b><script>e</script>"
HOSTILE += " [f](http://g.h) ![i](j) `k` |l| $\\frac$ http://m.n"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
IN_TERMINAL = re.compile(r"\x1b\[[\d;]*m")  # colours that rich writes itself would be none: output is no terminal


def check_texts(folder, *printed):
    """No character that acts, in what was printed or written for people."""
    texts = {path.name: path.read_bytes().decode() for path in folder.rglob("*") if path.suffix in SHOWN}
    for name, text in (texts | {str(i): text for i, text in enumerate(printed)}).items():
        assert not RAW.search(text), (name, RAW.search(text))
        assert not any(line.startswith("error: c") for line in text.splitlines()), name
    return texts


SHOWN = {".csv", ".md", ".html", ".json", ".log"}


def test_names_of_a_file_of_activations(tmp_path):
    acts, labels = torch.randn(160, 2, 2, 4), torch.arange(160) % 2
    names = {"positions": json.dumps([HOSTILE[:180], "\x1b[1m"]), "model": HOSTILE[:150], "dataset": HOSTILE[:190]}
    save_file({"acts": acts, "labels": labels}, tmp_path / "own.safetensors", names | {"target": HOSTILE[:60]})
    path = f"datamodule.path={tmp_path}/own.safetensors"
    status, out, err = run_here(tmp_path, "datamodule=precomputed", path)
    assert status == 0, err
    texts = check_texts(tmp_path / "run", out, err)
    assert "[red]a[/] [link=http://x.y]" in texts["heatmap.csv"]
    assert "[red]a[/] [link=http" in out
    assert (tmp_path / "run/heatmap.png").exists()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A run on a question file of such a name, whose first cells are such texts."""
    folder = tmp_path_factory.mktemp("demo")
    name = HOSTILE.replace("/", "")[:100]
    rows = [
        {"question": f"Where is {HOSTILE if i < 6 else 'it'} {i}?", "answer": f"{HOSTILE} {i % 2}"} for i in range(60)
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "link.jsonl").symlink_to(folder / f"{name}.jsonl")
    quoted = json.dumps(name)
    given = f"dataset.name={quoted}" if "\\" not in quoted else f"dataset.name='{HOSTILE[:36]}'"
    overrides = ["dataset=jsonl", f"dataset.path={folder}/link.jsonl", given, "site.layers=[0]", "rule=substring"]
    return folder, *run_here(folder, *overrides, "model.max_new_tokens=4", "experiment=cache_only")
