"""A person's mistake is one line, and a traceback only where it is asked for."""

import os
import subprocess
import sys

import pytest
import torch

from probes.jobs.command.mistakes import HydraFullError
from tests.support.runs import TRAIN, command, run, run_here

pytestmark = pytest.mark.usefixtures("_without_pictures")

OWN = {
    "positions/broken.yaml": "defaults: [paper]\nrules: [{name: x, of: answer\n",
    "positions/far.yaml": "defaults: [paper]\nrules: [{name: far, of: answer, at: 1000}]\n",
    "model/empty.yaml": "",
    "dataset/nowhere.yaml": "_target_: nosuchmodule.Questions\n",
}


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["site=residual"],
            "expected site to be one of attn_out, mlp_out, mlp_post, resid_post, resid_pre, z; got residual",
        ),
        (["dataset=trivia"], "expected dataset to be one of cities, csv, demo_facts, demo_words, hotpotqa,"),
        (["model=gpt5"], "expected model to be one of demo, gemma3_27b_instruct, "),
        (
            ["positions=none"],
            "expected positions to be one of answer, exact, imdb, paper, pooled, statements; got n",
        ),
        (
            ["positions.rules=[tail]"],
            "positions.rules: expected a list of rules such as {name: end, of: answer, at: -1}",
        ),
        (
            ["site.name=mlp"],
            "site.name: expected one of resid_pre, resid_post, attn_out, z, mlp_post, mlp_out, got 'mlp'",
        ),
        (["spans.rule=guess"], "spans.rule: expected one of auto, pattern, options, number, got 'guess'"),
        (["model=hf", "model.id=/no/such/folder"], "model.id: expected a folder or a hub id such as org/name, got "),
        (["prob=mlp"], "prob: expected a key of the configuration, got one that nothing reads; did you mean probe?"),
        (["+prob=mlp"], "prob: expected a key of the configuration, got one that nothing reads; did you mean probe?"),
        (["dataset.limt=3"], "got one that it does not take; did you mean dataset.limit?"),
        (["dataset.target=x"], "dataset.target: expected a question set with columns, which classes can be taken from"),
        (["dataset=sums", "+dataset.target=x"], "got SumQuestions, whose questions are made without any; leave it out"),
        (["+dataset.limt=3"], "got one that it does not take; did you mean dataset.limit?"),
        (["experiment=cache_info", "+prob=mlp"], "prob: expected a key of the configuration"),
        (
            ["+hydra.job.chdr=true"],
            "hydra.job.chdr: expected an option of Hydra, got a name that it does not have; did",
        ),
        (["+model.id=gpt2"], "model.id: expected none for the embedded model, got 'gpt2'; choose model=hf"),
        (["+model.colour=red"], "model.colour: expected an argument of datamodules.language.demo.build_demo_model"),
        (["+experiment=paper"], "experiment: expected one choice, got a second; write experiment=paper without a +"),
        (["+seed=3"], "seed: expected a new key after +, got one that is there; write seed=3"),
        (["seed.x=3"], "seed.x: expected a key that is there, got one below seed, which holds a single value; set"),
        (
            ["trainer.profiler=simple"],
            "trainer.profiler: expected a + before a key that has no value yet, got none; wri",
        ),
        (["~probe"], "probe: expected one of logistic, mass_mean, minibatch, mlp, paper, got none; choose one"),
        (["dataset.name=a,b"], """for a list write 'dataset.name=[a,b]', for a text 'dataset.name="a,b"'"""),
        (["dataset.group={a}|{b}"], """got dataset.group={a}|{b}; write 'dataset.group="{a}|{b}"'"""),
        (["quick"], "expected KEY=VALUE, got quick; write a key, =, and a value"),
        pytest.param(
            ["trainer=gpu"],
            "trainer.accelerator: expected a GPU, got a machine or a torch without one; choose trainer=cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (
            ["split.seed=abc"],
            "split.seed: expected a whole number of at least 0, or a list of different whole numbers of",
        ),
        (["probe=mass_mean", "probe.whiten=no"], "probe.whiten: expected true or false, got 'no'"),
        (
            ["probe=minibatch", "probe.l2=auto"],
            "probe.l2: expected a number above 0 (auto and lists are for probe=logistic), got 'auto'",
        ),
        (["probe=mlp", "probe.hidden=abc"], "probe.hidden: expected a whole number above 0, got 'abc'"),
        (
            ["model=hf", "model.gguf=~/x.gguf"],
            """expected quotation marks around signs that Hydra takes for its own, got model.gguf=~/x.gguf; write 'm""",
        ),
        (["model=hf"], "model.id: expected a folder, a hub id such as org/name, or model.gguf=FILE, got None; set one"),
        (
            ["datamodule=precomputed"],
            "expected a value for datamodule.path, which has no default; add datamodule.path=... to the command",
        ),
        (
            ["datamodule=precomputed", "datamodule.path=absent.safetensors"],
            "expected a safetensors file, got absent.safetensors: no such file or directory; check the path",
        ),
        (["datamodule.block_bytes=0"], "datamodule.block_bytes: expected a whole number above 0 or null, got 0"),
        (["probe.l3=1"], "probe.l3: expected an argument of probes.LogisticGrid, got one that it does not take; ch"),
        (["--config-dir=OWN", "positions=broken"], "while parsing a flow mapping"),
        (
            ["--config-dir=OWN", "model=empty"],
            "model._target_: expected the name of what model makes, got none; leave it in, or start its file",
        ),
        (
            ["--config-dir=OWN", "dataset=nowhere"],
            "dataset._target_: expected a class of datamodules, probes, torch.optim, pytorch_lightning or torchmetrics",
        ),
        (
            ["--config-dir=OWN", "positions=far", "dataset.limit=200"],
            "positions: expected examples that have one of far, got none of 200",
        ),
        (
            ["spans=model", "spans.model=gpt2"],
            "spans.model: expected null or a model, given with +model@spans.model=NAME, got 'gpt2'",
        ),
        (["site.also=z"], "site.also: expected a list of different sites, such as [z,mlp_out], got 'z'"),
        (
            ["experiment=cache_info", "cache.prune=none"],
            "at least 4 first characters of them, got 'none', which none has",
        ),
        (
            ["dataset=csv", "dataset.path=a", "dataset.labels={true:[],false:[]}"],
            "dataset.labels: expected spellings by label",
        ),
        (
            ["dataset=csv", "dataset.path=a", "dataset.options=ab"],
            "dataset.options: expected a list of columns, such as",
        ),
        (["dataset=csv", "dataset.path=a", "dataset.name=5"], "dataset.name: expected a text, got 5"),
        (["dataset=csv", "dataset.path=absent.csv"], "expected a CSV file, got absent.csv: no such file"),
        (["cache.root=/dev/null/cache"], "cache.root: expected a folder that can be written, got /dev/null/cache"),
        (
            ["cache.root='~nobody-here/cache'"],
            "cache.root: expected a path, got ~nobody-here/cache: this machine has no",
        ),
        (["cache.root=null"], "cache.root: expected a folder, got null"),
        (["cache.root=''"], "cache.root: expected a folder, got ''"),
        (["experiment=cache_info", "cache.root="], "cache.root: expected a folder, got ''"),
        (
            ["rule=given"],
            "rule=given: expected statements with labels, got the questions of demo_facts; choose another",
        ),
        (["dataset=statements", "dataset.path=a", "rule=gold"], "rule: expected rule=given for a, whose statements"),
        (["dataset=statements", "dataset.path=a", "experiment=paper"], "rule: expected rule=given for a, whose state"),
        (["site.layers=[8]"], "site.layers: expected layers of the model, 0 to 7, got [8]"),
        (["dataset.limit=12"], "labels: expected at least 10 right and 10 wrong answers, got"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_one(overrides, line, tmp_path):
    for name, text in OWN.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    status, out, err = run_here(tmp_path, *(override.replace("OWN", str(tmp_path / "own")) for override in overrides))
    mistakes = [text for text in err.splitlines() if text.startswith("error: ")]
    assert status == 1
    assert len(mistakes) == 1, err
    assert line in mistakes[0]
    assert "Traceback" not in out + err
    assert "Error executing job" not in err
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["probe=mlp", "-m", "split.seed=0,1"],
            "expected options before overrides, got -m after probe=mlp; "
            "write python train.py -m probe=mlp split.seed=0,1",
        ),
        (["--multrun"], "expected an option such as -m or --cfg job, got --multrun; did you mean --multirun?"),
        (["--probe=mlp"], "expected an option such as -m or --cfg job, got --probe=mlp; write probe=mlp"),
    ],
)
def test_options_that_hydra_does_not_read_are_one_line(arguments, line, tmp_path):
    done = subprocess.run([sys.executable, str(TRAIN), *arguments], cwd=tmp_path, capture_output=True, text=True)
    (told,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert told.startswith(f"error: {line}")
    assert not list(tmp_path.iterdir())


def test_a_traceback_is_shown_where_the_user_asks_for_it(tmp_path):
    """Of what composing finds, and of what a constructor finds."""
    environment = os.environ | {"HYDRA_FULL_ERROR": "1"}
    for override, words in (
        ("model=nope", "MissingConfigException"),
        ("split.val=2", "ValueError: split.val"),
    ):
        done = subprocess.run(
            command(tmp_path, override), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert words in done.stderr


def test_a_mistake_in_a_sweep_is_one_line_too(tmp_path):
    """Found for all jobs before the first; the second of two that are composed is wrong here."""
    status, out, err = run(
        tmp_path, "--multirun", f"hydra.sweep.dir={tmp_path}/sweep", "split.seed=1,2", "model=demo,nope"
    )
    (line,) = (out + err).splitlines()
    assert status == 1
    assert "error: expected model to be one of demo, " in line


@pytest.mark.parametrize(
    ("override", "line"),
    [("+split_seed=0,1", "split_seed: expected a key"), ("+prob=mlp", "did you mean probe?"), ("objective=x", "x")],
)
def test_what_is_wrong_with_all_jobs_of_a_sweep_is_told_before_the_first(override, line, tmp_path):
    status, out, err = run_here(tmp_path, "-m", f"hydra.sweep.dir={tmp_path}/sweep", "split.seed=1,2", override)
    assert status == 1
    (told,) = (out + err).splitlines()
    assert line in told
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("before", [None, "0"])
def test_hydra_s_variable_is_put_back(before, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if before:
        monkeypatch.setenv("HYDRA_FULL_ERROR", before)
    with HydraFullError("1"):
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
        with HydraFullError(None):
            assert "HYDRA_FULL_ERROR" not in os.environ
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
    assert os.environ.get("HYDRA_FULL_ERROR") == before
