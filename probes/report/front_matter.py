"""The YAML front matter of a model card, in the schema that the hub reads.

https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

import json
import math
import re
from collections.abc import Sequence

from datamodules.card import Card, show_text
from probes.report.about_run import HUB_ID, is_on_hub, name_model
from probes.report.cell_result import CellResult

LIBRARY = "probegrid"
TAGS = ("linear-probe", "interpretability", "truthfulness", "hallucination-detection")
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
LONGEST = 100  # characters of a name


def write_front_matter(card: Card, results: Sequence[CellResult], license_id: str | None = None) -> str:
    """Write library, tags, base model, license and `model-index`, which holds the test AUROC of each target.

    Args:
        card: of the probes; a base model is named where the model is one of the hub.
        results: the best cell of each target; those without a test AUC are left out.
        license_id: as the hub names it, such as `mit`; none is named where it is None.

    Raises:
        ValueError: a license that is no such name.

    Example:
        >>> write_front_matter(card, [], "mit").splitlines()[:2]  # doctest: +SKIP
        ['---', 'library_name: probegrid']
    """
    lines = ["---", f"library_name: {LIBRARY}"]
    if license_id is not None:
        if not isinstance(license_id, str) or not LICENSE.fullmatch(license_id):
            raise ValueError(
                f"license: expected a name of the hub's list, such as mit or apache-2.0, got {license_id!r:.60}; "
                "correct it, or leave it out"
            )
        lines.append(f"license: {_quote(license_id)}")
    lines += ["tags:", *(f"- {tag}" for tag in TAGS)]
    if is_on_hub(card):
        lines.append(f"base_model: {_quote(card.model)}")
    known = [one for one in results if one.auc is not None and math.isfinite(one.auc)]
    if known:
        lines += ["model-index:", f"- name: {_quote(f'Linear probes on {name_model(card)}')}", "  results:"]
    for one in known:
        lines += [
            "  - task:",
            "      type: text-classification",
            f"      name: {_quote(one.target)}",
            "    dataset:",
            f"      type: {_quote(_name_data(card.dataset))}",
            f"      name: {_quote(card.dataset)}",
            "      split: test",
            "    metrics:",
            "    - type: roc_auc",
            f"      value: {one.auc:.4f}",
            f"      name: {_quote(f'test AUROC, layer {one.layer}, {one.position}')}",
        ]
    return "\n".join([*lines, "---\n"])


def _quote(text: str) -> str:
    """A text in YAML, on one line: a JSON text is one, if its characters are printable."""
    shown = show_text(text)
    return json.dumps(shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}...", ensure_ascii=False)


def _name_data(dataset: str) -> str:
    """A hub id, or letters, digits and hyphens."""
    return dataset if HUB_ID.fullmatch(dataset) else re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-") or "custom"
