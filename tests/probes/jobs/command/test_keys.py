"""Keys that nothing reads, and keys that something does."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from probes.jobs.command.keys import _check_schema, find_arguments, offer_closest, refuse_unknown_keys
from probes.jobs.command.shipped import read_shipped
from tests.support.configurations import compose_run
from tests.support.places import ROOT

STOPPING = "+callbacks.stop._target_=pytorch_lightning.callbacks.EarlyStopping"

SAMPLER = ["hparams_search=optuna", "hydra/sweeper/sampler=random"]
SAMPLER += ["hydra.sweeper.sampler._target_=datamodules.split.GroupSplit"]  # has a seed


@pytest.mark.parametrize(
    ("overrides", "key", "closest"),
    [
        (["+prob=mlp"], "prob", "did you mean probe?"),
        (["+prob.l2=3"], "prob", "did you mean probe?"),
        (["+split_seed=0"], "split_seed", "did you mean split.seed?"),
        (["+limit=3"], "limit", "did you mean dataset.limit?"),
        (["+dataset.limt=3"], "dataset.limt", "did you mean dataset.limit?"),
        (["dataset=csv", "dataset.path=a", "+dataset.optoins=[b]"], "dataset.optoins", "did you mean dataset.options?"),
        (["dataset=cities", "+dataset.limt=3"], "dataset.limt", "did you mean dataset.limit?"),
        (["+model.max_tokens=3"], "model.max_tokens", "did you mean model.max_new_tokens?"),
        (["+site.layer=[0]"], "site.layer", "did you mean site.layers?"),
        (["+scores.maxbytes=3"], "scores.maxbytes", "did you mean scores.max_bytes?"),
        (["+cache.rot=a"], "cache.rot", "did you mean cache.root?"),
        (["+probe.toll=3"], "probe.toll", "did you mean probe.tol?"),
        (["+probe.hidden=3"], "probe.hidden", "choose one of class_weight, l2, max_iter, offset, standardize, tol"),
        (
            ["probe=mlp", "+probe.optimizer.bettas=[0,0]"],
            "probe.optimizer.bettas",
            "did you mean probe.optimizer.betas?",
        ),
        (["+trainer.acumulate_grad_batches=2"], "trainer.acumulate_grad_batches", "accumulate_grad_batches?"),
        (["+callbacks.heatmp.vmin=0.6"], "callbacks.heatmp", "did you mean callbacks.heatmap?"),
        ([STOPPING, "+callbacks.stop.monitr=a"], "callbacks.stop.monitr", "did you mean callbacks.stop.monitor?"),
        (["+rule.rule.a=3"], "rule.rule.a", ""),
        (["+run=a"], "run", "it belongs to experiment=analyse"),
        (["+cache.prune=a"], "cache.prune", "it belongs to experiment=cache_info"),
        (["+nothing_like_it=3"], "nothing_like_it", "choose one of allow_targets, cache,"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_the_closest(overrides, key, closest):
    with pytest.raises(ValueError, match="expected") as refused:
        refuse_unknown_keys(compose_run(*overrides))
    assert str(refused.value).startswith(f"{key}: expected ")
    assert closest in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["+trainer.accumulate_grad_batches=2"],
        ["trainer._target_=pytorch_lightning.Trainer", "+trainer.accumulate_grad_batches=2"],
        ["probe=minibatch", "+probe.optimizer.betas=[0.9,0.99]"],
        ["probe=minibatch", "probe.optimizer._target_=torch.optim.SGD", "+probe.optimizer.momentum=0.9"],
        [STOPPING, "+callbacks.stop.monitor=val/auc_mean"],
        ["callbacks.progress=null"],
        ["logger=tensorboard", "+logger.tensorboard.anything=3"],  # a constructor with **kwargs
        ["+model.chat=false"],  # demo: what it passes on to LanguageModel
        ["model=hf", "model.id=a", "+model.template.enable_thinking=false"],  # below a value that is a dict of its own
        ["rule=judge", "+model@rule.model=gpt2"],
        ["+tag=here", "dataset.name=${tag}"],
        ["+mine.tag=here", "dataset.name=x${mine.tag}"],
        ["experiment=analyse", "run=a"],
        ["experiment=compare", "runs=[a]", "cells=[1:a,2:b]"],
        ["experiment=cache_info", "cache.prune=abcd"],
        ["dataset=nowhere", "dataset._target_=nosuchmodule.Questions", "+dataset.key=3"][1:],  # told when it is built
    ],
)
def test_a_key_that_something_reads_is_not_refused(overrides):
    refuse_unknown_keys(compose_run(*overrides))


@pytest.mark.parametrize(
    ("overrides", "closest"),
    [
        ([], None),
        (["hparams_search=optuna"], None),  # its sampler takes more than the schema of a sampler says
        (["hparams_search=optuna", "hydra/sweeper/sampler=random"], None),
        ([*SAMPLER, "hydra.sweeper.sampler.seed=1"], None),
        ([*SAMPLER, "+hydra.sweeper.sampler.sed=1"], "did you mean hydra.sweeper.sampler.seed?"),
        (["launcher=joblib", "+hydra.launcher.n_jbos=1"], "did you mean hydra.launcher.n_jobs?"),
        (["launcher=submitit"], None),
        (["+hydra.sweep.dri=a"], "did you mean hydra.sweep.dir?"),
    ],
)
def test_options_of_hydra_and_its_plugins(overrides, closest):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = compose("config", overrides=overrides, return_hydra_config=True).hydra
    if closest is None:
        _check_schema(hydra, "hydra")
        return
    with pytest.raises(ValueError, match=r"^hydra\.") as refused:
        _check_schema(hydra, "hydra")
    assert closest in str(refused.value)


def test_every_choice_is_known_without_importing_anything_large():
    """Many at once, as composing takes time; tests/test_configs.py checks each alone."""
    program = """
import sys
from itertools import zip_longest
from hydra import compose, initialize_config_dir
from probes.jobs.command.keys import refuse_unknown_keys
import train
with initialize_config_dir(str(train.CONF), version_base="1.3"):
    choices = {}
    for path in sorted(train.CONF.glob("*/*.yaml")):
        choices.setdefault(path.parent.name, []).append(f"{path.parent.name}={path.stem}")
    parts = ("dataset", "model", "positions", "probe", "rule", "site", "spans")  # any choices of these go together
    together = [list(filter(None, one)) for one in zip_longest(*map(choices.pop, parts))]
    for overrides in [*together, *([one] for several in choices.values() for one in several)]:
        chosen = ["dataset=demo_facts"] if "experiment=score" in overrides else []  # which has no default
        refuse_unknown_keys(compose("config", overrides=[*overrides, *chosen]))
    for mistake in ("+prob=mlp", "+dataset.limt=3", "+site.layer=3", "+split.sed=1", "+model.colour=red"):
        try:
            refuse_unknown_keys(compose("config", overrides=[mistake]))
        except ValueError:
            continue
        raise AssertionError(mistake)
print(*{"torch", "pytorch_lightning", "matplotlib"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_what_the_files_set_follows_their_parents(tmp_path):
    """A choice has the keys of its parents; an experiment's are known by its name alone."""
    for name, text in {
        "config": "defaults: [{model: big}, {probe: line}, _self_, {experiment: null}]\nseed: 0\ncache: {root: a}\n",
        "model/small": "_target_: models.Model\nid: a\n",
        "model/big": "defaults: [small]\n_target_: models.Big\nwidth: 3\n",
        "probe/line": "# @package _global_\nprobe: {_target_: probes.Line, l2: 1}\nmodel: {prompt: a}\n",
        "experiment/show": "# @package _global_\nrun: a\ncache: {prune: b, root: c}\ncommand: {_target_: show, of: a}",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    shipped = read_shipped(tmp_path)
    assert shipped.arguments == {
        "models.Model": {"_target_", "id"},
        "models.Big": {"_target_", "id", "width"},
        "probes.Line": {"_target_", "l2"},
        "show": {"_target_", "of"},
    }
    assert shipped.plain[()] == {"seed", "cache", "model", "probe"}
    assert shipped.plain["cache",] == {"root"}
    assert shipped.extra == {("run",): "experiment=show", ("cache", "prune"): "experiment=show"}


def test_arguments_of_a_target():
    assert find_arguments("datamodules.split.GroupSplit") == {"val", "test", "seed", "own_test", "by"}
    assert find_arguments("builtins.dict") is None
    assert find_arguments("no.such.thing") is None
    assert {"dtype", "prompt"} <= (find_arguments("datamodules.language.demo.build_demo_model") or set())


def test_the_closest_key():
    assert offer_closest("a.limt", ["a.limit", "a.name"]) == "did you mean a.limit?"
    assert offer_closest("l2", ["seed"], ["probe.l2"]) == "did you mean probe.l2?"
    assert offer_closest("a.zzz", ["a.limit", "a.name"]) == "choose one of limit, name"
    assert offer_closest("zzz", []) == "take it out"
