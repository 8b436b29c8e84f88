"""What `python train.py --help` says of each group and its choices."""

import textwrap

from hydra.core.global_hydra import GlobalHydra

GROUPS = {  # in the order of the run
    "model": "the language model whose activations are read",
    "dataset": "the questions that it answers",
    "rule": "when an answer is right",
    "spans": "how the exact answer is found in a longer one",
    "positions": "the tokens that are read: the columns of the map",
    "site": "which tensor of a layer is read",
    "split": "which examples train, validate and test",
    "datamodule": "activations from the model, or from a file of your own",
    "probe": "what is fitted in every cell of the map",
    "callbacks": "what a run writes and shows",
    "trainer": "devices and processes",
    "logger": "where metrics go",
    "experiment": "other commands than a run, and the settings of the study",
    "hparams_search": "a search of settings in place of a grid of them",
    "launcher": "where the jobs of a sweep run",
    "debug": "a short run that shows whether all parts hold together",
}
WIDTH = 100


def describe_groups() -> str:
    """What `${groups:}` stands for in the help: a line on each group, and below it what it may be set to.

    The choices are those of `conf/` and of a folder given with `--config-dir`.
    """
    loader = GlobalHydra.instance().config_loader()
    there = [group for group in loader.list_groups("") if group != "hydra"]
    lines = []
    for group in sorted(there, key=lambda name: [*GROUPS, name].index(name)):
        lines.append(f"{group:<15} {GROUPS.get(group, '')}".rstrip())
        choices = ", ".join(loader.get_group_options(group))
        lines += textwrap.wrap(choices, WIDTH, initial_indent=" " * 16, subsequent_indent=" " * 16)
    return "\n".join(lines)
