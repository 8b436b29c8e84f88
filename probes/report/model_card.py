"""The model card: README.md of probes that are taken away, in Markdown as hub repositories want it.

Every name is shown as code, in which Markdown and HTML mean nothing: names come from files of other people.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.card import MIN_GROUPS, Card, show_text
from probes.analysis.wording import digits
from probes.report.about_run import find_source, list_asked, name_model
from probes.report.cell_result import CellResult
from probes.report.front_matter import LIBRARY, write_front_matter
from probes.report.trust_picture import describe_interval

LONGEST = 300  # characters of a name that are shown
MOST_BASELINES = 5  # that are shown of each target
_SITES = {
    "resid_pre": "the residual stream before the block",
    "resid_post": "the residual stream after the block, before any final norm",
    "attn_out": "the output of the attention",
    "z": "the heads' outputs before the attention's output projection",
    "mlp_post": "the input of the MLP's down-projection",
    "mlp_out": "the output of the MLP",
}


def write_model_card(
    card: Card, about: Mapping[str, Any], results: Sequence[CellResult], license_id: str | None = None
) -> str:
    """Write the card: YAML front matter, then what the probes read, of what, how well, and how to load them.

        >>> print(write_model_card(card, {}, []).splitlines()[1])  # doctest: +SKIP
        library_name: probegrid

    Args:
        card: of the probes.
        about: what the run says of them; see `describe_run`.
        results: of the targets, those of the metrics.
        license_id: as the hub names it; none is named where it is None.

    Raises:
        ValueError: see `write_front_matter`.
    """
    parts = [
        write_front_matter(card, results, license_id),
        f"# Linear probes on {code(name_model(card))}\n",
        f"{len(card.targets)} x {len(card.layers)} x {len(card.positions)} linear probes (targets, layers, positions): "
        f"each reads one vector of activations and scores whether an example is {code(card.classes[1])} rather than "
        f"{code(card.classes[0])}. A higher score speaks for {code(card.classes[1])}.\n",
        "## What is read\n",
        *_describe_site(card, about),
        "\n## Data\n",
        *_describe_data(card, about),
        "\n## Metrics\n",
        *_describe_results(card, about, results),
        "\n## Limits\n",
        *_list_limits(card, about, results),
        "\n## Use\n",
        *_show_use(card, about, results),
    ]
    return "\n".join(parts).rstrip() + "\n"


def code(text: object) -> str:
    """A name as inline code, on one line and of bounded length, in which nothing is markup.

    >>> code("a`b|<i>"), code("")
    ('`` a`b|<i> ``', '(none)')
    """
    shown = show_text(str(text))
    shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
    if not shown.strip():
        return "(none)"
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    space = " " if "`" in shown else ""
    return f"{'`' * (longest + 1)}{space}{shown}{space}{'`' * (longest + 1)}"


def _cell(text: object) -> str:
    """The same in a table, where a bar ends a cell even in code."""
    return code(text).replace("|", "\\|")


def _describe_site(card: Card, about: Mapping[str, Any]) -> list[str]:
    layers = f"{len(card.layers)} ({', '.join(map(str, card.layers))})"
    revision = code(card.revision) if card.revision else "not recorded (local files)"
    site = _SITES.get(card.site, "as its source names it")
    lines = [
        f"- Model: {code(name_model(card))}; revision: {revision}.",
        f"- Site: {code(card.site)}, {site}; width {card.width}. Names are those of TransformerLens; "
        "layer i is block i, counted from 0.",
        f"- Layers: {layers}.",
    ]
    rules = {str(rule.get("name")): rule for rule in _listed(about.get("rules"))}
    lines.append(f"- Positions: {len(card.positions)}.")
    for position in card.positions:
        rule = {key: value for key, value in rules.get(position, {}).items() if key != "name" and value is not None}
        lines.append(f"  - {code(position)}" + (f": {code(json.dumps(rule, default=str))}" if rule else ""))
    if asked := list_asked(card, about):
        lines.append(f"- Asked with: {code(json.dumps(asked, ensure_ascii=False, default=str))}.")
    return lines


def _describe_data(card: Card, about: Mapping[str, Any]) -> list[str]:
    lines = [f"- Data set: {code(card.dataset)}."]
    splits = _mapped(about.get("splits"))
    for target in card.targets:
        counts = [
            f"{split} {count.n:,} ({count.n_positive / count.n:.0%} {code(card.classes[1])})"
            + (f" in {count.n_groups:,} groups" if count.n_groups is not None else "")
            for split, count in target.counts.items()
            if count.n
        ]
        lines.append(f"- {code(target.name)}: {', '.join(map(str, counts)) or 'no counts'}.")
        if digest := splits.get(target.name):
            lines.append(f"  - Split: SHA-256 {code(digest)}.")
    if splits:
        lines.append(
            "- The digest of a split is over the lines `[id, group, split]`, as JSON, of all examples in order."
        )
    return lines


def _describe_results(card: Card, about: Mapping[str, Any], results: Sequence[CellResult]) -> list[str]:
    described = about.get("described")
    lines = [f"Probe: {code(described)}. " if described else ""]
    lines[0] += "AUC is that of the best cell on test rows, ± its standard error, clustered by groups.\n"
    lines += [
        "| target | layer | position | chosen on | validation AUC | test AUC | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results:
        auc = digits(one.auc) + ("" if one.auc_se is None else f" ± {digits(one.auc_se)}")
        lines.append(
            f"| {_cell(one.target)} | {one.layer} | {_cell(one.position)} | {one.chosen_on} | {digits(one.val_auc)} | "
            f"{auc} | {one.n:,} |"
        )
    for one in results:
        lines += ["", f"Decisions of {code(one.target)} at layer {one.layer}, {code(one.position)}:", ""]
        lines += _describe_decisions(card, one)
        lines += _describe_baselines(_mapped(_mapped(about.get("baselines")).get(one.target)))
    return lines


def _describe_decisions(card: Card, one: CellResult) -> list[str]:
    if (found := one.assessment) is None:
        return [f"- None: {code(one.left_out)}."]
    line, wrong, right = found.calibration, *map(code, card.classes)
    lines = [
        f"- Probability of {right}: sigmoid of {line.slope:.4g} (± {line.slope_se:.2g}) x score {line.offset:+.4g} "
        f"(± {line.offset_se:.2g}), by Platt scaling on validation rows.",
        f"- Expected calibration error on {found.n:,} test rows, 10 bins of equal mass: "
        f"{describe_interval(found.error)}; without any error, noise alone would give {digits(found.error.chance)}.",
        f"- Area under the risk-coverage curve: {digits(found.aurc)}; {wrong} in {1 - found.base_rate:.0%} of all.",
    ]
    if found.threshold is None or found.false_alarms is None or found.caught is None:
        return [*lines, f"- No threshold: {code(found.left_out)}."]
    chosen = found.threshold
    return [
        *lines,
        f"- Threshold {chosen.value:.6g} for at most {100 * chosen.fpr:g}% false alarms, on {chosen.n_negative:,} "
        f"validation rows that are {wrong}; 95% interval of its rate: {digits(chosen.low)} to {digits(chosen.high)}.",
        f"- On test rows {describe_interval(found.false_alarms)} of {wrong} and {describe_interval(found.caught)} of "
        f"{right} reach it. Intervals are 95% and respect groups.",
    ]


def _describe_baselines(found: Mapping[str, Any]) -> list[str]:
    rows = [row for row in _listed(found.get("rows")) if isinstance(row.get("auc"), int | float)]
    if not rows:
        return ["- Baselines: none were recorded."]
    rows = sorted(rows, key=lambda row: -row["auc"])
    shown = ", ".join(
        f"{code(row.get('name'))} {digits(row['auc'])}"
        + (f" ± {digits(row['error'])}" if isinstance(row.get("error"), int | float) else "")
        for row in rows[:MOST_BASELINES]
    )
    lines = [f"- Baselines without a probe, test AUC, the highest of {len(rows)}: {shown}."]
    gain = _mapped(found.get("gain_of_probe"))
    if isinstance(difference := gain.get("difference"), int | float) and isinstance(gain.get("error"), int | float):
        side = "above" if difference >= 0 else "below"
        lines.append(
            f"- The probe is {digits(abs(difference))} ± {digits(gain['error'])} {side} {code(found.get('best'))}, the "
            f"baseline that {code(found.get('chosen_on'))} rows choose."
        )
    return lines


def _list_limits(card: Card, about: Mapping[str, Any], results: Sequence[CellResult]) -> list[str]:
    lines = [
        "- The numbers hold for this model, revision, site, prompt and data. Other data, another prompt or other "
        "weights (quantised ones too) change scores, probabilities and the threshold; measure them again there.",
        "- A probe shows that something that goes with the label can be read. It does not show that the model uses it.",
    ]
    cells = len(card.layers) * len(card.positions)
    if any(one.chosen_on != "val" for one in results):
        lines.append(
            f"- A cell was chosen among {cells} on the test rows themselves, as there were too few validation rows: "
            "its test AUC is too high."
        )
    groups = [n for one in card.targets if (count := one.counts.get("test")) and (n := count.n_groups) is not None]
    if groups and min(groups) < MIN_GROUPS:
        lines.append(f"- The test rows are in {min(groups)} groups only; errors and intervals are rough.")
    if offset := about.get("offset"):
        lines.append(
            f"- The probes were fitted beside the baseline {code(offset)}: the AUC is of both together, and the "
            "weights are the probes' part alone."
        )
    return lines


def _show_use(card: Card, about: Mapping[str, Any], results: Sequence[CellResult]) -> list[str]:
    layer = results[0].layer if results else card.layers[0]
    lines = [
        f"With {LIBRARY}, in the folder of this file (`{LIBRARY}` is used from a clone with an editable install):\n",
        "```python",
        "import torch",
        "",
        "from probes import LinearProbes",
        "",
        'probes = LinearProbes.load(".")',
        f"acts = torch.zeros(1, {card.width})  # activations of {card.site!r} at the best cell",
        "best = probes.best()",
        "print(best.layer, best.position, best.score(acts))",
    ]
    if results and results[0].assessment is not None:
        lines.append("print(probes.calibrate(best).probability(best.score(acts)))")
        if (chosen := results[0].assessment.threshold) is not None:
            lines.append(f"print(best.score(acts) >= probes.threshold({chosen.fpr:g}, best).value)")
    lines.append("```")
    rules = [
        dict(rule) for rule in _listed(about.get("rules")) if results and str(rule.get("name")) == results[0].position
    ]
    if rules:
        asked, source = list_asked(card, about), find_source(card, about)
        unknown = "" if source else "  # put its folder, GGUF file or hub id here"
        needs = ", exact_answers=[...]" if rules[0].get("of") == "exact_answer" else ""
        lines += [
            "\nActivations of answers to new questions, read as here:\n",
            "```python",
            "from datamodules import ask, capture, load_model",
            "",
            f"name = {source or name_model(card)!r}{unknown}",
            f"model = load_model(name, **{asked!r})",
            'answers = ask(model, ["..."])',
            f"read = capture(model, answers, positions={rules!r}, layers=[{layer}], site={card.site!r}{needs})",
            "print(probes.score(*read))",
            "```",
        ]
    return lines


def _mapped(part: Any) -> Mapping[str, Any]:
    """A part of `about` that should be a mapping: files of other people may hold anything."""
    return part if isinstance(part, Mapping) else {}


def _listed(part: Any) -> list[Mapping[str, Any]]:
    return [one for one in part if isinstance(one, Mapping)] if isinstance(part, list) else []
