"""What a run folder says of its probes beside their numbers: how the model was asked, its split, its baselines."""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from datamodules.card import Card
from probes.report.map_files import shorten_model
from probes.report.run_folder import SUMMARY, read_examples

DEMO = ("demo", "probegrid demo model")  # the embedded model in conf/model, and what people are shown
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Settings of the model that decide what it reads and writes; its files have an identity of their own.
ASKED = (
    "prompt",
    "chat_prompt",
    "base_prompt",
    "chat",
    "template",
    "stop",
    "max_new_tokens",
    "thinking_tokens",
    "dtype",
)


def read_about(folder: Path, card: Card) -> dict[str, Any]:
    """Read it from a run folder; what the folder lacks is left out.

    >>> read_about(Path("outputs/latest"), card)["described"]  # doctest: +SKIP
    'logistic regression, standardised, l2 = 13.4'
    """
    summary: Any = {}
    with suppress(OSError, ValueError):
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
    config: Any = {}
    with suppress(OSError, ValueError, YAMLError, OmegaConfBaseException):  # damaged: it says nothing
        loaded = OmegaConf.load(folder / ".hydra" / "config.yaml")
        if isinstance(loaded, DictConfig):
            parts = {name: loaded[name] for name in ("model", "positions") if name in loaded}
            config = OmegaConf.to_container(OmegaConf.create(parts), resolve=False)
    return describe_run(card, summary, read_examples(folder), config)


def describe_run(
    card: Card,
    summary: Mapping[str, Any],
    examples: pd.DataFrame | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is kept of a run beside its probes, JSON-ready.

    Args:
        card: of the probes.
        summary: the content of summary.json, or a part of it.
        examples: the table of all examples.
        config: the sections `model` and `positions` of the configuration.

    Returns:
        described: the probe in words; offset: the baseline that it was fitted beside; asked: settings of the model;
        source: what `ask` takes for the model, `demo` or a hub id; rules: of the positions; splits: a digest for each
        target (see `hash_split`); baselines: for each target the analysis' baselines; versions: of packages. Each only
        where it is known.
    """
    found: dict[str, Any] = {key: summary[key] for key in ("described", "versions") if summary.get(key)}
    fit = summary.get("fit")
    if isinstance(fit, Mapping) and fit.get("offset"):
        found["offset"] = fit["offset"]
    analysis = summary.get("analysis")
    if isinstance(analysis, Mapping):
        of_target = analysis if "baselines" not in analysis else {card.targets[0].name: analysis}
        baselines = {
            name: one["baselines"]
            for name, one in of_target.items()
            if isinstance(one, Mapping) and one.get("baselines")
        }
        found |= {"baselines": baselines} if baselines else {}
    if examples is not None:
        found["splits"] = {target.name: hash_split(examples, target.name) for target in card.targets}
    model, positions = ((config or {}).get(name) for name in ("model", "positions"))
    if isinstance(model, Mapping):
        found["asked"] = {key: model[key] for key in ASKED if model.get(key) is not None}
        target, given = str(model.get("_target_")), str(model.get("id"))
        if target.endswith(".build_demo_model"):
            found["source"] = DEMO[0]
        elif not model.get("gguf") and HUB_ID.fullmatch(given) and (card.revision or not card.identity):
            found["source"] = given
    if isinstance(positions, Mapping) and isinstance(rules := positions.get("rules"), list):
        found["rules"] = [
            rule for rule in rules if isinstance(rule, Mapping) and str(rule.get("name")) in card.positions
        ]
    return found


def is_on_hub(card: Card) -> bool:
    """Whether the model is one of the hub. A folder may be called `a/b` too: then its run knows no commit.

    >>> is_on_hub(card), card.model  # doctest: +SKIP
    (True, 'org/name')
    """
    return HUB_ID.fullmatch(card.model) is not None and bool(card.revision or not card.identity)


def name_model(card: Card) -> str:
    """The model's hub id, or the name of its folder or file without the way there.

    >>> name_model(card), card.model  # doctest: +SKIP
    ('mine', '/home/me/mine')
    """
    return card.model if is_on_hub(card) else shorten_model(card.model)


def find_source(card: Card, about: Mapping[str, Any]) -> str | None:
    """What `ask` takes for the model, `demo` or a hub id; None where it was a folder or a file, or is not known.

    >>> find_source(card, {"source": "demo"})  # doctest: +SKIP
    'demo'
    """
    for name, known in ((about.get("source"), True), (card.model, is_on_hub(card))):
        if isinstance(name, str) and (name in DEMO or (known and HUB_ID.fullmatch(name))):
            return DEMO[0] if name in DEMO else name
    return None


def list_asked(card: Card, about: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the model, with the dtype of the card where they hold none.

    >>> list_asked(card, {"asked": {"max_new_tokens": 48}})  # doctest: +SKIP
    {'dtype': 'float32', 'max_new_tokens': 48}
    """
    asked, dtype = about.get("asked"), card.identity.get("dtype")
    return ({"dtype": dtype} if dtype else {}) | (dict(asked) if isinstance(asked, Mapping) else {})


def hash_split(examples: pd.DataFrame, target: str) -> str:
    """Digest of a split: SHA-256 over the lines `[id, group, split]`, as JSON, in the order of the examples.

    Who has the same examples finds out whether they were split alike, and which of them the probes have seen.

    >>> hash_split(pd.DataFrame({"id": ["q0"], "group": ["g"], "split": ["test"]}), "correctness")[:12]
    '713855087050'
    """
    split = f"split/{target}" if f"split/{target}" in examples else "split"
    ids = examples["id"] if "id" in examples else examples.get("row", pd.Series(examples.index))
    columns = [ids, examples.get("group", ids), examples[split]]
    rows = zip(*(map(str, column.tolist()) for column in columns), strict=True)
    return hashlib.sha256("".join(json.dumps(row) + "\n" for row in rows).encode()).hexdigest()
