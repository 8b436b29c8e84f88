import io
import re
from html.parser import HTMLParser

import pyarrow.parquet as pq
import torch

from datamodules.examples import LabelledExamples, Span, Verdict, write_examples
from datamodules.labels.span_page import SHOWN, write_span_page
from datamodules.language.generation import Answer
from datamodules.language.tokens import decode, find_tokens
from datamodules.questions.question import Question
from datamodules.targets import Targets

TEXTS = ["the red <b>stone</b>", "blue 北京 lamp & key", "🗝️ river"]


class Marked(HTMLParser):
    """The texts of the page's marked tokens, joined by example."""

    def __init__(self):
        super().__init__()
        self.examples, self.tokens, self.open = [], [], False

    def handle_starttag(self, tag, attrs):
        if tag == "article":
            self.examples.append("")
            self.tokens.append("")
        self.open = "exact" if ("class", "exact") in attrs else tag == "i"

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.tokens[-1] += data
        if self.open == "exact":
            self.examples[-1] += data


def example(tokenizer, text, words):
    ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    start = decode(tokenizer, ids).find(words)
    span = (start, start + len(words)) if words else None
    answer = Answer([1, 2], ids, [0.0] * len(ids), "stop", decode(tokenizer, ids))
    return answer, Span(span, "model", ("a | <i>", words)), find_tokens(tokenizer, ids, span) if span else None


def answered(questions, answers, labels, exact, spans):
    return LabelledExamples(questions, answers, [Verdict(right, "so") for right in labels], exact, spans)


def test_the_page_marks_the_exact_tokens_and_shows_every_answer_whole(language_model):
    tokenizer = language_model.load_tokenizer()
    answers, exact, spans = zip(
        *(example(tokenizer, t, w) for t, w in zip(TEXTS, ["<b>stone</b>", "北京", ""], strict=True)), strict=True
    )
    questions = [Question(f"q{i}", "g", "context " * 50 + f"which {i}?", ("gold & old",)) for i in range(3)]
    page = write_span_page(tokenizer, answered(questions, answers, [True, False, False], exact, spans))
    marked = Marked()
    marked.feed(page)
    assert [text.strip() for text in marked.examples] == ["<b>stone</b>", "北京", ""]
    assert [text.replace("\u2009", "") for text in marked.tokens] == TEXTS
    assert re.findall(r"<h2>(.*?)</h2><p><small>(.*?)</small>", page) == [
        ("Right answers", "1 of 1 shown"),
        ("Wrong answers", "1 of 1 shown"),
        ("Parts of a word", "0 of 0 shown"),
        ("No exact answer found", "1 of 1 shown"),
    ]
    assert cells(page) == [
        ["model", "right", "1", "1", "100.0%", "0", "80.0%"],  # < b > stone < / b > is 8 of 10 words
        ["model", "wrong", "2", "1", "50.0%", "0", "33.3%"],  # each character of 北京 is a word
    ]
    assert "which 2?" in page
    assert "gold &amp; old" in page
    assert "replies: a | &lt;i&gt;" in page


def test_exact_answers_that_are_parts_of_a_word_are_shown_by_themselves(language_model):
    tokenizer = language_model.load_tokenizer()
    answer, _, span = example(tokenizer, "the hundred stones", "red")
    exact = [Span((8, 11), "gold"), Span((8, 11), "number"), Span(None, "gold")]
    assert answer.text[8:11] == "red"
    questions = [Question(f"q{i}", "g", "which?", ("red",)) for i in range(3)]
    page = write_span_page(tokenizer, answered(questions, [answer] * 3, [True] * 3, exact, [span, span, None]))
    assert cells(page) == [
        ["gold", "right", "2", "1", "50.0%", "1", "33.3%"],
        ["number", "right", "1", "1", "100.0%", "0", "33.3%"],
    ]
    shown = page.split("<h2>Parts of a word</h2>")[1].split("<h2>")[0]
    assert re.findall(r"q\d", shown) == ["q0"]


def cells(page):
    """The table's rows as texts."""
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall("<td>(.*?)</td>", row) for row in body.split("</tr>")[:-1]]


def test_a_large_set_is_shown_in_part_evenly(language_model):
    tokenizer = language_model.load_tokenizer()
    answer, exact, span = example(tokenizer, "the red stone", "red")
    questions = [Question(f"q{i:04}", "g", "which?", ("red",)) for i in range(1000)]
    page = write_span_page(
        tokenizer, answered(questions, [answer] * 1000, [True] * 1000, [exact] * 1000, [span] * 1000)
    )
    shown = [int(i) for i in re.findall(r"q(\d{4}), right", page)]
    assert shown == list(range(0, 1000, 17))
    assert len(shown) <= SHOWN
    assert f"<small>{len(shown)} of 1000 shown</small>" in page


def test_the_index_says_what_each_row_is(language_model):
    tokenizer = language_model.load_tokenizer()
    answer, exact, _ = example(tokenizer, "the red stone", "red")
    tokens, valid = torch.tensor([[[3, 3], [4, 6]]]), torch.tensor([[True, False]])
    question = Question("q", "g", "which?", ("red",), split="test")
    one = torch.tensor([[1]])
    targets = Targets(("a",), ("a",), (0,), one, one.to(torch.uint8), one[0])
    made = write_examples(answered([question], [answer], [True], [exact], [None]), tokens, valid, targets)
    (row,) = pq.read_table(io.BytesIO(made)).to_pylist()
    assert row == {
        "id": "q", "group": "g", "source_split": "test", "question": "which?", "gold": ["red"],
        "answer": "the red stone", "finish": "stop",
        "prompt_ids": [1, 2], "thought_ids": [], "answer_ids": answer.answer_ids,
        "logprobs": answer.logprobs, "exact_answer": "red", "exact_answer_by": "model",
        "exact_answer_tokens": None,
        "first_token": [3, 4], "last_token": [3, 6], "label_by": "so", "label": 1, "split": "val",
        "valid": [True, False],
    }  # fmt: skip
