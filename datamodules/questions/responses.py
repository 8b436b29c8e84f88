"""Answers from elsewhere: a table of questions with responses, or of chats whose last turn is the response."""

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from datamodules.questions.files import FileQuestions
from datamodules.questions.parquet_rows import list_names
from datamodules.questions.question import Question, Response, Turn
from datamodules.questions.row import Row, fill, find_columns, format_cell, read_cell
from datamodules.questions.statements import read_label
from datamodules.stream.ranges import Column, Text

ROLES = ("system", "user", "assistant")
FINISHES: dict[str, Literal["stop", "length"] | None] = {
    "": None, "given": None,
    "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop",
    "length": "length", "max_tokens": "length",
}  # fmt: skip
LARGEST = 2**31  # ids are stored in four bytes


@dataclass(kw_only=True)
class FileResponses(FileQuestions):
    """Responses from a file, one a row: what vLLM, an API or people answered. No model answers.

    A row has a question and a response, or `messages`, a chat of `{role, content}`: its last message of the role
    `assistant` is the response, and what stands before it is the prompt. Messages after it do not count. The question
    of a chat is what its user says, in all turns.

    A question may have several responses, which are one group. A row with a label keeps it; the rule grades the others
    by their gold answer. Columns that have their default name, but for the question and the response, may be missing.

    Attributes:
        question: as in `RowQuestions`; null where the table has messages and its questions do not count.
        response: column with the answer, a text.
        messages: column with the chat, as a list or as JSON; null where it does not count.
        label: column with 0 or 1, where 1 stands for a right answer; null: the rule grades every response.
        finish: column that says `stop` where the author ended the answer and `length` where it was cut off.
        prompt_ids: column with the token ids that the answering model read, a list; null where they do not count.
        response_ids: column with the token ids that it wrote, the stop token included; null likewise.
        logprobs: column with the log-probability of each of these; null likewise.

    Example:
        >>> row = {"question": "Who wrote Faust?", "response": "Goethe.", "answer": "Goethe"}
        >>> FileResponses(path="answers.jsonl").read_record(row).response.text
        'Goethe.'
    """

    kind: Literal["csv", "jsonl", "parquet", "auto"] = "auto"
    question: Text | None = "question"  # pyright: ignore[reportIncompatibleVariableOverride]
    response: Column = "response"
    messages: Column | None = "messages"
    label: Column | None = "label"
    finish: Column | None = "finish"
    prompt_ids: Column | None = "prompt_ids"
    response_ids: Column | None = "response_ids"
    logprobs: Column | None = "logprobs"
    answered = True

    def __post_init__(self) -> None:
        self._asks, self.question = self.question is not None, self.question or "question"
        super().__post_init__()
        if not self._asks and self.messages is None:
            raise ValueError("dataset: expected question or messages, got null for both; name a column of one")

    @property
    def _question_columns(self) -> list[str]:
        return [column for column in [*super()._question_columns, self.response, *self._optional.values()] if column]

    @property
    def _optional(self) -> dict[str, str | None]:
        """Columns that may be missing where they have their default name, by the option that names them."""
        names = "messages", "label", "finish", "prompt_ids", "response_ids", "logprobs"
        return {name: getattr(self, name) for name in names}

    def _require_columns(self, rows: Sequence[Row]) -> None:
        there = dict.fromkeys(list_names(rows, range(len(rows))))
        default = {field.name: field.default for field in fields(self)}
        named = [column for key, column in self._optional.items() if column and column != default[key]]
        chats = self.messages in there
        asked = [] if chats else [*find_columns(str(self.question)), self.response]
        golds = list(self.answer) if self.graded and list(self.answer) != [default["answer"]] else []
        of_groups = [column for template in self._group or () for column in find_columns(template)]
        more = [column for column in (self.context, *(self.options or ())) if column]
        absent = [one for one in dict.fromkeys([*asked, *named, *golds, *more, *of_groups]) if one not in there]
        if absent and rows:
            raise ValueError(
                f"dataset: expected column {', '.join(absent)} in {self.name}, got {', '.join(there)}; set the option "
                "of dataset that names it, or give messages"
            )
        if self.graded and rows and self.label not in there and not set(self.answer) & set(there):
            raise ValueError(
                f"dataset: expected gold answers in column {', '.join(self.answer)} or labels in column "
                f"{self.label or 'label'} of {self.name}, got {', '.join(there)}; set dataset.answer or dataset.label"
            )

    def read_record(self, row: Row) -> Question | str:
        """Turn one row into a question with its response, or return the reason why it is skipped.

        Raises:
            ValueError: a chat, a text, a label or ids that cannot be read.
        """
        asked = fill(str(self.question), row) if self._asks else ""
        chat = read_cell(row, self.messages) if self.messages else None
        if not _is_empty(chat):
            if asked:
                raise ValueError(
                    f"dataset: expected a question or messages, got both in columns {self.question} and "
                    f"{self.messages}; leave one out with dataset.question=null or dataset.messages=null"
                )
            turns = read_chat(chat, str(self.messages))
            last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=None)
            if last is None:
                return "no message of the role assistant"
            before, text = turns[:last], turns[last].text
            asked = "\n".join(turn.text for turn in before if turn.role == "user").strip()
            if not asked:
                return "no message of the role user before the answer"
        else:
            before, text = [], _read_text(read_cell(row, self.response), f"dataset.response: column {self.response}")
            if not asked:
                return "no question"
        response = self._read_response(row, tuple(before), text)
        if not response.text and not response.ids:
            return "no response"
        label = read_label(row, self.label) if self.label else None
        context = self.context and format_cell(self.read_list(read_cell(row, self.context), self.context)).strip()
        whole = f"{context}\n{asked}" if context and not before else asked
        record = self._build_record(row, asked, whole, graded=label is None)
        if record == "no gold answer":
            return "neither a gold answer nor a label"
        return record if isinstance(record, str) else replace(record, label=label, response=response)

    def _read_response(self, row: Row, turns: tuple[Turn, ...], text: str) -> Response:
        said = format_cell(read_cell(row, self.finish)).strip().lower() if self.finish else ""
        if said not in FINISHES:
            raise ValueError(
                f"dataset.finish: expected stop or length in column {self.finish}, got {said!r}; correct it, or set "
                "dataset.finish=null"
            )
        prompt_ids, ids = (self._read_ids(row, key, column) for key, column in self._ids)
        logprobs = self._read_logprobs(row)
        if len(logprobs) not in (0, len(ids)):
            raise ValueError(
                f"dataset.logprobs: expected one for each of {len(ids)} response_ids, got {len(logprobs)}; give both, "
                "or set dataset.logprobs=null"
            )
        return Response(text, FINISHES[said], turns, prompt_ids, ids, logprobs)

    @property
    def _ids(self) -> tuple[tuple[str, str | None], ...]:
        return ("prompt_ids", self.prompt_ids), ("response_ids", self.response_ids)

    def _read_ids(self, row: Row, key: str, column: str | None) -> array:
        numbers = _read_list(read_cell(row, column), f"dataset.{key}: column {column}") if column else []
        for one in numbers:
            if not isinstance(one, int | np.integer) or isinstance(one, bool) or not 0 <= one < LARGEST:
                raise ValueError(
                    f"dataset.{key}: expected token ids in column {column}, whole numbers of at least 0, got {one!r}; "
                    f"correct them, or set dataset.{key}=null"
                )
        return array("i", numbers)

    def _read_logprobs(self, row: Row) -> array:
        column = self.logprobs
        numbers = _read_list(read_cell(row, column), f"dataset.logprobs: column {column}") if column else []
        for one in numbers:
            if isinstance(one, bool | str) or not hasattr(one, "__float__") or not -math.inf < one <= 0:
                raise ValueError(
                    f"dataset.logprobs: expected numbers of at most 0 in column {column}, got {one!r}; correct them, "
                    "or set dataset.logprobs=null"
                )
        return array("f", map(float, numbers))


def read_chat(cell: Any, column: str) -> list[Turn]:
    """Read the messages of a chat, as a list or as JSON; the content of one is a text, or a list of text parts.

    >>> read_chat([{"role": "user", "content": "Who?"}], "messages")
    [Turn(role='user', text='Who?')]

    Raises:
        ValueError: no list of messages, or one without a role or a text.
    """
    turns = []
    for i, message in enumerate(_read_list(cell, f"dataset.messages: column {column}")):
        where = f"dataset.messages: message {i} of column {column}"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            got = f"the role {message.get('role')!r}" if isinstance(message, dict) else repr(message)[:60]
            raise ValueError(f"{where}: expected a role among {', '.join(ROLES)}, got {got}; correct it")
        content = message.get("content")
        if isinstance(content, list | np.ndarray):
            parts = [str(part["text"]) for part in content if isinstance(part, dict) and "text" in part]
            content = "".join(parts) if len(parts) == len(content) else content
        turns.append(Turn(message["role"], _read_text(content, where)))
    return turns


def _read_text(cell: Any, where: str) -> str:
    if _is_empty(cell):
        return ""
    if not isinstance(cell, str):
        raise ValueError(f"{where}: expected a text, got {repr(cell)[:60]}; write it as text")
    return cell if cell.strip() else ""


def _read_list(cell: Any, where: str) -> list[Any]:
    """Read a list that may be written as JSON."""
    if _is_empty(cell):
        return []
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            raise ValueError(f"{where}: expected a list, got {cell[:60]!r}; write it as JSON") from None
    if not isinstance(cell, list | tuple | np.ndarray):
        raise ValueError(f"{where}: expected a list, got {repr(cell)[:60]}; write one")
    return list(cell)


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and cell != cell)
