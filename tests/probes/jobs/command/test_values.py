"""A table with a row for each key of the configuration: what it takes, and values that it refuses in one line."""

import math
from functools import cache
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from probes.jobs.command.kinds import fits
from probes.jobs.command.values import Check, refuse_wrong_values
from probes.jobs.command.wording import describe
from tests.support.configurations import compose_run
from tests.test_configs import CHOICES, NEEDED

ODD = [True, {"a": 1}, [[1]], math.inf, math.nan]  # of another kind, for all keys of numbers
NUMBER = [*ODD, "abc", "", [], [1, 1]]
WHOLE = [*NUMBER, 2.5]
NO_TEXT = [5, True, 2.5, [], ["a", "a"], {"a": 1}]
# What a key takes in words, and what it refuses. The first is refused by a whole check, the others by the type.
KINDS: dict[str, tuple[str, list[Any]]] = {
    "count": ("a whole number above 0", [2.5, 0, -1, None, *WHOLE]),
    "count or null": ("a whole number above 0 or null", [2.5, 0, -1, *WHOLE]),
    "not negative": ("a whole number of at least 0", [-1, None, *WHOLE]),
    "from -1": ("a whole number of at least -1", ["abc", -2, None, *WHOLE]),
    "whole or null": ("a whole number or null", WHOLE),
    "positive": ("a number above 0", ["abc", 0, -1.5, None, *NUMBER]),
    "tolerance": ("a number of at least 0", ["abc", -1e-9, None, *NUMBER]),
    "area": ("a number from 0 to 1", [2, -0.1, None, *NUMBER]),
    "bytes": ("a number of bytes of at least 0", [True, -1, None, *NUMBER]),
    "share": ("a share of at least 0 and below 1", ["abc", 1, -0.1, None, *NUMBER]),
    "share above 0": ("a share above 0 and below 1", ["abc", 0, 1, None, *NUMBER]),
    "batches": ("a number from 0 to 1, a whole number of at least 0, or null", [1.5, -1, *NUMBER]),
    "bool": ("true or false", ["no", 1, 0, None, [], {"a": 1}]),
    "bool or null": ("true or false, or null", ["no", 1, 0, [], {"a": 1}]),
    "text": ("a text", [5, None, "", *NO_TEXT]),
    "any text": ("a text", [5, None, *NO_TEXT]),
    "text or null": ("a text or null", [5, "", *NO_TEXT]),
    "any text or null": ("a text or null", NO_TEXT),
    "prompt": ("a text with {question} in it", [5, "", "Q:", *NO_TEXT]),
    "folder": ("a folder", [None, 5, "", ["a"], *NO_TEXT]),
    "file": ("a file", [None, 5, "", ["a"], *NO_TEXT]),
    "file or null": ("a file or null", ["", *NO_TEXT]),
    "column": ("a column", [5, "", None, *NO_TEXT]),
    "column or null": ("a column or null", ["", *NO_TEXT]),
    "mapping or null": ("a mapping or null", ["abc", 5, True, [1], []]),
    "texts": ("a list of different texts", ["abc", None, 5, ["a", "a"], [5], {"a": 1}]),
    "rules": ("a list of rules such as", [["a"], None, "abc", [5], [{"name": "a"}, {"name": "a"}]]),
    "mode": ("max or min", ["abc", None, 5, True, []]),
    "model": ("null or a model, given with +model@", ["gpt2", 5, True, []]),
    "one of": ("one of ", ["abc", None, 5, True, [], {"a": 1}]),
}
ROWS: dict[str, str | tuple[str, list[Any]]] = {
    "allow_targets": "texts",
    "cache.prune": ("a key or a list of keys, quoted if", [5, True, [], ["a", "a"], ""]),
    "cache.root": "folder",
    "callbacks.checkpoint.dirpath": "text or null",
    "callbacks.checkpoint.filename": "text or null",
    "callbacks.checkpoint.mode": "mode",
    "callbacks.checkpoint.monitor": "text or null",
    "callbacks.checkpoint.save_last": ("true or false, link, or null", ["abc", 1, []]),
    "callbacks.checkpoint.save_top_k": "from -1",
    "callbacks.early_stopping.mode": "mode",
    "callbacks.early_stopping.monitor": "text",
    "callbacks.early_stopping.patience": "not negative",
    "callbacks.early_stopping.strict": "bool",
    "callbacks.early_stopping.verbose": "bool",
    "callbacks.heatmap.within_fit": "bool",
    "cells": ("a list of texts, or null", ["abc", 5, [True], [""]]),
    "ckpt_path": ("a checkpoint or null", NO_TEXT),
    "columns": ("a list of texts or whole numbers, or null", ["abc", 5, [True], [2.5]]),
    "datamodule.batch_size": "count or null",
    "datamodule.block_bytes": "count or null",
    "datamodule.control_labels": "bool",
    "datamodule.path": "file",
    "datamodule.tokens": (
        "a list of last, mean and numbers of tokens",
        ["last", 5, True, [], ["first"], ["last", "last"]],
    ),
    "dataset.answer": ("a column or a list of different columns", [5, None, "", [], ["a", "a"], [5], True]),
    "dataset.apart": "not negative",
    "dataset.config": "text or null",
    "dataset.context": "column or null",
    "dataset.encoding": "text",
    "dataset.first_option": "whole or null",
    "dataset.group": ("a column, a text with columns in braces, or a list of such", [5, "", [], [5], True, {"a": 1}]),
    "dataset.id": "text",
    "dataset.kind": "one of",
    "dataset.finish": "column or null",
    "dataset.label": "column or null",
    "dataset.labels": ("a mapping or null", ["abc", 5, True, [1], {"a": "b"}, {"a": [""]}]),
    "dataset.largest": "count",
    "dataset.limit": "count",
    "dataset.logprobs": "column or null",
    "dataset.messages": "column or null",
    "dataset.name": "any text",
    "dataset.options": ("a list of columns, such as [a,b]", ["ab", 5, True, ["a", "a"], [""], {"a": 1}]),
    "dataset.path": "file",
    "dataset.pattern": "any text",
    "dataset.prompt_ids": "column or null",
    "dataset.question": "text",
    "dataset.response": "column",
    "dataset.response_ids": "column or null",
    "dataset.revision": "text or null",
    "dataset.seed": "not negative",
    "dataset.skill": ("facts or words", ["abc", None, 5]),
    "dataset.smallest": "count",
    "dataset.target": ("a column or null", ["", *NO_TEXT]),
    "dataset.test_path": "file or null",
    "dataset.test_split": "text or null",
    "dataset.text": "text",
    "dataset.train_split": "text",
    "folder": "folder",
    "heatmap.vmax": "area",
    "heatmap.vmin": "area",
    "logger.csv.name": "any text or null",
    "logger.csv.version": ("a whole number, a text, or null", [True, 2.5, []]),
    "logger.mlflow.experiment_name": "any text",
    "logger.mlflow.tracking_uri": "text",
    "logger.tensorboard.default_hp_metric": "bool",
    "logger.tensorboard.name": "any text or null",
    "logger.tensorboard.version": ("a whole number, a text, or null", [True, 2.5, []]),
    "logger.wandb.offline": "bool",
    "logger.wandb.project": "text or null",
    "logger.wandb.reinit": ("true or false, one of default, return_previous, ", ["abc", 1, []]),
    "model.adapter": "any text or null",
    "model.answer_batch_size": ("a whole number above 0 or auto", [2.5, 0, None, *WHOLE]),
    "model.base_prompt": "prompt",
    "model.batch_size": "count",
    "model.chat": ("true or false, or auto", ["yes", 1, None]),
    "model.chat_prompt": "prompt",
    "model.date": "text",
    "model.device": ("one of cpu, cuda, mps, or null", ["gpu", 0, True, []]),
    "model.device_map": ("a text, a mapping, or null", [5, True, "", []]),
    "model.dtype": "one of",
    "model.gguf": "any text or null",
    "model.id": "any text or null",
    "model.max_new_tokens": "count",
    "model.name": "text or null",
    "model.prompt": "prompt",
    "model.quantisation": "mapping or null",
    "model.random_weights": "bool",
    "model.revision": "text or null",
    "model.stop": "any text or null",
    "model.template": "mapping or null",
    "model.thinking_tokens": "not negative",
    "model.tp_plan": "text or null",
    "model.trust_remote_code": "bool",
    "objective": "text",
    "positions.also": "rules",
    "positions.into_prompt": "bool",
    "positions.rows": "one of",
    "positions.rules": "rules",
    "probe.class_weight": ("balanced or null", ["abc", 5, True, [], {"a": 1}]),
    "probe.hidden": "count",
    "probe.l2": ("a number above 0", [[[1]], {"a": 1}, True, math.inf, 0, -1, "abc", None, [], [1, 1], [0], math.nan]),
    "probe.max_iter": "not negative",
    "probe.offset": ("the name of a baseline, best, or null", [5, True, "", []]),
    "probe.optimizer.lr": "positive",
    "probe.scheduler.T_max": "count",
    "probe.standardize": "bool",
    "probe.tol": "tolerance",
    "probe.whiten": "bool",
    "report.terminal": ("full or line", ["abc", None, True]),
    "resume": "bool",
    "rule.judged": "texts",
    "rule.model": "model",
    "rule.tries": "count",
    "run": ("the folder of a finished run, such as outputs/latest, got ", ["", None, 5, ["a"], *NO_TEXT]),
    "runs": ("a folder or a list of folders of finished runs, such as [", ["", 5, [], [5], None, True]),
    "score.cell": (
        "a layer and a position, such as [12,exact_answer_last], or null",
        ["12:mean", 5, True, [], [12], ["mean", 12], [12, "a", "b"], [True, "a"], [2.5, "a"], [-1, "a"], [1, ""]],
    ),
    "score.cells": "count",
    "score.fpr": ("a number above 0 and below 1", ["abc", 0, 1, None, *NUMBER]),
    "score.max_new_tokens": "count or null",
    "score.target": "text or null",
    "scores.max_bytes": "bytes",
    "seed": "not negative",
    "site.also": ("a list of different sites, such as", ["z", ["z", "z"], ["abc"], 5, True]),
    "site.also_layers": ("a list of different whole numbers", [3, [1, 1], [True], [2.5], [-1], "abc", None, True]),
    "site.layers": ("a list of different whole numbers", [3, [], [1, 1], [True], [2.5], [-1], "abc", True]),
    "site.name": "one of",
    "spans.max_words": "count",
    "spans.model": "model",
    "spans.only_wrong": "bool",
    "spans.rule": "one of",
    "spans.tries": "count",
    "split.by": "text",
    "split.own_test": "bool",
    "split.seed": ("a whole number of at least 0, or a list of diff", ["abc", [], [1, 1], None, True, 2.5, -1, [True]]),
    "split.test": "share above 0",
    "split.val": "share",
    "trainer.accelerator": "one of",
    "trainer.devices": ("a number of devices, a list of different", ["abc", 0, [], [0, 0], None, True, 1.5, "0,0", -2]),
    "trainer.enable_checkpointing": "bool or null",
    "trainer.enable_model_summary": "bool or null",
    "trainer.fast_dev_run": ("true or false, or a whole number of at least 0", [2.5, -1, "abc", None, []]),
    "trainer.limit_test_batches": "batches",
    "trainer.limit_train_batches": "batches",
    "trainer.limit_val_batches": "batches",
    "trainer.log_every_n_steps": "not negative",
    "trainer.logger": "bool",
    "trainer.max_epochs": "from -1",
    "trainer.num_nodes": "count",
    "trainer.num_sanity_val_steps": "from -1",
    "trainer.precision": ("32-true, 64-true, 16-mixed or bf16-mixed", ["abc", True, 31, []]),
    "trainer.strategy": ("a text", [5, True, "", []]),
    "trainer.use_distributed_sampler": "bool",
}
OF_COMMANDS = {
    "experiment=analyse": ["run=a"],
    "experiment=collect": ["runs=[a]"],
    "experiment=compare": ["runs=[a]"],
}


@cache
def compose_choice(choice: str) -> tuple[DictConfig, dict[str, list[Any]]]:
    """A choice of a group: the configuration, and the types of its keys."""
    cfg = compose_run(choice, *NEEDED.get(choice, []), *OF_COMMANDS.get(choice, []))
    check = Check(cfg, light=False)
    check.check()
    return cfg, check.hints


def find_keys(node: DictConfig, place: str) -> set[str]:
    """Keys that have a value of their own, below nodes; what refers to another key is that key."""
    found = set()
    for key in node:
        name = f"{place}.{key}" if place else str(key)
        value = node._get_node(key)
        if str(key).startswith("_") or name in ("hydra", "checks", "command") or value._is_interpolation():  # type: ignore[union-attr]
            continue
        inside = isinstance(value, DictConfig) and not value._is_none() and len(value)
        found |= find_keys(value, name) if inside else {name}  # type: ignore[arg-type]
    return found


RUNS = [choice for choice in CHOICES if choice.partition("=")[0] not in ("launcher", "hparams_search")]


@pytest.fixture(scope="module")
def typed() -> dict[str, str]:
    """Of every key that has a type the first choice in which it has one; choices of nodes come first."""
    first: dict[str, str] = {}
    for choice in RUNS:
        for name in compose_choice(choice)[1]:
            first.setdefault(name, choice)
    return first


def test_every_key_of_every_choice_has_a_type_and_a_row(typed):
    """So a new key is checked, and gets a row, though nobody remembers."""
    keys = set().union(*(find_keys(compose_choice(choice)[0], "") for choice in RUNS))
    assert {key for key in keys if not any(f"{key}.".startswith(f"{name}.") for name in typed)} == set()
    taken = {"probe.scheduler.T_max"}  # where trainer.max_epochs does not stand for it
    assert {name for name in keys if name in typed} <= set(ROWS) | {"callbacks", "logger"}
    assert set(ROWS) - taken <= set(typed)


@pytest.mark.parametrize("key", ROWS)
def test_a_wrong_value_is_told_by_its_key(key, typed):
    row = ROWS[key]
    words, bad = KINDS[row] if isinstance(row, str) else row
    choice = typed.get(key, "probe=minibatch")
    cfg, hints = compose_choice(choice)
    cfg = cfg.copy()
    with open_dict(cfg):
        OmegaConf.update(cfg, key, bad[0], force_add=True)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        refuse_wrong_values(cfg, light=False)
    assert str(refused.value).startswith(f"{key}: expected {words}")
    assert ", got " in str(refused.value)
    for value in bad[1:]:
        assert any(not fits(value, hint) for hint in hints.get(key, [])) or key == "probe.scheduler.T_max", value


def test_words_of_types():
    assert describe(int | float | None) == "a number or null"
    assert describe(bool | int) == "true or false, or a whole number"
