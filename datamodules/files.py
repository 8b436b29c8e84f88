"""Questions from a file: CSV, JSON lines or Parquet."""

import ast
import codecs
import csv
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.table import Row
from datamodules.tabular import RowQuestions

KINDS = ("csv", "jsonl", "parquet")


@dataclass(kw_only=True)
class FileQuestions(RowQuestions):
    """Questions from one file, or from a train and a test file; see `RowQuestions` for the columns.

    Attributes:
        path: the file, or the train file.
        test_path: the test file; null: the split is dealt from `path`.
        kind: `csv` (with a header), `jsonl` (an object a line) or `parquet`.
        encoding: of text files.
    """

    path: str
    test_path: str | None = None
    kind: str = "csv"
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("path", "encoding"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"dataset.{key}: expected a text, got {getattr(self, key)!r}; quote it")
        self.name = self.name or Path(self.path).stem
        if self.kind not in KINDS:
            raise ValueError(f"dataset.kind: expected one of {', '.join(KINDS)}; got {self.kind!r}")
        if self.test_path is not None and Path(self.test_path).resolve() == Path(self.path).resolve():
            raise ValueError(f"dataset.test_path: expected another file than dataset.path, got {self.path} twice")

    def rows(self) -> dict[str, Sequence[Row]]:
        """Read the file or the two files.

        Raises:
            ValueError: no such file, another encoding, or a broken row, which is named.
        """
        if self.test_path is None:
            return {"": self._read("path", self.path)}
        return {"train": self._read("path", self.path), "test": self._read("test_path", self.test_path)}

    def _read(self, key: str, path: str) -> list[dict[str, Any]]:
        expected = f"dataset.{key}: expected a {'CSV' if self.kind == 'csv' else self.kind} file, got {path}"
        try:
            if self.kind == "parquet":
                return pq.read_table(Path(path).expanduser()).to_pylist()
            content = Path(path).expanduser().read_bytes()
        except FileNotFoundError:
            raise ValueError(f"{expected}: no such file") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{expected}: {error}") from None
        try:
            text = content.decode("utf-8-sig" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding)
        except LookupError:
            raise ValueError(
                f"dataset.encoding: expected one such as utf-8 or latin-1, got {self.encoding!r}"
            ) from None
        except UnicodeDecodeError as error:
            line = len((content[: error.start] + b"x").splitlines())
            raise ValueError(
                f"dataset.{key}: expected text in {self.encoding}, got byte {content[error.start]:#04x} in line "
                f"{line} of {path}; save it as UTF-8, or say its encoding, such as dataset.encoding=latin-1"
            ) from None
        if not text.strip():
            raise ValueError(f"dataset.{key}: expected questions, got {path}: an empty file")
        return _csv_rows(key, path, text) if self.kind == "csv" else _json_rows(key, path, text)


def _csv_rows(key: str, path: str, text: str) -> list[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)  # a context can be long
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, Any]] = []
    header: list[str] = []
    begins = 1  # line of the row being read
    try:
        for fields in reader:
            if not header:
                header = [name.strip() for name in fields]
                if len(set(header)) < len(header):
                    raise ValueError(
                        f"dataset.{key}: expected different column names in {path}, got {', '.join(header)}"
                    )
            elif fields and len(fields) != len(header):
                raise ValueError(
                    f"dataset.{key}: expected {len(header)} fields a row in {path}, got {len(fields)} in line {begins};"
                    " quote texts that hold commas"
                )
            elif fields:
                rows.append({name: _cell(field) for name, field in zip(header, fields, strict=True)})
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"dataset.{key}: expected a CSV file, got {path} with a broken row from line {begins} on ({error}); "
            "close its quotation marks, and double those within a text"
        ) from None
    return rows


def _cell(field: str) -> Any:
    """A field of a CSV file; one that is a list, as JSON or as Python writes it, gives its values."""
    if field.startswith("[") and field.endswith("]"):
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return read(field)
    return field


def _json_rows(key: str, path: str, text: str) -> list[dict[str, Any]]:
    rows = []
    for i, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{type(row).__name__} instead of an object")
            json.dumps(row, ensure_ascii=False).encode()  # halves of characters cannot be asked
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"dataset.{key}: expected a JSON object a line in {path}, got line {i}: {error}; mend or remove it"
            ) from None
        rows.append(row)
    return rows
