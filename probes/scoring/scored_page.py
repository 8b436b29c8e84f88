"""score.html: answers, each token coloured by the probe; one file without scripts, for light and dark screens."""

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from datamodules.card import show_text
from probes.scoring.wording import ANSWERS, Wording

STEPS = 10  # colours on each side of the middle
SHOWN = 1000  # most answers of a page
QUESTION = 600  # last characters of a question that are shown: the question follows the context
RIGHT, WRONG = "43 131 199", "224 112 20"  # blue and orange, which people of every colour vision tell apart
WIDTH, HEIGHT = 220, 180  # of a figure, in pixels

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #5b6470; --line: #c9ced6; --page: #fff }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa5b1; --line: #3e4c59; --page: #14181d } }
body { font: 15px/1.65 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: var(--ink); background: var(--page) }
h1 { font-size: 1.4rem; margin: 0 } p { margin: .2rem 0 } small, .soft { color: var(--soft) }
table { border-collapse: collapse; margin: .8rem 0 } td { padding: .1rem 1.2rem .1rem 0 } td + td { text-align: right }
.bar { display: flex; width: 22rem; max-width: 100%; margin-top: .6rem } .bar i { flex: 1; height: 1rem }
.ends { display: flex; width: 22rem; max-width: 100%; justify-content: space-between }
.figures { display: flex; flex-wrap: wrap; gap: 2rem; margin: 1rem 0 } figure { margin: 0 }
svg { display: block; color: var(--ink) } svg text { fill: var(--soft); font-size: 10px }
article { border-top: 1px solid var(--line); padding: .7rem 0 } article p { overflow-wrap: anywhere }
.question { color: var(--soft); white-space: pre-wrap } .answer { white-space: pre-wrap }
i { font-style: normal; border-radius: 2px } i.read { outline: 2px solid var(--ink); outline-offset: -1px }
b.p { display: inline-block; min-width: 3.2rem }
.badge { border: 1px solid var(--line); border-radius: 3px; padding: 0 .4rem }
"""


def write_page(
    about: Mapping[str, str],
    figures: Sequence[str],
    answers: Iterable[Mapping[str, Any]],
    words: Wording = ANSWERS,
) -> Iterator[str]:
    """Write the page, piece by piece.

    Args:
        about: lines of the table at the top, by what they say.
        figures: SVG, see `draw_curve`.
        answers: fields of `ScoredAnswer`, in the order in which they are shown.
        words: for the label set that the probe tells apart.

    Example:
        >>> "".join(write_page({"run": "<b>"}, [], [])).count("&lt;b&gt;")
        1
    """
    colours = "".join(f".c{step}{{background:{_mix(step)}}}" for step in range(-STEPS, STEPS + 1))
    yield (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Scored answers</title><style>{_STYLE}{colours}</style><h1>Scored answers</h1>"
    )
    rows = "".join(f"<tr><td>{_escape(name)}</td><td>{_escape(value)}</td></tr>" for name, value in about.items())
    steps = "".join(f"<i class='c{step}'></i>" for step in range(-STEPS, STEPS + 1))
    yield (
        f"<table>{rows}</table><div class='bar' aria-hidden='true'>{steps}</div>"
        f"<div class='ends'><small>0 {words.negative}</small><small>.5</small><small>{words.positive} 1</small></div>"
        "<p class='soft'>Each token has the colour of its own score, by the same probe at the same layer, as the "
        f"probability that {words.claim}. The probe was fitted on one position only: <i class='read'>outlined"
        "</i> is the token that decides, other tokens are read as if they stood there. Point at a token to see its "
        "numbers. The least probable answers come first.</p>"
    )
    if figures:
        yield f"<div class='figures'>{''.join(figures)}</div>"
    for answer in answers:
        yield _write_answer(answer, words)
    yield "</html>\n"


def _write_answer(answer: Mapping[str, Any], words: Wording) -> str:
    p, label = answer["probability"], answer["label"]
    shown = "–" if p is None else f"{p:.3f}"
    decision = {True: "above the threshold", False: "below the threshold", None: "no score"}[answer["decision"]]
    facts = [_escape(str(answer["id"])), f"cell {_escape(answer['cell'])}"]
    facts += [] if answer["score"] is None else [f"score {answer['score']:.3g}"]
    facts += ["cut off"] if answer["finish"] == "length" else []
    facts += [f"exact answer: {_escape(answer['exact_answer'])}"] if answer["exact_answer"] else []
    judged = "" if label is None else f" <span class='badge'>{words.positive if label else words.negative}</span>"
    question = answer["question"]
    question = question if len(question) <= QUESTION else f"… {question[-QUESTION:]}"
    first, last = answer["read_at"] or (1, 0)
    tokens = "".join(
        f"<i class='c{_step(p)}{' read' * (first <= i <= last)}' title='{i}: score {score:.3g}, probability {p:.3f}'>"
        f"{_escape(text) or '&thinsp;'}</i>"
        for i, (text, score, p) in enumerate(
            zip(answer["tokens"], answer["token_scores"], answer["token_probabilities"], strict=True)
        )
    )
    return (
        f"<article><p><b class='p'>{shown}</b> <span class='badge'>{decision}</span>{judged} "
        f"<small>{', '.join(facts)}</small></p>"
        f"<p class='question'>{_escape(question)}</p><p class='answer'>{tokens}</p></article>\n"
    )


def draw_curve(title: str, x: Sequence[float], y: Sequence[float], axes: tuple[str, str], diagonal: bool) -> str:
    """Draw points in the unit square as a line, SVG.

    >>> draw_curve("Risk and coverage", [0, 1], [0, 0.5], ("coverage", "risk"), False).count("polyline")
    1
    """
    left, bottom = 32, 28
    w, h = WIDTH - left - 8, HEIGHT - bottom - 8
    at = [(left + w * a, 8 + h * (1 - b)) for a, b in zip(x, y, strict=True)]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
    guide = f"<path d='M{left},{8 + h}L{left + w},8' stroke='currentColor' stroke-dasharray='3 3' opacity='.35'/>"
    dots = "".join(
        f"<circle cx='{a:.1f}' cy='{b:.1f}' r='2.5' fill='rgb({RIGHT})'/>" for a, b in at if len(at) <= STEPS
    )
    return (
        f"<figure><svg width='{WIDTH}' height='{HEIGHT}' role='img' aria-label='{_escape(title)}'>"
        f"<path d='M{left},8V{8 + h}H{left + w}' fill='none' stroke='currentColor' opacity='.5'/>{guide * diagonal}"
        f"<polyline points='{points}' fill='none' stroke='rgb({RIGHT})' stroke-width='2'/>{dots}"
        f"<text x='{left - 4}' y='14' text-anchor='end'>1</text>"
        f"<text x='{left - 4}' y='{8 + h}' text-anchor='end'>0</text>"
        f"<text x='{left + w}' y='{HEIGHT - 14}' text-anchor='end'>1</text>"
        f"<text x='{left + w / 2}' y='{HEIGHT - 4}' text-anchor='middle'>{_escape(axes[0])}</text>"
        f"<text text-anchor='middle' transform='translate(10 {8 + h / 2}) rotate(-90)'>{_escape(axes[1])}</text>"
        f"</svg><figcaption><small>{_escape(title)}</small></figcaption></figure>"
    )


def _step(p: float) -> int:
    return round((2 * p - 1) * STEPS)


def _mix(step: int) -> str:
    """Colour behind a token; see-through, so that it suits a light and a dark page."""
    return f"rgb({RIGHT if step > 0 else WRONG} / {0.62 * abs(step) / STEPS:.2f})"


def _escape(text: str) -> str:
    """A text as HTML in which it is nothing but text; it keeps its lines."""
    return html.escape("\n".join(map(show_text, text.split("\n"))))
