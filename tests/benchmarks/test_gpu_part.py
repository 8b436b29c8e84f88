"""A table of a GPU benchmark in the page, without a GPU."""

import sys

import pytest
import torch

from tests.benchmarks import bench_gpu, bench_gpu_stages, gpu_part
from tests.benchmarks.gpu_part import PAGE, write_part

TEXT = "# Speed\n\nBy hand.\n\n<!-- bench_gpu -->\n\nold\n\n<!-- /bench_gpu -->\n\nBelow.\n"
WRITTEN = """# Speed

By hand.

<!-- bench_gpu -->

`python -m tests.benchmarks.bench_gpu` on a card:

| cells | stream |
| --- | --- |
| flat | 0.31 s |
| steep | 0.35 s |

480 of 480 converged.

<!-- /bench_gpu -->

Below.
"""


def test_a_table_replaces_what_is_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(TEXT)
    rows = [["flat", "0.31 s"], ["steep", "0.35 s"]]
    for _ in range(2):  # written again it is the same
        write_part("bench_gpu", ["cells", "stream"], rows, ["480 of 480 converged."], "a card", page)
        assert page.read_text() == WRITTEN


@pytest.mark.parametrize("text", ["", "<!-- bench_gpu -->\n", "<!-- /bench_gpu -->\n<!-- bench_gpu -->\n"])
def test_a_page_without_its_markers_is_refused_and_left_alone(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"page.md: expected a line <!-- bench_gpu --> and a line <!-- /bench_gpu -->"):
        write_part("bench_gpu", ["cells"], [["flat"]], [], "a card", page)
    assert page.read_text() == text


@pytest.mark.parametrize("bench", [bench_gpu, bench_gpu_stages])
def test_the_page_has_the_markers_and_without_a_gpu_nothing_is_written(bench, monkeypatch, capsys):
    name = bench.__name__.rpartition(".")[2]
    assert f"<!-- {name} -->\n" in PAGE.read_text().partition(f"<!-- /{name} -->\n")[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.setattr(bench, "write_part", lambda *_: pytest.fail("was written"))
    bench.main()
    assert "no GPU here: nothing measured, docs/benchmarks.md stays as it is" in capsys.readouterr().out


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    properties = type("Properties", (), {"total_memory": 80 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert gpu_part.describe_machine().startswith(f"one Some GPU (80 GiB), torch {torch.__version__} with CUDA ")
