"""The GPU part of docs/benchmarks.md."""

import pytest
import torch

from tests.benchmarks.gpu_page import PAGE, write_table


def test_a_table_replaces_the_last_one_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA X")
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    write_table("bench_gpu", ["a", "b"], [["first one", "1"]], page=page)
    write_table("bench_gpu_stages", ["c"], [["2"]], page=page)
    write_table("bench_gpu", ["a", "b"], [["flat", "3 s"], ["steep", "4 s"]], "Below.", page)
    begin, end = "<!-- bench_gpu: begin -->", "<!-- bench_gpu_stages: end -->"  # the page may hold tables already
    head, _, rest = page.read_text().partition(begin)
    assert head == PAGE.read_text().partition(begin)[0]
    line = f"`python -m tests.benchmarks.bench_gpu`, NVIDIA X, torch {torch.__version__}:"
    assert rest.startswith(
        f"\n\n{line}\n\n| a | b |\n| --- | --- |\n| flat | 3 s |\n| steep | 4 s |\n\nBelow.\n\n<!-- bench_gpu: end -->"
    )
    assert "first one" not in rest
    assert "| c |\n| --- |\n| 2 |" in rest
    assert rest.count("| --- |") == 2
    assert rest.partition(end)[2] == PAGE.read_text().partition(end)[2] != ""


def test_a_page_without_marks_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("# Speed")
    with pytest.raises(ValueError, match="expected the marks <!-- bench_gpu: begin --> and"):
        write_table("bench_gpu", [], [], page=tmp_path / "page.md")
