"""Questions from a file: CSV, JSON lines or Parquet."""

import codecs
import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.questions.arrow_rows import ArrowRows
from datamodules.questions.lists import parse_list, parse_number
from datamodules.questions.parquet_rows import ParquetRows
from datamodules.questions.question import Question, Tell
from datamodules.questions.row import Row
from datamodules.questions.row_questions import RowQuestions
from datamodules.stream.local_paths import expand_user
from datamodules.stream.ranges import File, Text

log = logging.getLogger(__name__)

KINDS = ("csv", "jsonl", "parquet", "auto")
SUFFIXES: dict[str, Literal["csv", "jsonl", "parquet"]] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


@dataclass(kw_only=True)
class FileQuestions(RowQuestions):
    """Questions from one file, or from a train and a test file; see `RowQuestions` for the columns.

    In a CSV file an answer or a context may be a list as JSON, Python or numpy write it: `['Paris' 'City of Light']`.
    Everywhere else such a text stays as it is. Blank lines, and columns and fields without a name, are dropped.

    Attributes:
        path: the file, or the train file.
        test_path: the test file; null: all splits are made from `path`.
        kind: `csv` (with a header), `jsonl` (an object a line) or `parquet`; `auto`: as the name of the file ends.
        encoding: of text files.

    Example:
        >>> FileQuestions(path="movie_qa_train.csv", question="Question", answer="Answer").name
        'movie_qa_train'
    """

    path: File
    test_path: File | None = None
    kind: Literal["csv", "jsonl", "parquet", "auto"] = "csv"
    encoding: Text = "utf-8"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("path", "encoding"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"dataset.{key}: expected a text, got {getattr(self, key)!r}; quote it")
        self.name = self.name or Path(self.path).stem
        if self.kind not in KINDS:
            raise ValueError(f"dataset.kind: expected one of {', '.join(KINDS)}; got {self.kind!r}")
        if self.kind == "auto":
            ending = Path(self.path).suffix.lower()
            if ending not in SUFFIXES:
                raise ValueError(
                    f"dataset.kind: expected csv, jsonl or parquet, which the name of {self.path} does not tell; set it"
                )
            self.kind = SUFFIXES[ending]
        if self.test_path is not None and Path(self.test_path).resolve() == Path(self.path).resolve():
            raise ValueError(f"dataset.test_path: expected another file than dataset.path, got {self.path} twice")

    def load(self, tell: Tell = log.info) -> list[Question]:
        """Read the questions, and tell what was dropped from the file and what was left out.

        Raises:
            ValueError: a file or its rows cannot be read, or no question is left.
        """
        return self._build_questions(self.read_rows(tell), tell)

    def read_rows(self, tell: Tell = log.info) -> dict[str, Sequence[Row]]:
        """Read the file or the two files.

        Raises:
            ValueError: the file is missing or has another encoding, or a row is broken; the message names it.
        """
        if self.test_path is None:
            return {"": self._read("path", self.path, tell)}
        return {"train": self._read("path", self.path, tell), "test": self._read("test_path", self.test_path, tell)}

    def read_list(self, cell: Any, column: str) -> Any:
        """Parse a cell of a CSV file that is a list.

        Raises:
            ValueError: an array that numpy has abbreviated.
        """
        if self.kind != "csv" or not isinstance(cell, str):
            return cell
        try:
            return parse_list(cell)
        except ValueError as error:
            raise ValueError(f"dataset: column {column} of {self.name}: {error}") from None

    def _read(self, key: str, path: str, tell: Tell) -> Sequence[Row]:
        expected = f"dataset.{key}: expected a {'CSV' if self.kind == 'csv' else self.kind} file, got {path}"
        file = expand_user(path, f"dataset.{key}")
        try:
            if self.kind == "parquet":
                if file.is_dir():  # of one table in parts
                    table = pq.read_table(file)
                    return ArrowRows(table.to_pylist(), table.schema)
                return ParquetRows(file, self.columns, expected)
            content = file.read_bytes()
        except FileNotFoundError:
            raise ValueError(f"{expected}: no such file") from None
        except (OSError, pa.ArrowException, OverflowError) as error:  # a day after the year 9999 overflows
            raise ValueError(f"{expected}: {error}") from None
        try:
            text = content.decode("utf-8-sig" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding)
        except LookupError:
            raise ValueError(
                f"dataset.encoding: expected one such as utf-8 or latin-1, got {self.encoding!r}"
            ) from None
        except UnicodeDecodeError as error:
            if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise ValueError(
                    f"dataset.{key}: expected text in {self.encoding}, got {path} in UTF-16; save it as UTF-8, or set "
                    "dataset.encoding=utf-16"
                ) from None
            line = len((content[: error.start] + b"x").splitlines())
            raise ValueError(
                f"dataset.{key}: expected text in {self.encoding}, got byte {content[error.start]:#04x} in line "
                f"{line} of {path}; save it as UTF-8, or set its encoding, such as dataset.encoding=latin-1"
            ) from None
        if not text.strip():
            raise ValueError(f"dataset.{key}: expected questions, got {path}: an empty file")
        read = _read_csv if self.kind == "csv" else _read_json
        return read(key, path, text, tell)


def _read_csv(key: str, path: str, text: str, tell: Tell) -> list[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # a context can be long
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, Any]] = []
    header: list[str] = []
    unnamed: set[int] = set()  # columns without a name that hold something
    needed = 0  # fields of a row
    begins, blank, wide = 1, 0, 0  # line of the row being read; lines without text; rows with empty fields too many
    try:
        for fields in reader:
            if not any(map(str.strip, fields)):
                blank += 1
            elif not header:
                header = [name.strip() for name in fields]
                named = [name for name in header if name]
                needed = max(i for i, name in enumerate(header, 1) if name)  # Excel leaves out empty fields behind it
                if len(set(named)) < len(named):
                    raise ValueError(
                        f"dataset.{key}: expected different column names in {path}, got {', '.join(named)}"
                    )
            elif len(fields) < needed or any(map(str.strip, fields[len(header) :])):
                raise ValueError(
                    f"dataset.{key}: expected {len(header)} fields a row in {path}, got {len(fields)} in line {begins};"
                    " quote texts that hold commas"
                )
            else:
                wide += len(fields) > len(header)
                unnamed.update(i for i, name in enumerate(header[: len(fields)]) if not name and fields[i].strip())
                rows.append({name: field for name, field in zip(header, fields, strict=False) if name})
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"dataset.{key}: expected a CSV file, got {path} with a broken row from line {begins} on ({error}); "
            "close its quotation marks, and double those within a text"
        ) from None
    empty = header.count("") - len(unnamed)
    _tell_dropped(tell, path, blank, "blank lines")
    _tell_dropped(tell, path, wide, "rows' empty fields beyond the header")
    _tell_dropped(tell, path, empty, "empty columns without a name")
    _tell_dropped(tell, path, len(unnamed), "columns that hold text but have no name")
    return rows


def _read_json(key: str, path: str, text: str, tell: Tell) -> list[dict[str, Any]]:
    rows, blank = [], 0
    for i, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        if not line.strip():
            blank += 1
            continue
        try:
            row = json.loads(line, parse_float=parse_number)
            if not isinstance(row, dict):
                raise ValueError(f"{type(row).__name__} instead of an object")
            json.dumps(row, ensure_ascii=False, default=str).encode()  # half of a surrogate pair cannot be encoded
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"dataset.{key}: expected a JSON object a line in {path}, got line {i}: {error}; correct or remove it"
            ) from None
        rows.append(row)
    _tell_dropped(tell, path, blank, "blank lines")
    return rows


def _tell_dropped(tell: Tell, path: str, count: int, what: str) -> None:
    if count:
        tell(f"{path}: dropped {count} {what}")
