"""Every shipped YAML is composed and instantiated."""

from pathlib import Path

import hydra
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from datamodules.base import GridDataModule
from datamodules.labels.judge import Judge
from datamodules.labels.rules import (
    TextRule,
    judge_as_given,
    judge_by_gold,
    judge_by_number,
    judge_by_options,
    judge_by_pattern,
    judge_by_substring,
)
from datamodules.labels.spans import ModelSpans, RuleSpans
from datamodules.language.site_names import SITES
from probes.grids.grid import ProbeGrid
from probes.grids.mass_mean import MassMeanGrid
from probes.jobs.command.keys import refuse_unknown_keys
from tests.support.places import ROOT
from train import build, check

CONF = ROOT / "conf"
CHOICES = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}" for path in CONF.rglob("*.yaml") if path.name != "config.yaml"
)
WITH_A_PATH = [
    "csv", "jsonl", "parquet", "statements", "responses", "movies", "math", "winogrande", "winobias", "mnli",
    "natural_questions_context",
]  # fmt: skip
NEEDED = {
    "model=hf": ["model.id=org/name"],
    "dataset=hub": ["dataset.id=org/name"],
    "rule=given": ["dataset=statements", "dataset.path=some.csv"],
    **{f"dataset={name}": ["dataset.path=some.csv"] for name in WITH_A_PATH},
    "experiment=score": ["dataset=cities"],
    "datamodule=precomputed": ["datamodule.path=some.safetensors"],
    "trainer=gpu": ["trainer.accelerator=cpu"],  # so that it can be made where there is none
    "trainer=ddp": ["trainer.accelerator=cpu", "trainer.devices=2"],
    "trainer=slurm": ["trainer.accelerator=cpu"],
    "callbacks=checkpoint": ["trainer.enable_checkpointing=true"],  # train.py turns it on
}


def composed(tmp_path, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    cfg.hydra.runtime.output_dir = str(tmp_path)
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_readonly(cfg.hydra, False)
    return cfg


def test_the_choices_are_found():
    assert "positions=paper" in CHOICES
    assert {choice.split("=")[1] for choice in CHOICES if choice.startswith("site=")} == set(SITES)


@pytest.mark.parametrize("choice", CHOICES)
def test_each_choice_makes_a_run(choice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # logger=mlflow makes its store here
    cfg = composed(tmp_path, choice, *NEEDED.get(choice, []))
    refuse_unknown_keys(cfg)
    datamodule = build(cfg.datamodule)
    assert isinstance(datamodule, GridDataModule)
    assert datamodule.split.seed == cfg.split.seed
    assert isinstance(build(cfg.probe), ProbeGrid)
    both = [[build(node) for node in (cfg.get(group) or {}).values()] for group in ("callbacks", "logger")]
    trainer = build(cfg.trainer, callbacks=both[0], logger=both[1])
    assert trainer.max_epochs == cfg.trainer.max_epochs
    assert trainer.num_devices == cfg.trainer.devices


def test_sites_differ_in_their_name_alone(tmp_path):
    sites = {name: composed(tmp_path, f"site={name}").site for name in SITES}
    assert sites == {name: {"name": name, "layers": None, "also": [], "also_layers": []} for name in SITES}


def test_a_model_a_set_and_a_list_of_positions_come_from_outside(tmp_path):
    for group, name, text in (
        ("model", "mine", "defaults: [hf]\nid: org/mine\nchat: true\nprompt: 'Say: {question}'\n"),
        ("positions", "ends", "defaults: [exact]\nrules: [{name: end, of: answer, at: last}]\n"),
        ("dataset", "quiz", "defaults: [winobias]\npath: quiz.csv\nquestion: q\n"),
    ):
        (tmp_path / "own" / group).mkdir(parents=True)
        (tmp_path / "own" / group / f"{name}.yaml").write_text(text)
    cfg = composed(
        tmp_path, "model=mine", "positions=ends", "dataset=quiz", f"hydra.searchpath=[file://{tmp_path / 'own'}]"
    )
    datamodule = build(cfg.datamodule)
    assert (datamodule.model.id, datamodule.model.chat, datamodule.model.stop) == ("org/mine", True, "auto")
    assert datamodule.model.prompt == "Say: {question}"
    assert datamodule.positions.names == ["end"]
    assert (datamodule.dataset.question, datamodule.dataset.path) == ("q", "quiz.csv")
    assert datamodule.rule.rule.func is judge_by_options


def test_every_model_says_who_it_is_and_whether_it_chats():
    for path in (CONF / "model").glob("*.yaml"):
        if path.stem not in ("hf", "demo"):
            model = OmegaConf.load(path)
            thinking = path.stem.endswith("_thinking")  # builds on the preset that does not think
            assert model.defaults == [path.stem.removesuffix("_thinking") if thinking else "hf"]
            if not thinking:
                assert model.chat is (
                    "instruct" in path.stem or path.stem in ("qwen3_8b", "qwen3_32b", "phi4", "smollm2")
                )
                assert model.id.count("/") == 1


@pytest.mark.parametrize("name", ["qwen3_8b", "qwen3_32b"])
def test_a_thinking_model_thinks_only_where_its_preset_says_so_and_has_the_room(name, tmp_path):
    quick, thinking = (build(composed(tmp_path, f"model={name}{end}").datamodule).model for end in ("", "_thinking"))
    assert (quick.id, quick.chat) == (thinking.id, thinking.chat)
    assert (quick.template, quick.token_limit) == ({"enable_thinking": False}, 100)
    assert (thinking.template, thinking.token_limit) == ({"enable_thinking": True}, 4196)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("cache.root=/elsewhere", lambda run: run.cache_root == "/elsewhere"),
        ("site=mlp_out", lambda run: run.sites == ["mlp_out"]),
        ("site.also=[z,mlp_out]", lambda run: run.sites == ["resid_post", "z", "mlp_out"]),
        ("spans=paper", lambda run: run.spans.only_wrong and run.spans.tries == 5),
        ("spans.rule=number", lambda run: run.spans.rule == "number"),
        ("spans=model +model@spans.model=gpt2", lambda run: run.spans.model.id == "openai-community/gpt2"),
        ("site.layers=[0,3]", lambda run: run.layers == [0, 3]),
        ("split.seed=7", lambda run: run.split.seed == 7),
        ("dataset=demo_words", lambda run: run.dataset.skill == "words"),
        ("dataset.limit=50", lambda run: run.dataset.limit == 50),
        ("rule=substring", lambda run: run.rule.rule.func is judge_by_substring),
        ("rule=judge +model@rule.model=gpt2", lambda run: run.rule.model.id == "openai-community/gpt2"),
        ("dataset=triviaqa", lambda run: (run.rule.rule.func, type(run.spans)) == (judge_by_gold, ModelSpans)),
        (
            "dataset=triviaqa rule=number spans=rule",
            lambda run: (run.rule.rule.func, type(run.spans)) == (judge_by_number, RuleSpans),
        ),
        ("dataset=imdb", lambda run: (len(run.positions.names), run.rule.rule.func) == (12, judge_by_options)),
        (
            "dataset=cities dataset.group=country",
            lambda run: (
                (run.dataset.group, run.rule.rule.func, run.spans.rule) == ("country", judge_by_pattern, "auto")
            ),
        ),
        (
            "dataset=sums model=smollm2 dataset.largest=999",
            lambda run: (
                (run.dataset.largest, run.rule.rule.func, run.spans.rule) == (999, judge_by_number, "number")
                and run.model.prompt.splitlines()[-2:] == ["Q: {question}", "A:"]
                and run.model.stop == "\n"
            ),
        ),
        ("dataset=imdb positions=exact", lambda run: len(run.positions.names) == 4),
        # the length that a set asks for leaves the thought its own
        ("model=qwen3_8b_thinking dataset=math dataset.path=x", lambda run: run.model.token_limit == 4296),
        ("dataset=math dataset.path=x", lambda run: (run.model.max_new_tokens, run.spans.rule) == (200, "number")),
        ("dataset=statements dataset.path=x", lambda run: run.dataset.stated and run.rule.rule.func is judge_as_given),
        ("dataset=math dataset.path=x", lambda run: run.model.chat_prompt.startswith("{question} ")),
        ("dataset=math dataset.path=x model.chat_prompt=null", lambda run: run.model.chat_prompt is None),
        ("dataset=triviaqa", lambda run: (run.model.chat_prompt, run.model.base_prompt) == (None, None)),
        ("split.val=0", lambda run: run.split.val == 0),
        ("split.own_test=false", lambda run: run.split.own_test is False),
        ("positions.into_prompt=true", lambda run: run.positions.into_prompt is True),
        ("positions.rows=common", lambda run: run.positions.rows == "common"),
        ("split.by=gold", lambda run: run.split.by == "gold"),
        ("dataset=cities split.by=country", lambda run: run.split.by == "country"),
        ("datamodule.control_labels=true", lambda run: run.control_labels is True),
        ("model.random_weights=true", lambda run: run.model.title == "probegrid demo model, random weights"),
    ],
)
def test_the_keys_that_people_set_reach_their_object(override, read, tmp_path):
    assert read(build(composed(tmp_path, *override.split()).datamodule))


STUDIED = [
    "triviaqa", "hotpotqa", "hotpotqa_context", "natural_questions", "natural_questions_context", "movies", "math",
    "winogrande", "winogrande_hub", "winobias", "mnli", "mnli_hub", "imdb",
]  # fmt: skip


@pytest.mark.parametrize("name", STUDIED)
def test_the_study_s_settings_fit_each_of_its_sets(name, tmp_path):
    given = ["experiment=paper", "model=mistral_7b_instruct", f"dataset={name}", *NEEDED.get(f"dataset={name}", [])]
    cfg = composed(tmp_path, *given)
    run, probe = build(cfg.datamodule), build(cfg.probe)
    judged = name in ("natural_questions", "natural_questions_context")
    assert isinstance(run.rule, Judge if judged else TextRule)
    assert run.rule.rule is judge_by_substring
    assert (type(run.spans), run.spans.only_wrong) == (ModelSpans, True)
    assert run.sites == ["mlp_out"]
    assert run.dataset.limit == 1000
    assert (run.split.val, run.split.test, run.split.own_test) == (0, 0.2, False)
    assert (run.positions.into_prompt, run.positions.rows) == (True, "exact_answer")
    assert len(run.positions.names) == (12 if name == "imdb" else 15)
    assert run.model.template == {"add_generation_prompt": False}
    assert run.model.max_new_tokens == (200 if name == "math" else 100)
    assert (probe.l2, probe.standardize) == (1.0, False)
    again = composed(tmp_path, *reversed(given))
    assert {**again, "hydra": None} == {**cfg, "hydra": None}  # in whatever order they are given


def test_the_command_line_wins_over_the_study_s_settings(tmp_path):
    given = (
        "experiment=paper dataset=triviaqa rule=gold spans=rule positions=exact site=z probe=mass_mean dataset.limit=7 "
        "split.val=0.1 positions.into_prompt=false model=qwen3_8b model.template.add_generation_prompt=true"
    )
    cfg = composed(tmp_path, *given.split())
    run = build(cfg.datamodule)
    assert (run.rule.rule.func, type(run.spans), len(run.positions.names)) == (judge_by_gold, RuleSpans, 4)
    assert (run.sites, run.dataset.limit, run.split.val, run.positions.into_prompt) == (["z"], 7, 0.1, False)
    assert run.model.template == {"enable_thinking": False, "add_generation_prompt": True}
    assert isinstance(build(cfg.probe), MassMeanGrid)


def test_a_constructor_speaks_for_itself(tmp_path):
    cfg = composed(tmp_path, "positions.rules=[last_q]")
    with pytest.raises(ValueError, match=r"^positions.rules: expected a list of rules such as .*, got \['last_q'\]$"):
        build(cfg.datamodule)
    cfg = composed(tmp_path, "probe.l2=-1")
    with pytest.raises(
        ValueError, match=r"^probe.l2: expected a number above 0, a list of such, by_size or auto; got -1"
    ):
        build(cfg.probe)


@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_a_probe_that_learns_by_mini_batches_sets_what_it_needs(trainer, tmp_path):
    cfg = composed(tmp_path, "probe=mlp", f"trainer={trainer}", "probe.hidden=8")
    assert cfg.datamodule.batch_size == 256
    assert cfg.trainer.max_epochs == 30
    assert build(cfg.callbacks.early_stopping).monitor == "val/auc_mean"
    probe = build(cfg.probe)
    assert probe.hidden == 8
    optimizer = probe.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.param_groups[0]["lr"] == 0.003
    assert probe.scheduler(optimizer).T_max == 30


def test_what_people_set_of_the_trainer_needs_no_plus(tmp_path, monkeypatch):
    shares = ["limit_train_batches=0.5", "limit_val_batches=2", "limit_test_batches=0.25"]
    given = (f"trainer.{one}" for one in ["num_nodes=1", "precision=64-true", *shares])
    trainer = build(composed(tmp_path, *given).trainer)
    assert (trainer.num_nodes, trainer.precision) == (1, "64-true")
    assert (trainer.limit_train_batches, trainer.limit_val_batches, trainer.limit_test_batches) == (0.5, 2, 0.25)
    assert build(composed(tmp_path, "trainer.fast_dev_run=3").trainer).limit_train_batches == 3
    assert build(composed(tmp_path, "trainer.logger=false").trainer).loggers == []
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    assert composed(tmp_path, "trainer=slurm").trainer.devices == 8


def test_nothing_else_instantiates():
    """Hydra's own `instantiate` has two callers, which hold each `_target_` against what it may name first."""
    paths = [path for path in CONF.parent.glob("**/*.py") if ".venv" not in str(path.relative_to(CONF.parent))]
    callers = [path for path in paths if "utils.instantiate" in path.read_text("utf-8")]
    assert sorted(path.name for path in callers if path != Path(__file__)) == ["run_parts.py", "train.py"]
    assert hydra.__version__.startswith("1.3")


@pytest.mark.parametrize(
    ("cuda", "apples", "accelerator", "device"),
    [(True, False, "gpu", None), (False, True, "cpu", "mps"), (False, False, "gpu", None), (True, True, "gpu", None)],
)
def test_a_gpu_of_apple_runs_the_model_alone(monkeypatch, tmp_path, cuda, apples, accelerator, device):
    """Probes are fitted in float64, which it lacks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apples)
    cfg = composed(tmp_path, "trainer=gpu")
    assert (cfg.trainer.accelerator, cfg.model.device) == (accelerator, device)
    assert cfg.trainer.devices == 1
    check(cfg.checks)
    assert build(cfg.datamodule).model.device == device
    for other in ["trainer.accelerator=mps", *(["trainer.accelerator=gpu"] if device else [])]:
        with pytest.raises(ValueError, match=r"trainer.accelerator: expected cpu or a CUDA device, .* got mps, which"):
            check(composed(tmp_path, "trainer=gpu", other).checks)
    assert composed(tmp_path, "trainer=gpu", "model.device=cpu").model.device == "cpu"
    assert "device" not in composed(tmp_path, "trainer=cpu").model


@pytest.mark.parametrize(
    "several", [["trainer=ddp_cpu"], ["trainer.devices=[0,1]"], ['trainer.devices="0,1"'], ["trainer.num_nodes=2"]]
)
def test_a_spread_model_and_several_processes_are_refused_before_any_work(tmp_path, several):
    spread = ["+model.device_map=auto", *several]
    with pytest.raises(
        ValueError, match=r"model.device_map: expected one process, as .* got 2 of them; set trainer.de"
    ):
        check(composed(tmp_path, *spread).checks)
    check(composed(tmp_path, *several).checks)
    check(composed(tmp_path, "+model.device_map=auto", "trainer.devices=auto").checks)  # only the machine tells
    check(composed(tmp_path, "+model.device_map=auto", "trainer.devices=null").checks)  # Lightning's to refuse
