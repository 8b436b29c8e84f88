"""Several responses a question, from files of every kind and from chats: one map, and no question on two sides."""

import csv
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from tests.conftest import WORDS
from tests.support.runs import run_here, table

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SAID = [  # one right, two wrong, one of which is said twice
    "I believe that it is {0}, and nothing else.",
    "It must be {1}, as everybody knows.",
    "It must be {1}, as everybody knows.",
    "Who can say? Perhaps {2}.",
]


@pytest.fixture(scope="module")
def chat_model(tiny_model, tmp_path_factory):
    """The small model with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows():
    """40 questions, each with the responses of `SAID`."""
    asked = []
    for i in range(40):
        words = [WORDS[i % 12], WORDS[(i + 1 + i // 12) % 12], WORDS[(i + 5 + i // 12) % 12]]
        question = f"Which word has number {i}?"
        asked += [{"question": question, "response": one.format(*words), "answer": words[0]} for one in SAID]
    return asked


def write(path, rows):
    """Write rows as the name of the file says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def make_chat(row):
    """The same row as a chat, with a message behind the answer that does not count."""
    turns = [("user", row["question"]), ("assistant", row["response"]), ("user", "Thank you.")]
    return {"messages": [{"role": role, "content": text} for role, text in turns], "answer": row["answer"]}


@pytest.mark.usefixtures("_without_pictures")
def test_files_and_chats_draw_one_map(chat_model, rows, tmp_path):
    chats = [make_chat(row) for row in rows]
    written = [json.dumps(chat["messages"]) for chat in chats]
    files = {
        "said.csv": rows,
        "said.jsonl": rows,
        "chat.jsonl": chats,
        "chat.parquet": chats,
        "chat.csv": [chat | {"messages": text} for chat, text in zip(chats, written, strict=True)],
    }
    found, kept = {}, {}
    for name, content in files.items():
        folder = tmp_path / name.replace(".", "_")
        write(tmp_path / name, content)
        more = ["logger=null", "report.terminal=line", "trainer=cpu", "positions=answer", "dataset.name=said"]
        given = ["dataset=responses", f"dataset.path={tmp_path / name}", f"cache.root={tmp_path / 'cache'}"]
        status, _, err = run_here(folder, "model=hf", f"model.id={chat_model}", "model.dtype=float32", *given, *more)
        assert status == 0, err
        keys = ["layer", "position", "split", "auc", "auc_se", "n", "n_positive"]
        found[name] = [[row[key] for key in keys] for row in table(folder)]
        kept[name] = pq.read_table(folder / "run" / "examples.parquet").to_pylist()
    first = "said.csv"
    for name in files:
        assert found[name] == found[first], name
        for key in ("question", "answer", "prompt_ids", "answer_ids", "label", "split", "finish"):
            assert [row[key] for row in kept[name]] == [row[key] for row in kept[first]], (name, key)
    assert len(list((tmp_path / "cache" / "activations").iterdir())) == 1  # all of them read one entry
    assert [row["answer"] for row in kept[first]] == [row["response"] for i, row in enumerate(rows) if i % 4 != 2]
    assert [row["label"] for row in kept[first]] == [1, 0, 0] * 40
    sides = {}
    for row in kept[first]:
        sides.setdefault(row["question"], set()).add((row["group"], row["split"]))
    assert len(sides) == 40
    assert {len(one) for one in sides.values()} == {1}
    assert len({group for one in sides.values() for group, _ in one}) == 40
    assert {split for one in sides.values() for _, split in one} == {"train", "val", "test"}
