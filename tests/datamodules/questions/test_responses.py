"""Responses from elsewhere as their table gives them: questions, chats, labels, ids, and what is refused."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.questions.files import FileQuestions
from datamodules.questions.question import Turn
from datamodules.questions.responses import FileResponses

GOETHE = {"question": "Who wrote Faust?", "response": " Goethe did.", "answer": ["Goethe", "J. W. Goethe"]}
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": [{"type": "text", "text": "Who wrote "}, {"type": "text", "text": "Faust?"}]},
    {"role": "assistant", "content": "Goethe."},
    {"role": "user", "content": "Thanks."},
]


def write(tmp_path, *rows, **settings):
    path = tmp_path / "said.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileResponses(path=str(path), **settings)


def test_several_responses_a_question_are_one_group_with_ids_of_their_own(tmp_path):
    told = []
    rows = [GOETHE, GOETHE | {"response": "Schiller."}, GOETHE, GOETHE | {"question": "who wrote Faust"}]
    rows += [GOETHE | {"question": "Who wrote Macbeth?"}, GOETHE | {"response_ids": [7]}]
    loaded = write(tmp_path, *rows).load(told.append)
    assert told == ["said: dropped 1 of 6 rows that repeat another"]
    assert [one.id for one in loaded] == ["said-00000", "said-00001", "said-00003", "said-00004", "said-00005"]
    assert [one.response and one.response.text for one in loaded] == [
        " Goethe did.",
        "Schiller.",
        *[" Goethe did."] * 3,
    ]
    assert len({one.group for one in loaded if one.id != "said-00003" and "Faust" in one.text}) == 1
    assert loaded[0].group == loaded[2].group != loaded[3].group
    assert loaded[0].answers == ("Goethe", "J. W. Goethe")
    assert {one.label for one in loaded} == {None}


def test_the_last_message_of_the_assistant_is_the_answer(tmp_path):
    (one,) = write(tmp_path, {"messages": CHAT, "label": 1}).load()
    assert one.response
    assert one.response.text == "Goethe."
    assert one.response.turns == (
        Turn("system", "Be short."), Turn("user", "Hello."), Turn("assistant", "Hi!"), Turn("user", "Who wrote Faust?"),
    )  # fmt: skip
    assert (one.text, one.group, one.label) == ("Hello.\nWho wrote Faust?", "hello who wrote faust", True)


def test_tables_of_each_kind_give_the_same(tmp_path):
    plain = [message | {"content": str(message["content"])} for message in CHAT]
    rows = [
        {"messages": plain, "label": 0, "prompt_ids": [5, 6], "response_ids": [7, 2], "logprobs": [-0.5, 0.0]},
        {
            "messages": plain[:2] + plain[4:5],
            "label": 1,
            "prompt_ids": [5],
            "response_ids": [2**31 - 1],
            "logprobs": [-1],
        },
    ]
    (tmp_path / "a").mkdir()
    expected = [(one.response, one.label) for one in write(tmp_path / "a", *rows).load()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "said.parquet")
    with (tmp_path / "said.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: json.dumps(cell) for key, cell in row.items()} for row in rows)
    for name in ("said.csv", "said.parquet"):
        loaded = FileResponses(path=str(tmp_path / name)).load()
        assert len(loaded) == 2
        for one, (response, label) in zip(loaded, expected, strict=True):
            assert one.label == label
            assert one.response
            assert response
            assert one.response.turns[0] == response.turns[0]
            assert (one.response.text, list(one.response.ids)) == (response.text, list(response.ids))
            assert list(one.response.logprobs) == list(response.logprobs)
    assert expected[0][0]
    assert list(expected[0][0].prompt_ids) == [5, 6]


@pytest.mark.parametrize(
    ("said", "finish"),
    [("stop", "stop"), ("LENGTH", "length"), ("end_turn", "stop"), ("max_tokens", "length"), ("", None), (None, None)],
)
def test_finish_in_the_words_of_apis(tmp_path, said, finish):
    (one,) = write(tmp_path, GOETHE | {"finish": said}).load()
    assert one.response
    assert one.response.finish == finish


def test_a_label_needs_no_gold_answer_and_a_gold_answer_no_label(tmp_path):
    told = []
    rows = [GOETHE | {"answer": None, "label": 1, "response": str(i)} for i in range(2)]
    rows += [GOETHE, GOETHE | {"answer": None, "response": "x"}, GOETHE | {"answer": "A", "label": "", "response": "y"}]
    loaded = write(tmp_path, *rows).load(told.append)
    assert [(one.label, one.answers) for one in loaded] == [
        (True, ()), (True, ()), (None, ("Goethe", "J. W. Goethe")), (None, ("A",)),
    ]  # fmt: skip
    assert told == ["said: skipped 1 of 5 rows with neither a gold answer nor a label: said-00003"]
    graded = write(tmp_path, *rows, label=None).load(told.append)
    assert {one.label for one in graded} == {None}
    assert len(graded) == 2


def test_the_same_response_with_both_labels_is_left_out(tmp_path):
    told = []
    rows = [GOETHE | {"label": 0}, GOETHE | {"label": 1}, GOETHE | {"label": 1, "response": "He."}]
    assert [one.id for one in write(tmp_path, *rows).load(told.append)] == ["said-00002"]
    assert told == ["said: left out 1 texts whose rows contradict each other"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"response": " "}, "no response"),
        ({"response": None}, "no response"),
        ({"question": ""}, "no question"),
        ({"question": None, "messages": CHAT[:2]}, "no message of the role assistant"),
        ({"question": None, "messages": CHAT[2:3]}, "no message of the role user before the answer"),
        ({"question": None, "messages": [*CHAT[:2], {"role": "assistant", "content": ""}]}, "no response"),
    ],
)
def test_rows_that_lack_something_are_left_out_in_a_line(tmp_path, row, reason):
    told = []
    assert len(write(tmp_path, GOETHE, GOETHE | row).load(told.append)) == 1
    assert told == [f"said: skipped 1 of 2 rows with {reason}: said-00001"]


def test_an_empty_answer_that_stopped_at_once_is_one(tmp_path):
    (one,) = write(tmp_path, GOETHE | {"response": "", "response_ids": [2]}).load()
    assert one.response
    assert list(one.response.ids) == [2]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"response": 42}, "dataset.response: column response: expected a text, got 42; write it as text"),
        ({"response": ["a"]}, r"dataset.response: column response: expected a text, got \['a'\]; write it as text"),
        (
            {"messages": CHAT},
            "expected a question or messages, got both in columns question and messages; leave one out",
        ),
        ({"messages": {"role": "user"}, "question": ""}, "column messages: expected a list, got {'role': 'user'}"),
        ({"messages": "Hello", "question": ""}, "column messages: expected a list, got 'Hello'; write it as JSON"),
        (
            {"messages": ["Hello"], "question": ""},
            "message 0 .* expected a role among system, user, assistant, got 'Hel",
        ),
        ({"messages": [{"content": "x"}], "question": ""}, "message 0 .* expected a role among .* got the role None"),
        ({"messages": [{"role": "tool"}], "question": ""}, "expected a role among .* got the role 'tool'; correct it"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}], "question": ""},
            "message 0 of column messages: expected a text, got .*image",
        ),
        ({"finish": "tired"}, "dataset.finish: expected stop or length in column finish, got 'tired'; correct it, or"),
        (
            {"response_ids": [1, 2.5]},
            "dataset.response_ids: expected token ids .* whole numbers of at least 0, got 2.5",
        ),
        ({"response_ids": [True]}, "dataset.response_ids: expected token ids .* got True"),
        (
            {"prompt_ids": [-1]},
            "dataset.prompt_ids: expected token ids .* got -1; correct them, or set dataset.prompt_i",
        ),
        ({"prompt_ids": [2**31]}, "dataset.prompt_ids: expected token ids .* got 2147483648"),
        ({"prompt_ids": "7 8"}, "dataset.prompt_ids: column prompt_ids: expected a list, got '7 8'; write it as JSON"),
        ({"logprobs": [-1.0]}, "dataset.logprobs: expected one for each of 0 response_ids, got 1; give both, or"),
        ({"logprobs": [0.5], "response_ids": [1]}, "dataset.logprobs: expected numbers of at most 0 .* got 0.5"),
        ({"logprobs": [None], "response_ids": [1]}, "dataset.logprobs: expected numbers of at most 0 .* got None"),
        ({"logprobs": ["x"], "response_ids": [1]}, "dataset.logprobs: expected numbers of at most 0 .* got 'x'"),
        ({"label": 2}, "dataset.label: expected 0 or 1 in column label, got '2'"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_in_one_line(tmp_path, row, text):
    with pytest.raises(ValueError, match=rf"^(?=dataset).*{text}.* \(row said-00001\)$") as error:
        write(tmp_path, GOETHE, GOETHE | row).load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "settings", "text"),
    [
        (
            {"question": "a", "response": "b"},
            {},
            "expected gold answers in column answer or labels in column label of said",
        ),
        (
            {"question": "a", "answer": "b"},
            {},
            "expected column response in said, got question, answer; set the option",
        ),
        (GOETHE, {"label": "right"}, "expected column right in said"),
        (GOETHE | {"label": 1}, {"answer": "gold"}, "expected column gold in said"),
        (GOETHE, {"group": "person"}, "expected column person in said"),
        (GOETHE, {"response_ids": "token_ids"}, "expected column token_ids in said"),
    ],
)
def test_a_column_that_is_missing_is_named(tmp_path, row, settings, text):
    with pytest.raises(ValueError, match=f"^dataset: {text}"):
        write(tmp_path, row, **settings).load()


def test_one_of_question_and_messages_can_be_left_out_of_count(tmp_path):
    both = GOETHE | {"messages": CHAT}
    (asked,), (chat,) = (write(tmp_path, both, **{key: None}).load() for key in ("messages", "question"))
    assert asked.response
    assert chat.response
    assert (asked.text, asked.response.turns, asked.response.text) == ("Who wrote Faust?", (), " Goethe did.")
    assert (chat.response.text, len(chat.response.turns)) == ("Goethe.", 4)
    with pytest.raises(ValueError, match="expected question or messages, got null for both"):
        write(tmp_path, both, messages=None, question=None)


def test_the_kind_follows_from_the_name_of_the_file(tmp_path):
    assert FileResponses(path="a.JSONL").kind == "jsonl"
    with pytest.raises(
        ValueError, match=r"^dataset.kind: expected csv, jsonl or parquet, which the name of a.txt does"
    ):
        FileResponses(path="a.txt")


def test_what_is_only_scored_needs_neither_a_gold_answer_nor_a_label(tmp_path):
    rows = [{"question": "Who?", "response": "Ann"}, {"question": "When?", "response": "now", "answer": "now"}]
    found = write(tmp_path, *rows).ungraded().load()
    assert [(one.text, one.answers) for one in found] == [("Who?", ()), ("When?", ("now",))]
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table({"question": ["Who?", "When?"]}), path)
    questions = FileQuestions(path=str(path), kind="parquet")
    assert [one.text for one in questions.ungraded().load()] == ["Who?", "When?"]
    with pytest.raises(ValueError, match="expected column answer"):
        questions.load()
