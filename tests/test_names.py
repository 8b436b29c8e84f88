"""Names are data: whatever they hold, no report lets them act on a terminal, a page or a picture."""

import csv
import json
import logging
import re

import pytest
import torch
from safetensors.torch import save_file

from datamodules.card import show_text
from datamodules.examples import LabelledExamples, Span, Verdict
from datamodules.labels.report import write_label_report
from datamodules.labels.span_page import write_span_page
from datamodules.language.cache.entry import CacheEntry
from datamodules.language.cache.inventory import show_cache
from datamodules.language.generation import Answer
from datamodules.questions.question import Question
from probes.jobs.log_lines import LogLines
from tests.support.runs import run_here

# Markup of rich, an escape that colours, a line of its own, carriage return, a mark that turns the direction, HTML,
# Markdown, mathematics of matplotlib.
HOSTILE = "[red]a[/] [link=http://x.y]b[/link]\x1b[31m\nerror: c\r\u202e\x9b2J<b>d</b><script>e</script>"
HOSTILE += " [f](http://g.h) ![i](j) `k` |l| $\\frac$ http://m.n"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def check_texts(folder, *printed):
    """No character that acts, in what was printed or written for people."""
    texts = {
        path.name: path.read_bytes().decode()
        for path in folder.rglob("*")
        if path.suffix in SHOWN and path.name != "metrics.csv"
    }
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


FORMULA = "=cmd|' /C calc'!A0"  # a spreadsheet may act on it; a table is data, and keeps names as they are


@pytest.mark.usefixtures("_without_pictures")
def test_names_of_a_model_a_set_and_positions_of_people_s_own_files(tmp_path):
    """Through a whole run: terminal, log, tables, pages and what loggers get."""
    names, own = [HOSTILE, FORMULA, "\x1b[1m\n"], tmp_path / "own"
    rules = [{"name": name, "of": "answer", "at": at} for at, name in enumerate(names)]
    rules += [{"name": "\u200f<i>", "of": "exact_answer", "at": "last"}]
    for file, content in (
        ("dataset/hostile.yaml", {"defaults": ["demo_facts"], "name": HOSTILE, "limit": 120}),
        ("positions/hostile.yaml", {"defaults": ["exact"], "rules": rules}),
        ("model/hostile.yaml", {"defaults": ["demo"], "name": HOSTILE}),
    ):
        (own / file).parent.mkdir(parents=True)
        (own / file).write_text(json.dumps(content))
    chosen = ["dataset=hostile", "positions=hostile", "model=hostile", "site.layers=[0]", "split.seed=[0,1]"]
    more = ["logger=tensorboard", "datamodule.control_labels=true"]
    status, out, err = run_here(tmp_path, f"hydra.searchpath=[file://{own}]", *chosen, *more)
    assert status == 0, err
    texts = check_texts(tmp_path / "run", out, err)
    with (tmp_path / "run/heatmap.csv").open(newline="") as file:
        assert {row["position"] for row in csv.DictReader(file)} == {show_text(rule["name"]) for rule in rules}
    assert json.loads(texts["summary.json"])["dataset"] == HOSTILE
    for live in ("<script", "<i>", "<b>d", "<a "):
        assert live not in texts["exact_answers.html"]
    assert "](http" not in texts["labels.md"].replace("\\", "")
    assert "\x1b]8;" not in out  # no link of a terminal


def test_the_pages_on_labels_and_exact_answers(language_model):
    tokenizer = language_model.load_tokenizer()
    question = Question(HOSTILE, "g", HOSTILE, (HOSTILE,))
    verdicts = [Verdict(True, HOSTILE), Verdict(False, "none occurs")]
    report = write_label_report([question] * 2, [HOSTILE, "no"], verdicts)
    assert not RAW.search(report)
    for live in ("](http", " ![i]", " <b>", "<script>", " http://"):
        assert live not in report.replace("\\<", "(").replace("\\!", "!(")
    ids = tokenizer("red stone").input_ids
    answer, span = Answer([1, 2], ids, [0.0] * len(ids), "stop", "red stone"), Span(None, "model", (HOSTILE,))
    page = write_span_page(
        tokenizer, LabelledExamples([question] * 2, [answer] * 2, verdicts, [span] * 2, [None, None])
    )
    assert not RAW.search(page)
    for live in ("<script", "<b>d", "<a "):
        assert live not in page


def test_the_list_of_the_cache_and_the_log(tmp_path, capsys):
    about = {"model": HOSTILE, "dataset": HOSTILE, "examples": 3}
    CacheEntry(tmp_path, "activations", {"site": HOSTILE}, 1, about).offer(0, {"shard-00000.bin": b"0"}, wait=True)
    show_cache(str(tmp_path))
    printed = capsys.readouterr().out
    assert not RAW.search(printed)
    assert "[link=" in printed
    line = LogLines("%(message)s").format(logging.makeLogRecord({"name": "datamodules.base", "msg": HOSTILE}))
    assert line == show_text(HOSTILE)
    assert "\n" not in line
