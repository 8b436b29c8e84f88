"""What a `_target_` may name: a configuration from elsewhere calls nothing else."""

import sys

import pytest
from omegaconf import OmegaConf

from probes.jobs.command.keys import refuse_mistakes
from probes.jobs.command.targets import refuse_other_targets
from tests.support.configurations import compose_run
from tests.support.runs import run_here

pytestmark = pytest.mark.usefixtures("_without_pictures")

NAMED = "expected a class of datamodules, probes, torch.optim, pytorch_lightning or torchmetrics, got "


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("torch.load", f"{NAMED}torch.load; if you trust it"),
        ("pathlib.Path.unlink", f"{NAMED}pathlib.Path.unlink; "),
        ("os.system", f"{NAMED}os.system; "),
        ("builtins.eval", f"{NAMED}builtins.eval; "),
        ("hydra.utils.get_method", f"{NAMED}hydra.utils.get_method; "),
        ("torch.optimizers.Adam", f"{NAMED}torch.optimizers.Adam; "),
        ("probes.grids.grid.torch.load", "probes.grids.grid.torch.load, which is torch.serialization.load; "),
        ("datamodules.split.np.load", "datamodules.split.np.load, which is numpy.load; "),
        ("datamodules.stream.local_paths.Path", "which is pathlib"),
        ("datamodules.stream.local_paths.Path.unlink", "which is pathlib"),
        ("probes.report.whole_file.os.system", "which is posix.system; "),
        ("probes.jobs.one_rank.run_rank", "which is no part to build with; "),
        ("probes.report.heatmap._private", "which is no part to build with; "),
        ("datamodules.language.cache.removal.remove_entries", "which is no part to build with; "),
        ("datamodules.stream.whole_file.replace_whole", "which is no class; "),
        ("pytorch_lightning.cli.LightningCLI", "which is no part to build with; "),
        ("pytorch_lightning.seed_everything", "which is lightning_fabric.utilities.seed.seed_everything; "),
        ("pytorch_lightning.Trainer.fit", "pytorch_lightning.Trainer.fit, which is no class; "),
        ("torch.optim.swa_utils.get_ema_multi_avg_fn", "which is no class; "),
        ("probes.Nope", "expected a class that can be imported, got probes.Nope: "),
        ("", "expected the dotted name of a class, got ''"),
    ],
)
def test_what_is_no_class_of_ours_is_refused_by_where_it_was_defined(target, line):
    for place in ("command", "callbacks.mine", "model.template", "trainer.plugins.0"):
        cfg = OmegaConf.create({"trainer": {"plugins": [{"lr": 1}]}})
        OmegaConf.update(cfg, f"{place}._target_", target, force_add=True)
        with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
            refuse_other_targets(cfg)
        assert str(refused.value).startswith(f"{place}._target_: expected ")
        assert line in str(refused.value)


def test_it_is_found_behind_interpolations():
    for text in (
        "${oc.create:'{_target_: os.system}'}",
        "${oc.create:${oc.decode:'{_target_: os.system}'}}",
    ):
        with pytest.raises(ValueError, match=r"prompt\._target_: expected a class of .* got os\.system"):
            refuse_other_targets(OmegaConf.create({"model": {"prompt": text}}))
    with pytest.raises(ValueError, match=r"a\._target_: expected a class of .* got os\.system"):
        refuse_other_targets(OmegaConf.create({"a": {"_target_": "${b}"}, "b": "os.system"}))


def test_a_module_that_is_not_allowed_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "touching.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')\nclass Mine: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    cfg = compose_run("+callbacks.mine._target_=touching.Mine", "+callbacks.mine.a=3")
    with pytest.raises(ValueError, match=r"write 'allow_targets=\[touching\.Mine\]'"):
        refuse_mistakes(cfg)
    assert not (tmp_path / "touched").exists()
    assert "touching" not in sys.modules


def test_classes_of_ones_own_are_allowed_by_name_or_by_module(tmp_path, monkeypatch):
    (tmp_path / "mine17.py").write_text(
        "import os\nfrom torch import load\nclass Mine: pass\ndef make(): return Mine()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def check(target: str, *allowed: str) -> None:
        refuse_other_targets(OmegaConf.create({"a": {"_target_": target}, "allow_targets": list(allowed)}))

    for target in ("mine17.Mine", "mine17.make"):
        check(target, "mine17")
        check(target, target)
        with pytest.raises(ValueError, match="expected a class of"):
            check(target, "mine", "mine17.other")
    for target in ("mine17.load", "mine17.os.system"):
        with pytest.raises(ValueError, match="which is"):
            check(target, "mine17")
    check("mine17.load", "mine17.load")  # named itself


def test_a_file_does_not_allow_its_own_targets(tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    node = f"{{_target_: os.mkdir, path: {tmp_path}/made}}"
    text = f"# @package _global_\nallow_targets: [os]\nmodel: {{template: {node}}}\n"
    (tmp_path / "own" / "experiment" / "evil.yaml").write_text(text)
    status, _, err = run_here(tmp_path, f"--config-dir={tmp_path}/own", "experiment=evil")
    assert status == 1
    assert err.startswith("error: allow_targets: expected on the command line, got ['os'] from a file")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "node",
    [
        "callbacks: {x: {_target_: os.mkdir, path: made}}",
        "job_logging: {formatters: {x: {(): os.mkdir, path: made}}}",
        "hydra_logging: {handlers: {x: {class: os.mkdir, path: made}}}",
        "job_logging: {handlers: {console: {stream: ext://os.devnull}}}",
    ],
)
def test_a_file_from_elsewhere_has_hydra_call_nothing_either(node, tmp_path):
    """Hydra builds its callbacks and its logging before a job begins."""
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "evil.yaml").write_text(f"# @package _global_\nhydra: {{{node}}}\n")
    status, out, err = run_here(tmp_path, f"--config-dir={tmp_path}/own", "experiment=evil")
    assert (status, out) == (1, "")
    (told,) = err.splitlines()
    assert told.startswith(f"error: hydra.{node.partition(':')[0]}.")
    assert ": expected what Hydra's plugins or this project define, got " in told
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["+callbacks.a._target_=pathlib.Path.unlink"], f"callbacks.a._target_: {NAMED}pathlib.Path.unlink"),
        (["dataset.limit=2.5"], "dataset.limit: expected a whole number above 0, got 2.5"),
        (
            ["datamodule.batch_size=32"],
            "datamodule.batch_size: expected null, as this probe is solved from all examples",
        ),
        (["probe=mass_mean", "datamodule.batch_size=32"], "datamodule.batch_size: expected null, as this probe"),
        (["trainer.max_epochs=abc"], "trainer.max_epochs: expected a whole number of at least -1, got 'abc'"),
        (
            ["trainer.precision=16-true"],
            "trainer.precision: expected 32-true, which keeps probes in float32, got 16-tr",
        ),
        (["dataset.seed=null"], "dataset.seed: expected a whole number of at least 0, got null"),
        (["probe._target_=datamodules.split.GroupSplit"], "probe.l2: expected an argument of datamodules.split.Grou"),
        (["trainer=ddp_cpu", "trainer.devices=[0,0]"], "trainer.devices: expected a number of devices"),
        (["trainer=ddp_cpu", "trainer.devices=2", "split.val=abc"], "split.val: expected a share of at least 0"),
    ],
)
def test_a_wrong_value_on_the_command_line_is_one_line(overrides, line, tmp_path):
    status, out, err = run_here(tmp_path, *overrides)
    assert (status, out) == (1, "")
    (told,) = err.splitlines()
    assert told.startswith(f"error: {line}")
    assert not (tmp_path / "cache").exists()


def test_a_limit_of_threads_that_is_none_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "two")
    status, _, err = run_here(tmp_path)
    assert (status, err) == (
        1,
        "error: OMP_NUM_THREADS: expected a whole number above 0, got 'two'; set it anew, or unset it\n",
    )
