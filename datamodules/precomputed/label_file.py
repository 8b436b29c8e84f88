"""Labels and groups of examples by their names, from a JSON lines or a CSV file."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.stream.byte_ranges import open_file

FILES = ("labels.jsonl", "labels.csv")
WORDS = {"0": 0, "1": 1, "false": 0, "true": 1}  # of labels, as files write them


class LabelledIds(NamedTuple):
    """N examples.

    Attributes:
        ids: [N] different names.
        labels: [N], each 0 or 1.
        groups: [N] texts; None where the file has no column of groups.
    """

    ids: list[str]
    labels: list[int]
    groups: list[str] | None


def read_labels(folder: Path) -> LabelledIds:
    """Read labels.jsonl, an object a line, or labels.csv, with a header: `id`, `label` and perhaps `group`.

    Raises:
        ValueError: there is no such file or there are both, a line is broken, an id occurs twice, or a label is not 0
            or 1.
    """
    found = [folder / name for name in FILES if (folder / name).exists()]
    if len(found) != 1:
        got = "both" if found else "none"
        raise ValueError(f"{folder}: expected {' or '.join(FILES)} with id, label and perhaps group, got {got}")
    (path,) = found
    with open_file(path):
        pass
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, got another encoding ({error.reason}); save it so") from None
    rows = _read_csv(path, text) if path.suffix == ".csv" else _read_json(path, text)
    ids, labels, groups = {}, [], []
    for line, row in rows:
        for key in ("id", "label"):
            if row.get(key) is None:
                raise ValueError(f"{path}: expected id and label, got no {key} in line {line}; add it")
        name, label = str(row["id"]), WORDS.get(str(row["label"]).strip().lower())
        if label is None:
            raise ValueError(
                f"{path}: expected labels 0 and 1, got {str(row['label'])[:80]!r} in line {line}; map them"
            )
        if name in ids:
            raise ValueError(f"{path}: expected different ids, got {name[:80]} in lines {ids[name]} and {line}")
        ids[name] = line
        labels.append(label)
        groups.append(row.get("group"))
    if not ids:
        raise ValueError(f"{path}: expected a row for each example, got none; write id and label of each")
    if missing := [line for line, group in zip(ids.values(), groups, strict=True) if group in (None, "")]:
        if len(missing) < len(ids):
            raise ValueError(f"{path}: expected a group for each example or for none, got none in line {missing[0]}")
        return LabelledIds(list(ids), labels, None)
    return LabelledIds(list(ids), labels, [str(group) for group in groups])


def _read_csv(path: Path, text: str) -> list[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}: expected a CSV file, got a broken row in line {reader.line_num} ({error})") from None


def _read_json(path: Path, text: str) -> list[tuple[int, Mapping[str, Any]]]:
    rows = []
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
            if not isinstance(row, dict):
                raise ValueError(f"{type(row).__name__} instead of an object")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: expected a JSON object a line, got line {line}: {error}; correct it") from None
        rows.append((line, row))
    return rows
