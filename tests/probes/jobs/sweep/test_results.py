"""The table of many runs, from folders written by hand, and the picture of their maps."""

import csv
import json

import pytest
import yaml

from probes.jobs.sweep import results_picture
from probes.jobs.sweep.results import (
    describe,
    find_differences,
    find_runs,
    iterate_failures,
    print_results,
    read_results,
    tabulate_runs,
    write_results,
)
from probes.jobs.sweep.results_picture import MOST, Map, draw, draw_results, read_map

MAP = "target,split,layer,position,auc\nright,val,0,a,0.99\nright,test,0,a,0.625\nright,test,0,b,\n"
MAP += "right,test,4,a,0.75\nright,test,4,b,0.875\n"


def write_run(folder, overrides=(), job=None, summary=True, choices=None, config=None):
    (folder / ".hydra").mkdir(parents=True)
    for name, content in (
        ("overrides", list(overrides)),
        ("hydra", {"hydra": {"runtime": {"choices": choices or {"site": "resid_post"}}}}),
        ("config", config or {"probe": {"l2": 1.0}}),
    ):
        (folder / ".hydra" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    if job:
        (folder / "job.json").write_text(json.dumps(job))
    if summary:
        cells = [{"layer": 4, "position": "b", "auc": 0.875, "auc_se": 0.05, "val_auc": 0.9}, {"layer": 0}]
        baselines = [
            {"name": "length", "auc": 0.8, "auc_chosen": 0.6},
            {"name": "logprob", "auc": 0.7, "auc_chosen": 0.65},
            {"name": "none", "auc": None, "auc_chosen": None},
        ]
        content = {
            "targets": [{"name": "right", "label": "right"}],
            "reading": {"best_cells": cells, "chosen_on": "val"},
            "test": {"best_auc": 0.875, "mean_auc": 0.75},
            "analysis": {"best": {}, "baselines": {"rows": baselines}},
            "seconds": {"answers and labels": 2.5, "test": 1},
        }
        (folder / "summary.json").write_text(json.dumps(content))
        (folder / "heatmap.csv").write_text(MAP)
    return folder


def test_a_run_is_summarised_by_what_validation_chose(tmp_path):
    (row,) = read_results(write_run(tmp_path / "run"))
    assert row == {
        "target": "right", "layer": 4, "position": "b", "chosen_on": "val", "val_auc": 0.9, "test_auc": 0.875,
        "test_auc_error": 0.05, "mean_auc": 0.75, "baseline": "logprob", "baseline_auc": 0.7,
        "seconds_answers_and_labels": 2.5, "seconds_test": 1,
    }  # fmt: skip
    assert describe(row) == "best .875 ± .050 at layer 4, b; mean .750"
    assert read_results(tmp_path) == []


def test_several_splits_have_one_row_with_their_mean_and_its_map(tmp_path):
    folder = write_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    summary["targets"] = [{"name": f"right, seed {seed}", "label": "right"} for seed in (0, 1)]
    best = {"layer": 4, "position": "b", "auc": 0.875, "auc_sd": 0.05, "val_auc": None}
    summary["reading"] = {"best_cells": [best], "chosen_on": "test"}
    names = ("length", "logprob")
    summary["analysis"] = {
        f"right, seed {seed}": {"baselines": {"rows": [
            {"name": name, "auc": auc, "auc_chosen": chosen} for name, auc, chosen in zip(names, *numbers, strict=True)
        ]}}
        for seed, numbers in enumerate([((0.6, 0.7), (0.9, 0.5)), ((0.8, 0.5), (0.5, 0.6))])
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "heatmap_mean.csv").write_text(MAP.replace("right", '"right, mean of 2 splits"'))
    (row,) = read_results(folder)
    assert (row["target"], row["chosen_on"], row["val_auc"]) == ("right, mean of 2 splits", "test", None)
    assert (row["test_auc"], row["test_auc_error"]) == (0.875, 0.05)
    assert (row["baseline"], row["baseline_auc"]) == ("length", pytest.approx(0.7))
    assert draw_results(tmp_path / "results.png", tabulate_runs([folder]), 0.5, 1.0)


def test_several_label_sets_have_a_row_each(tmp_path):
    folder = write_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    summary["targets"] = [{"name": name, "label": name} for name in ("one", "two")]
    for key in ("reading", "test", "analysis"):
        summary[key] = {"one": summary[key], "two": summary[key]}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert [row["target"] for row in read_results(folder)] == ["one", "two"]
    assert [row["baseline"] for row in read_results(folder)] == ["logprob", "logprob"]
    assert [row["job"] for row in tabulate_runs([folder])] == ["run", "run"]


def test_what_differs_is_told_with_defaults_where_a_run_has_no_override(tmp_path):
    folders = [
        write_run(tmp_path / "a", ["site=z", "split.val=0.2", "resume=true", "site.also=[z]"]),
        write_run(tmp_path / "b", ["split.val=0.2", "probe.l2=10", "site.also=[z,mlp_out]"]),
    ]
    assert find_differences(folders) == [{"site": "z", "probe.l2": "1.0"}, {"site": "resid_post", "probe.l2": "10"}]


def test_the_table_holds_failed_and_unfinished_jobs_in_their_order(tmp_path):
    job = {"status": "done", "objective": 0.9, "seconds": 3.5, "error": None}
    folders = [
        write_run(tmp_path / "a", ["probe.l2=10"], job | {"number": 2}),
        write_run(tmp_path / "b", ["probe.l2=-1"], {"status": "failed", "number": 1, "error": "too, bad"}, False),
        write_run(tmp_path / "c", ["probe.l2=2"], {"status": "running", "number": 0}, False),
    ]
    rows = tabulate_runs(folders)
    assert [(row["job"], row["status"]) for row in rows] == [
        ("l2=2", "unfinished"), ("l2=-1", "failed"), ("l2=10", "done"),
    ]  # fmt: skip
    assert list(iterate_failures(rows)) == ["l2=2: unfinished", "l2=-1: failed: too, bad"]
    write_results(tmp_path / "results.csv", rows)
    back = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert list(back[0])[:4] == ["job", "probe.l2", "status", "target"]
    assert [row["probe.l2"] for row in back] == ["2", "-1", "10"]
    assert (back[2]["objective"], back[2]["test_auc"], back[2]["seconds"]) == ("0.9", "0.875", "3.5")
    assert back[1]["error"] == "too, bad"
    written = sum(path.stat().st_size for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert int(back[2]["bytes"]) == written
    assert back[2]["folder"] == str(tmp_path / "a")


@pytest.mark.parametrize("text", ["", '{"status": "do', "[]", "{}", '{"status": "done", "seconds": "b", "number": 0}'])
def test_a_job_file_of_other_making_counts_for_none(text, tmp_path):
    folder = write_run(tmp_path / "a", ["probe.l2=10"])
    (folder / "job.json").write_text(text)
    (row,) = tabulate_runs([folder])
    assert (row["status"], row["seconds"]) == ("done", None)
    print_results([row])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[1]",
        "3",
        '{"reading": {}}',
        "a: [b",
        "- x%y\n",
        "- [a]\n",
        "\0",
        "\xff",
        "split,target\ntest,right\n",
        "[" * 9_999,
    ],
)
@pytest.mark.parametrize("name", ["summary.json", "heatmap.csv", ".hydra/overrides.yaml", ".hydra/config.yaml"])
def test_a_damaged_file_of_a_run_is_told_in_a_line_and_left_out(name, text, tmp_path, caplog):
    folders = [write_run(tmp_path / one, [f"probe.l2={n}", "seed=1"]) for n, one in enumerate("ab")]
    (folders[0] / name).write_text(text, "latin-1")
    rows = tabulate_runs(folders)
    _, whole = [read_map(folder, "right", "title") for folder in folders]
    assert len(rows) == 2
    assert whole is not None
    assert (rows[1]["status"], rows[1]["test_auc"], whole.auc[1]) == ("done", 0.875, [0.75, 0.875])
    if name == "summary.json":
        assert rows[0]["status"] == "unfinished"
    for line in caplog.messages:
        assert line.startswith(f"{folders[0] / name}: expected what a run wrote, got another file (")
        assert line.isprintable()
        assert len(line) < 500
    if name in ("summary.json", "heatmap.csv"):
        assert caplog.messages


def test_runs_are_found_in_folders_and_by_patterns(tmp_path):
    one, two = write_run(tmp_path / "day" / "one"), write_run(tmp_path / "day" / "two")
    assert find_runs([tmp_path]) == find_runs([f"{tmp_path}/day/*"]) == find_runs([one, two, one]) == [one, two]
    (tmp_path / "empty").mkdir()
    for nothing in (None, [], [""]):
        with pytest.raises(ValueError, match=r"^runs: expected folders of runs, got none, which hold none; name some"):
            find_runs(nothing)
    for nothing in ("empty", "absent"):
        with pytest.raises(ValueError, match=r"^runs: expected folders of runs, got .*, which hold none; name some"):
            find_runs([tmp_path / nothing])


def test_a_map_is_read_back(tmp_path):
    folder = write_run(tmp_path / "run")
    found = read_map(folder, "right", "name")
    assert found is not None
    assert (found.layers, found.positions) == (["0", "4"], ["a", "b"])
    assert found.auc[1] == [0.75, 0.875]
    assert found.auc[0][0] == 0.625
    assert found.auc[0][1] != found.auc[0][1]
    assert read_map(folder, "other", "name") is None
    (folder / "heatmap_mean.csv").write_text(MAP.replace("right", '"right, mean of 5 splits"'))
    for target in ("right", "right, mean of 5 splits"):  # a summary names the label set alone
        mean = read_map(folder, target, "name")
        assert mean is not None
        assert mean.auc[1] == [0.75, 0.875]


def test_maps_have_one_scale_and_their_names(tmp_path):
    one = Map("l2=1", ["0", "4"], ["a", "b"], [[0.4, 0.6], [0.7, float("nan")]])
    other = Map("site=z", ["0"], ["a", "b", "c", "d"], [[0.5, 0.6, 0.7, 0.8]])
    figure = draw([one, other, one, one], 0.5, 1.0)
    *panels, bar = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["l2=1", "site=z", "l2=1", "l2=1"]
    assert {axes.images[0].get_clim() for axes in panels} == {(0.5, 1.0)}
    assert [axes.images[0].get_array().tolist() for axes in panels[:2]] == [[[0.4, 0.6], [0.7, None]], other.auc]
    assert [len(axes.patches) for axes in panels] == [1, 0, 1, 1]  # the hatched cell
    assert bar.get_ylabel() == "test AUC"
    named = [[label.get_text() for label in axes.get_xticklabels()] for axes in panels]
    assert named == [["", ""], ["a", "b", "c", "d"], ["a", "b"], ["a", "b"]]
    assert "The first 60 of 61 maps" in draw([one] * (MOST + 1), 0.5, 1.0).texts[0].get_text()


def test_the_picture_is_written_where_there_is_a_map(tmp_path, monkeypatch):
    rows = tabulate_runs([write_run(tmp_path / "a", ["probe.l2=10"]), write_run(tmp_path / "b", summary=False)])
    drawn = []
    monkeypatch.setattr(results_picture, "draw", lambda *given: drawn.append(draw(*given)) or drawn[0])
    rows[0]["job"] = "l2=10 \x1b[31m\nred"  # a name is data, on one line
    assert draw_results(tmp_path / "results.png", rows, 0.5, 1.0)
    name, best = drawn[0].axes[0].get_title(loc="left").replace("\n", " ").rsplit(" best ", 1)
    assert name == r"l2=10 \x1b[31m\nred"
    assert best == ".875 ± .050, mean .750"
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert not draw_results(tmp_path / "none.png", rows[1:], 0.5, 1.0)
    assert not (tmp_path / "none.png").exists()
