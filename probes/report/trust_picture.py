"""Draws how far the decisions of a probe can be trusted: its reliability, and its risk by coverage."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from datamodules.card import show_text
from probes.analysis.assessment import Assessment
from probes.analysis.calibration import CalibrationError
from probes.analysis.shares import Share
from probes.analysis.wording import digits
from probes.report.map_files import save_figure
from probes.report.style import GREY, INK, STYLE, UNDATED, fit_to_labels

BLUE, ORANGE = "#2171b5", "#e8590c"
SIDE, GAP = 3.1, 0.85  # inches: of a panel, and between two
FEWEST = 10  # answers kept at the left end of the curve: a risk of fewer is noise
STEM = "reliability"  # of the files' names
LINE: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (3.2, 2.2)), "zorder": 1}


def draw_trust(found: Assessment, title: str, classes: tuple[str, str] = ("wrong", "right")) -> Figure:
    """Reliability on the left, risk by coverage on the right; a figure that pyplot does not know of.

    Args:
        found: of one probe.
        title: one line above, such as its layer, position and model.
        classes: what labels 0 and 1 are called.
    """
    width = 2 * SIDE + GAP
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, SIDE), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
        panels = [figure.add_axes((left / width, 0, SIDE / width, 1)) for left in (0, SIDE + GAP)]
        _draw_reliability(panels[0], found, show_text(classes[1]))
        _draw_risk(panels[1], found, *map(show_text, classes))
        panels[0].annotate(
            show_text(title),
            (0, 1),
            (0, 22),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=11.5,
            fontweight="bold",
            color=INK,
            annotation_clip=False,
        )
        fit_to_labels(figure, pad=0.15)
    return figure


def write_trust(folder: Path, found: Assessment, title: str, classes: tuple[str, str] = ("wrong", "right")) -> Figure:
    """Write reliability.png and reliability.pdf, and return the figure; arguments are those of `draw_trust`."""
    figure = draw_trust(found, title, classes)
    for kind in UNDATED:
        save_figure(figure, folder / f"{STEM}.{kind}")
    return figure


def describe_interval(found: Share | CalibrationError) -> str:
    """A number with its interval.

    >>> describe_interval(Share(0.05, 0.001, 0.249, 20))
    '.050 (.001 to .249)'
    """
    return f"{digits(found.value)} ({digits(found.low)} to {digits(found.high)})"


def _draw_reliability(axes: Axes, found: Assessment, right: str) -> None:
    n, probability, rate, low, high = found.reliability.to_numpy(float).T
    axes.plot([0, 1], [0, 1], **LINE)
    axes.vlines(probability, low, high, colors=BLUE, linewidth=1.0, alpha=0.55)
    axes.plot(probability, rate, "o-", color=BLUE, markersize=4.2, linewidth=1.2, zorder=3)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    _label(axes, f"Probability of {right}", f"Share {right}", f"Calibration error {describe_interval(found.error)}")
    each = f"{n[0]:,.0f}" if n.min() == n.max() else f"about {n.mean():,.0f}"
    _say(axes, (0.98, 0.03), f"{found.n:,} test rows,\n{each} in each bin", "right")


def _draw_risk(axes: Axes, found: Assessment, wrong: str, right: str) -> None:
    coverage, _, risk = found.risk.to_numpy(float).T[:, min(FEWEST, found.n) - 1 :]
    wrong_rate = 1 - found.base_rate
    axes.axhline(wrong_rate, **LINE)
    axes.plot(coverage, risk, color=BLUE, linewidth=1.4, zorder=3)
    top = min(1.02, max(0.1, 1.18 * float(risk.max()), 1.12 * wrong_rate))
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, top)
    _say(axes, (0.02, wrong_rate / top + 0.015), f"all answers: {wrong_rate:.0%}", "left")
    if found.threshold is not None and found.false_alarms is not None and found.caught is not None:
        passed, caught = (
            share.value * share.n / found.n if share.n else 0.0 for share in (found.false_alarms, found.caught)
        )
        if passed + caught:
            axes.plot([passed + caught], [passed / (passed + caught)], "o", color=ORANGE, markersize=6, zorder=4)
        text = (
            f"threshold for {100 * found.threshold.fpr:g}% false alarms\n"
            f"{wrong} that reach it: {describe_interval(found.false_alarms)}\n"
            f"{right} that reach it: {describe_interval(found.caught)}"
        )
        _say(axes, (0.98, 0.03), text, "right", color=ORANGE)
    _label(
        axes,
        "Coverage: share of answers kept",
        f"Risk: share {wrong} among these",
        f"Area under the curve {digits(found.aurc)}",
    )


def _say(axes: Axes, where: tuple[float, float], text: str, ha: str, color: str = GREY) -> None:
    axes.text(*where, text, transform=axes.transAxes, ha=ha, va="bottom", fontsize=8, color=color, linespacing=1.3)


def _label(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x, fontsize=9.5, color=INK, labelpad=5)
    axes.set_ylabel(y, fontsize=9.5, color=INK, labelpad=5)
    axes.set_title(title, fontsize=9.5, color=INK, loc="left", pad=6)
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.tick_params(labelsize=8.5, length=2.5, width=0.6, color=GREY, labelcolor=INK)
    axes.grid(color="#eceef1", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set(visible=name in ("left", "bottom"), color="#c4c9d1", linewidth=0.6)
