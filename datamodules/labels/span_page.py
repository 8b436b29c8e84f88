"""A page that shows token by token where exact answers were found, so that a person can check fifty in a minute."""

import html

from transformers import PreTrainedTokenizerBase

from datamodules.card import show_text
from datamodules.examples import LabelledExamples
from datamodules.labels.span_check import count_spans, is_part
from datamodules.language.tokens import decode, decode_tokens

SHOWN = 60  # examples of each of: right, wrong, without an exact answer
QUESTION = 240  # last characters of a question that are shown: the question follows the context
THOUGHT = 40  # tokens of what a model thinks before its answer, the last ones

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .8rem; text-align: right }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left }
thead { border-bottom: 1px solid #888 } ul { margin: 0 0 2rem; padding-left: 1.2rem }
article { margin: 0 0 1.1rem; padding-left: .8rem; border-left: 4px solid #bbb }
article.right { border-color: #3a8f4d } article.wrong { border-color: #c0504d }
small { color: #666 } p { margin: 0 }
i { font-style: normal; white-space: pre-wrap } i:nth-of-type(even) { background: #f0f0f0 }
i.exact, .legend { background: #ffd75e; font-weight: 600 }
"""

_INTRODUCTION = (
    "<p>Each answer is shown token by token, every second one shaded. <b class='legend'>Marked tokens</b> are the "
    "exact answer: the exact-answer columns of the heatmap are read there. The bar on the left is green for a right "
    "answer and red for a wrong one. Point at a token to see its place in the answer and its id.</p>"
)
_WAYS = (
    "<ul><li><b>pattern</b>: the first match of dataset.pattern</li><li><b>options</b>: the option named first</li>"
    "<li><b>number</b>: a number</li><li><b>gold</b>: the gold answer or alias that comes first</li><li><b>model</b>: "
    "what a model replied when it was asked for it</li></ul>"
)


def write_span_page(tokenizer: PreTrainedTokenizerBase, examples: LabelledExamples) -> str:
    """Write the page.

    Args:
        tokenizer: the tokenizer of the answers.
        examples: N examples with their exact answers.

    Returns:
        HTML: a table by way and label of how often an exact answer was found, how many are parts of a word, and what
        share of the answer they are; then up to `SHOWN` examples each of right answers, wrong answers, exact answers
        that are parts of a word, and answers without one.

    Example:
        >>> Path("exact_answers.html").write_text(write_span_page(tokenizer, examples))  # doctest: +SKIP
    """
    labels, spans = [bool(verdict.right) for verdict in examples.verdicts], examples.spans
    texts = [answer.text for answer in examples.answers]
    rows = "".join(
        f"<tr><td>{_escape(row.how)}</td><td>{row.label}</td><td>{row.n}</td><td>{row.found}</td>"
        f"<td>{row.found / row.n:.1%}</td><td>{row.parts}</td>"
        f"<td>{'–' if row.share is None else f'{row.share:.1%}'}</td></tr>"
        for row in count_spans(texts, labels, spans)
    )
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>Exact answers</title><style>{_STYLE}</style>"
        f"<h1>Exact answers</h1>{_INTRODUCTION}"
        "<table><thead><tr><th>way</th><th>answers</th><th>of them</th><th>found</th><th>share</th>"
        "<th>parts of a word</th><th>share of the answer's words, median</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{_WAYS}"
    ]
    for title, wanted in (
        ("Right answers", lambda i: labels[i] and examples.span_tokens[i]),
        ("Wrong answers", lambda i: not labels[i] and examples.span_tokens[i]),
        ("Parts of a word", lambda i: is_part(texts[i], spans[i])),
        ("No exact answer found", lambda i: not examples.span_tokens[i]),
    ):
        chosen = [i for i in range(len(labels)) if wanted(i)]
        shown = chosen[:: max(1, -(-len(chosen) // SHOWN))]
        parts.append(f"<h2>{title}</h2><p><small>{len(shown)} of {len(chosen)} shown</small></p>")
        parts += [_write_example(tokenizer, examples, i) for i in shown]
    return "\n".join(parts)


def _escape(text: str) -> str:
    """A text as HTML in which it is nothing but text; it keeps its lines."""
    return html.escape("\n".join(map(show_text, text.split("\n"))))


def _write_example(tokenizer: PreTrainedTokenizerBase, examples: LabelledExamples, i: int) -> str:
    question, answer, span = examples.questions[i], examples.answers[i], examples.spans[i]
    first, last = examples.span_tokens[i] or (1, 0)  # none
    text, ranges = decode_tokens(tokenizer, answer.answer_ids)
    tokens, done = [], 0
    for k, (_, end) in enumerate(ranges):  # a character that spans several tokens is shown in the first
        mark = " class='exact'" if first <= k <= last else ""
        tokens.append(f"<i{mark} title='{k}: {answer.answer_ids[k]}'>{_escape(text[done:end]) or '&thinsp;'}</i>")
        done = max(done, end)
    shown = question.text if len(question.text) <= QUESTION else f"… {question.text[-QUESTION:]}"
    replies = f"; replies: {_escape(' | '.join(span.replies))}" if span.replies else ""
    cut = ", cut off" if answer.finish == "length" else ""
    verdict = "right" if examples.verdicts[i].right else "wrong"
    thought = ""
    if answer.thought_ids:
        end = decode(tokenizer, answer.thought_ids[-THOUGHT:], special=True)
        thought = f"<p><small>after {len(answer.thought_ids)} tokens of thinking: … {_escape(end)}</small></p>"
    return (
        f"<article class='{verdict}'><p><small>{_escape(question.id)}, {verdict}{cut}, {_escape(span.how)}{replies}"
        "</small></p>"
        f"<p>{_escape(shown)}</p>{thought}<p>{''.join(tokens)}</p>"
        f"<p><small>gold: {_escape(' | '.join(question.answers[:5]))}</small></p></article>"
    )
