"""Every key that a run needs is named when it is absent, and so is what is expected of it."""

import copy
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from probes.jobs.command.absent import _find_references, refuse_absent_keys
from probes.jobs.command.shipped import list_choices
from probes.jobs.command.values import refuse_wrong_values
from probes.settings import TOP
from tests.support.configurations import compose_run
from tests.support.runs import run_here

pytestmark = pytest.mark.usefixtures("_without_pictures")

TREE: Any = OmegaConf.to_container(compose_run())
NEEDED = sorted({key for _, key in _find_references(TREE, ())} | {*TOP})
GROUPS = ["model", "dataset", "rule", "spans", "positions", "site", "split", "datamodule", "probe", "trainer"]
HOLDERS = ["cache", "scores", "heatmap", "report", "checks"]


def refuse(key, *value):
    """What is said where a key has another value, or is not there."""
    tree: Any = copy.deepcopy(TREE)
    *above, last = key.split(".")
    holder = tree
    for part in above:
        holder = holder[part]
    del holder[last]
    holder |= dict.fromkeys([last], *value) if value else {}
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        refuse_absent_keys(DictConfig(tree))
    return str(refused.value)


def test_the_keys_are_found():
    assert {"probe.l2", "site.name", "dataset", "seed", "cache.root", "heatmap.vmin"} <= {*NEEDED}


@pytest.mark.parametrize("key", NEEDED)
def test_an_absent_key_is_named_with_what_is_expected(key):
    line = refuse(key)
    assert line.startswith(f"{key}: expected ")
    assert ", got none; " in line
    assert "expected a value," not in line  # its type is known


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_without_a_choice_lists_its_choices(group):
    line = f"{group}: expected one of {', '.join(list_choices(group))}, got none; choose one"
    assert refuse(group) == line


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_place_of_keys_is_no_value(holder):
    assert refuse(holder, None).startswith(f"{holder}: expected keys with values")
    assert refuse(holder).startswith(f"{holder}: expected keys with values")


def test_groups_without_which_a_run_goes_on_and_commands_need_no_more():
    for overrides in (["callbacks=[]"], ["logger=[]"], ["experiment=collect", "runs=[a]", "dataset=[]"]):
        refuse_absent_keys(compose_run(*overrides))


@pytest.mark.parametrize("node", ["datamodule", "dataset", "rule", "probe", "trainer"])
def test_a_node_without_its_target(node):
    assert refuse(f"{node}._target_").startswith(f"{node}._target_: expected the name of what {node} makes, got none;")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("datamodule.dataset", "QuestionSet by a _target_"),
        ("datamodule.site", "one of resid_pre, resid_post,"),
        ("checks.site.name", "one of resid_pre, resid_post,"),
        ("rule.rule", "a node with a _target_ and _partial_: true"),
    ],
)
def test_an_argument_that_a_constructor_needs(key, words):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        refuse_wrong_values(compose_run(f"~{key}"), light=False)
    assert str(refused.value).startswith(f"{key}: expected {words}")
    assert str(refused.value).endswith("got none; leave it in")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("split=5", "split: expected one of group, got split=5; choose one"),
        ("+probe=null", "probe: expected one of logistic, mass_mean, minibatch, mlp, paper, got +probe=null; choose"),
        ("hydra=null", "hydra: expected the name of a choice, or of one below it, as in hydra/launcher=NAME, got"),
        ("~ckpt_path", "ckpt_path: expected a key with a value after ~, got one that is null or absent; leave"),
        ("~seed=3", "seed: expected its value after ~, 0, got 3; write ~seed"),
        ("~dataset=csv", "dataset: expected a choice that is made after ~, got csv; leave it out"),
        ("++dataset=csv", "dataset: expected a choice without ++, got ++; write dataset=csv"),
        ("heatmap=[]", "heatmap: expected a value of the same kind as the one there, got [] ("),
        ("dataset=null", "dataset: expected one of cities, csv, "),
        ("~resume", "resume: expected true or false, got none; leave it in"),
    ],
)
def test_what_hydra_says_without_the_key(override, line, tmp_path):
    status, out, err = run_here(tmp_path, override)
    assert status == 1
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1
    assert out == ""


def test_a_nul_character_is_told_by_its_key():
    cfg = compose_run("dataset=csv", "dataset.path=a")
    for key, value in (("dataset.path", "a\0b"), ("cache.root", "\0"), ("logger.csv.name", "\0"), ("folder", "a\0")):
        one = cfg.copy()
        OmegaConf.update(one, key, value)
        with pytest.raises(ValueError, match=rf"^{key}: expected no NUL character, got '.*\\x00.*'; take it out$"):
            refuse_wrong_values(one)
