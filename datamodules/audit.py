"""What stands beside cached activations for people: the examples as a table, and a page of exact answers.

The page shows token by token where they were found, so that a person can check fifty in a minute.
"""

import io
from html import escape

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.answered import Answered
from datamodules.exact_check import count_found, is_part
from datamodules.spans import decode, token_ranges

SHOWN = 60  # examples of each of: right, wrong, without an exact answer
QUESTION = 240  # characters of a question, its last ones: what is asked stands behind the context
THOUGHT = 40  # tokens of what a model thinks before its answer, the last ones
ROWS = 1024  # of the table in one piece: sets can have many
_IDS = pa.list_(pa.int32())
INDEX = pa.schema(
    {
        "id": pa.string(), "group": pa.string(), "split": pa.string(), "question": pa.string(),
        "gold": pa.list_(pa.string()), "answer": pa.string(), "finish": pa.string(), "prompt_ids": _IDS,
        "thought_ids": _IDS, "answer_ids": _IDS, "exact_answer": pa.string(), "exact_answer_by": pa.string(),
        "first_token": _IDS, "last_token": _IDS, "valid": pa.list_(pa.bool_()), "label": pa.int8(),
        "label_by": pa.string(),
    }
)  # fmt: skip

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
    "<li><b>number</b>: a number</li><li><b>gold</b>: the gold answer or alias that stands first</li><li><b>asked</b>: "
    "what a model replied when it was asked for it</li></ul>"
)


def audit_page(tokenizer: PreTrainedTokenizerBase, examples: Answered) -> str:
    """Write the page.

    Args:
        tokenizer: what the answers' ids belong to.
        examples: N, with what was found.

    Returns:
        HTML: a table by way and label of how often an exact answer was found, how many are parts of a word, and what
        share of the answer they are; then up to `SHOWN` examples each of right answers, wrong answers, exact answers
        that are parts of a word, and answers without one.
    """
    labels, exact, spans = [bool(verdict.right) for verdict in examples.verdicts], examples.exact, examples.spans
    texts = [answer.text for answer in examples.answers]
    rows = "".join(
        f"<tr><td>{row.how}</td><td>{row.label}</td><td>{row.n}</td><td>{row.found}</td>"
        f"<td>{row.found / row.n:.1%}</td><td>{row.parts}</td>"
        f"<td>{'–' if row.share is None else f'{row.share:.1%}'}</td></tr>"
        for row in count_found(texts, labels, exact)
    )
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>Exact answers</title><style>{_STYLE}</style>"
        f"<h1>Exact answers</h1>{_INTRODUCTION}"
        "<table><thead><tr><th>way</th><th>answers</th><th>of them</th><th>found</th><th>share</th>"
        "<th>parts of a word</th><th>share of the answer's words, median</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{_WAYS}"
    ]
    for title, wanted in (
        ("Right answers", lambda i: labels[i] and spans[i]),
        ("Wrong answers", lambda i: not labels[i] and spans[i]),
        ("Parts of a word", lambda i: is_part(texts[i], exact[i])),
        ("No exact answer found", lambda i: not spans[i]),
    ):
        chosen = [i for i in range(len(labels)) if wanted(i)]
        shown = chosen[:: max(1, -(-len(chosen) // SHOWN))]
        parts.append(f"<h2>{title}</h2><p><small>{len(shown)} of {len(chosen)} shown</small></p>")
        parts += [_example(tokenizer, examples, i) for i in shown]
    return "\n".join(parts)


def index_of(examples: Answered, tokens: Tensor, valid: Tensor) -> bytes:
    """Say which example each row of the shards is, as Parquet, for people and other programs.

    Labels and exact answers follow the present rules. tokens [N, T, 2] are counted in prompt, thought and
    answer.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, INDEX) as writer:
        for start in range(0, len(valid), ROWS):
            part = slice(start, start + ROWS)
            questions, answers, exact = examples.questions[part], examples.answers[part], examples.exact[part]
            verdicts = examples.verdicts[part]
            columns = {
                "id": [question.id for question in questions],
                "group": [question.group for question in questions],
                "split": [question.split for question in questions],
                "question": [question.text for question in questions],
                "gold": [question.answers for question in questions],
                "answer": [answer.text for answer in answers],
                "finish": [answer.finish for answer in answers],
                "prompt_ids": [answer.prompt_ids for answer in answers],
                "thought_ids": [answer.thought_ids for answer in answers],
                "answer_ids": [answer.answer_ids for answer in answers],
                "exact_answer": [
                    a.text[slice(*e.span)] if e.span else None for a, e in zip(answers, exact, strict=True)
                ],
                "exact_answer_by": [one.how for one in exact],
                "first_token": tokens[part, :, 0].tolist(),
                "last_token": tokens[part, :, 1].tolist(),
                "valid": valid[part].tolist(),
                "label": [int(bool(verdict.right)) for verdict in verdicts],
                "label_by": [verdict.branch for verdict in verdicts],
            }
            writer.write_table(pa.table(columns, INDEX))
    return buffer.getvalue()


def _example(tokenizer: PreTrainedTokenizerBase, examples: Answered, i: int) -> str:
    question, answer, exact, span = examples.questions[i], examples.answers[i], examples.exact[i], examples.spans[i]
    text, ranges = token_ranges(tokenizer, answer.answer_ids)
    tokens, done = [], 0
    for k, (_, end) in enumerate(ranges):  # of a character over several tokens the first shows it all
        mark = " class='exact'" if span and span[0] <= k <= span[1] else ""
        tokens.append(f"<i{mark} title='{k}: {answer.answer_ids[k]}'>{escape(text[done:end]) or '&thinsp;'}</i>")
        done = max(done, end)
    asked = question.text if len(question.text) <= QUESTION else f"… {question.text[-QUESTION:]}"
    replies = f"; replies: {escape(' | '.join(exact.replies))}" if exact.replies else ""
    cut = ", cut off" if answer.finish == "length" else ""
    verdict = "right" if examples.verdicts[i].right else "wrong"
    thought = ""
    if answer.thought_ids:
        end = decode(tokenizer, answer.thought_ids[-THOUGHT:], special=True)
        thought = f"<p><small>after {len(answer.thought_ids)} tokens of thinking: … {escape(end)}</small></p>"
    return (
        f"<article class='{verdict}'><p><small>{escape(question.id)}, {verdict}{cut}, {exact.how}{replies}</small></p>"
        f"<p>{escape(asked)}</p>{thought}<p>{''.join(tokens)}</p>"
        f"<p><small>gold: {escape(' | '.join(question.answers[:5]))}</small></p></article>"
    )
