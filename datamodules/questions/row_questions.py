"""Questions from the rows of a table, one a row: each text once, groups found, some of them drawn."""

import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datamodules.questions.groups import Groups, name_groups, read_patterns
from datamodules.questions.parquet_rows import list_names, pick_rows
from datamodules.questions.question import LISTED, Question, QuestionSet, Tell
from datamodules.questions.row import (
    Row,
    are_labels,
    are_texts,
    fill,
    find_columns,
    format_cell,
    read_cell,
    read_number,
    read_texts,
)
from datamodules.questions.unique_texts import TextHashes, UniqueTexts
from datamodules.questions.words import fold_group, fold_name
from datamodules.stream.ranges import Column, Columns, Count, Group, Options, Seed, Text

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RowQuestions(QuestionSet):
    r"""Questions from rows of a table, one a row; children give the rows.

    If `rows` has a test part, its questions are the test split. Train questions that also occur there, apart from case
    and punctuation, are left out.

    Attributes:
        question: column with the question, or a text with columns in braces: `{sentence} Who is "{pronoun}"?`. Dots
            lead into nested columns: `answer.aliases`. A list in it is part of the text: `[3, 1, 2]`.
        answer: column with the gold answer, or with a list of it and its aliases; or a list of such columns. With
            `first_option`, the number of an option.
        context: column whose text is put before the question; lists become lines.
        options: columns with what the question lets one choose from.
        labels: label words with their spellings, where every question lets one choose from the same:
            `{positive: [positive], negative: [negative]}`.
        first_option: number that `answer` gives to the first of `options` or `labels`; null where it gives words.
        group: column whose equal values stay on one side of a split, as questions that differ in case, punctuation
            and blanks only always do; or a text with columns in braces, `{answer}|{incorrect_answer}`, whose values
            must all be equal; or a list of such, any of which joins rows. With a regular expression, as in
            `{question: '^(?:\W*\w+){6}'}`, only what it matches must be equal, or what its brackets match: here the
            first six words. Rows without a value or a match are joined to none.
        target: column whose values, 2 to 50 of them, are classes for the probes to tell apart, each against the rest;
            null: right or wrong. Rows without a value are left out.
        pattern: regular expression whose first match in an answer is its exact answer.
        limit: keep this many questions, of train and of test each, drawn at random; all by default.
        seed: of the draw.
        name: shown to people.
    """

    question: Text = "question"
    answer: Column | Columns = "answer"
    context: Column | None = None
    options: Options | None = None
    labels: Mapping[str, Sequence[Text]] | None = None
    first_option: int | None = None
    group: Group | None = None
    target: Column | None = None
    pattern: str = ""
    limit: Count | None = None
    seed: Seed = 0
    name: str = ""
    _split_by = ""  # a column that `group_by` adds to those of `group`

    def __post_init__(self) -> None:
        self.answer = [self.answer] if isinstance(self.answer, str) else self.answer
        self.options, self.labels = self.options or [], self.labels or {}
        self.pattern, self._group = str(self.pattern), read_patterns(self.group)
        limit = self.limit
        for key, expected, right in (
            ("question", "a column, or a text with columns in braces", isinstance(self.question, str)),
            ("answer", "a column, or a list of columns", are_texts(self.answer)),
            ("context", "a column, or null", isinstance(self.context, str | None)),
            ("target", "a column, or null", self.target is None or isinstance(self.target, str)),
            ("options", "a list of columns, such as [a,b]", are_texts(self.options)),
            ("labels", "spellings by label word, such as {a: [], b: []}, yes and no quoted", are_labels(self.labels)),
            ("first_option", "a whole number, or null", type(self.first_option) in (int, type(None))),
            ("group", "a column, a text with columns in braces, or a list of such", self._group is not None),
            ("name", "a text", isinstance(self.name, str)),
            ("limit", "a number of questions above 0", limit is None or (type(limit) is int and limit > 0)),
            ("seed", "a whole number of at least 0", type(self.seed) is int and self.seed >= 0),
        ):
            if not right:
                raise ValueError(f"dataset.{key}: expected {expected}, got {getattr(self, key)!r}")
        if self.options and self.labels:
            raise ValueError("dataset: expected options or labels, got both; leave one empty")
        for key, pattern in (("pattern", self.pattern), *(("group", one) for one in (self._group or {}).values())):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"dataset.{key}: expected a regular expression, got {pattern!r}: {error}") from None

    def group_by(self, column: str) -> "RowQuestions":
        """Return this set, in which questions with an equal value in a column are also one group."""
        changed = copy(self)
        changed._split_by, changed._group = column, {column: ""} | (self._group or {})
        return changed

    def read_rows(self) -> dict[str, Sequence[Row]]:
        """Return the rows, as `train` and `test`, or all of them under the empty name."""
        raise NotImplementedError

    @property
    def columns(self) -> list[str]:
        """Columns that are read."""
        of_groups = [column for template in self._group or () for column in find_columns(template)]
        return list(dict.fromkeys([*self._question_columns, *of_groups]))

    @property
    def _question_columns(self) -> list[str]:
        named = [*find_columns(self.question), *self.answer, self.context, *(self.options or ()), self.target]
        return [column for column in named if column]

    def read_list(self, cell: Any, column: str) -> Any:
        """Read a cell of an answer or a context; children parse lists that are written as text."""
        return cell

    def load(self, tell: Tell = log.info) -> list[Question]:
        """Read the questions, and tell what was left out.

        Raises:
            ValueError: rows cannot be read, or none is left.
        """
        return self._build_questions(self.read_rows(), tell)

    def _build_questions(self, tables: Mapping[str, Sequence[Row]], tell: Tell) -> list[Question]:
        groups = Groups()
        parts = {split: self._find_texts(split, rows, groups, "test" in tables, tell) for split, rows in tables.items()}
        if "test" in parts:
            parts["train"] = self._drop_tested(parts["train"], parts["test"], groups, tell)
        questions = []
        for split, part in parts.items():
            drawn = [part.list_rows(text) for text in self._draw(split, len(part), tell)]
            rows = pick_rows(tables[split], [i for numbers in drawn for i in numbers])
            questions += [self._build_question(split, rows, numbers, groups) for numbers in drawn]
        if not questions:
            raise ValueError(f"dataset: expected rows with a question and an answer, got none in {self.name}")
        return questions

    def read_record(self, row: Row) -> Question | str:
        """Turn one row into a question without id and split, or return the reason why it is skipped.

        Its group is a text, not folded yet: that takes half of the time for a row.
        """
        text = fill(self.question, row)
        if not text:
            return "no question"
        context = self.context and format_cell(self.read_list(read_cell(row, self.context), self.context)).strip()
        return self._build_record(row, text, f"{context}\n{text}" if context else text)

    def _build_record(self, row: Row, asked: str, text: str, graded: bool = True) -> Question | str:
        """The record of a row that asks this, in a text with its context; one that is not graded needs no gold."""
        choice = tuple((word, *read_texts(list(more or ()))) for word, more in (self.labels or {}).items())
        choice = choice or tuple((format_cell(read_cell(row, column)).strip(),) for column in self.options or ())
        golds = [gold for column in self.answer for gold in self._read_golds(read_cell(row, column), column, choice)]
        if self.first_option is not None:
            golds = [choice[i][0] for gold in golds if 0 <= (i := read_number(gold) - self.first_option) < len(choice)]
        if graded and self.graded and not golds:
            return "no gold answer"
        if choice:
            if not all(option[0] for option in choice):
                return "an empty option"
            spellings = [set(map(fold_name, option)) for option in choice]
            if len(set().union(*spellings)) < sum(map(len, spellings)):
                return "options equal to each other"
            golds = [
                option[0] for option in choice if {gold.casefold() for gold in golds} & set(map(str.casefold, option))
            ]
            if graded and self.graded and len(golds) != 1:
                return "a gold answer that is none of the options"
        return Question(
            id="",
            group=asked,
            text=text,
            answers=tuple(dict.fromkeys(golds)),
            pattern=self.pattern,
            options=tuple(tuple(dict.fromkeys(option)) for option in choice),
        )

    def _read_with_target(self, row: Row) -> Question | str:
        record = self.read_record(row)
        if self.target is None or isinstance(record, str):
            return record
        value = format_cell(read_cell(row, self.target)).strip()
        return replace(record, target=f"{self.target}: {value}") if value else f"no {self.target}"

    def _read_golds(self, cell: Any, column: str, choice: tuple[tuple[str, ...], ...]) -> list[str]:
        if isinstance(cell, str) and (cell.strip(),) in choice:  # an option may look like a list
            return [cell.strip()]
        return read_texts(self.read_list(cell, column))

    def _require_columns(self, rows: Sequence[Row]) -> None:
        for some in (range(min(100, len(rows))), range(len(rows))):  # a column may be missing in the first rows
            there = dict.fromkeys(list_names(rows, some))
            absent = [one for one in self.columns if one not in {*there, *(() if self.graded else self.answer)}]
            if not absent or not rows:
                return
        if self._split_by and set(absent) <= {*find_columns(self._split_by)}:
            raise ValueError(
                f"split.by: expected question, gold, exact_answer or a column of {self.name}, got {self._split_by!r}; "
                f"its columns are {', '.join(there)}"
            )
        of_group = not set(absent) & {*self._question_columns}
        raise ValueError(
            f"dataset{'.group' if of_group else ''}: expected column {', '.join(absent)} in {self.name}, got "
            f"{', '.join(there)}; {'name one of these' if of_group else 'set the option of dataset that names it'}"
        )

    def _find_texts(self, split: str, rows: Sequence[Row], groups: Groups, tested: bool, tell: Tell) -> UniqueTexts:
        """Find the different texts of the rows; texts with contradicting rows are left out.

        Only hashes are kept in memory, and the name of each group that `dataset.group` joins.
        """
        self._require_columns(rows)
        of, hashes, classes = f"{self.name} {split}".strip(), TextHashes(), TextHashes()
        skipped, first_skipped = Counter[str](), defaultdict[str, list[str]](list)
        may_differ, grouped = True, 0
        for i, row in enumerate(rows):
            try:
                record = self._read_with_target(row)
            except ValueError as error:
                raise ValueError(f"{error} (row {self._name_row(split, i)})") from None
            if isinstance(record, str):
                skipped[record] += 1
                if skipped[record] <= LISTED:
                    first_skipped[record].append(self._name_row(split, i))
                continue
            group = fold_group(record.group) if tested or self._group else ""
            for shared in name_groups(row, self._group or {}):
                groups.join(group, shared)
                grouped += 1
            may_differ = may_differ and not record.options and record.label is None
            hashes.add(i, record.content, (record.answers, record.label), group)
            if self.target is not None:
                classes.add(i, record.content, record.target, group)
        for reason, n in skipped.items():
            more = f" and {n - LISTED} more" if n > LISTED else ""
            tell(f"{of}: skipped {n} of {len(rows)} rows with {reason}: {', '.join(first_skipped[reason])}{more}")
        if self._group and not grouped:
            tell(f"{of}: dataset.group joins no rows: none has a value, or a match, of {', '.join(self._group)}")
        found = hashes.find_unique()
        joined = int(found.differ.sum())
        if repeated := len(found.rows) - len(found) - joined:
            tell(f"{of}: dropped {repeated} of {len(rows)} rows that repeat another")
        if joined and may_differ:
            tell(f"{of}: {joined} rows give further gold answers to a question asked before; each is accepted")
        wrong = found.contradicted & (not may_differ)
        if self.target is not None:
            wrong |= classes.find_unique().contradicted
        if wrong.any():
            tell(f"{of}: left out {wrong.sum()} texts whose rows contradict each other")
        return found.select(~wrong)

    def _drop_tested(self, train: UniqueTexts, test: UniqueTexts, groups: Groups, tell: Tell) -> UniqueTexts:
        """Return the train part without the questions that share a group with the test part."""
        kept = train.select(~np.isin(groups.find_hashes(train.groups), groups.find_hashes(test.groups)))
        if len(kept) < len(train):
            again, rows = test.times[np.isin(test.keys, train.keys)].sum(), test.times.sum()
            shared = [f"match of {one!r} in {text}" if one else text for text, one in (self._group or {}).items()]
            same = f"or of the same {' or '.join(shared)}, " if shared else ""
            tell(
                f"{self.name}: {again} of {rows} test rows also occur in train letter by letter; "
                f"{len(train) - len(kept)} train questions that are also in test, apart from case and punctuation, "
                f"{same}are left out"
            )
        return kept

    def _draw(self, split: str, n: int, tell: Tell) -> Sequence[int]:
        """Numbers of the drawn ones of n texts."""
        if self.limit is not None and self.limit > n:
            tell(f"{f'{self.name} {split}'.strip()}: dataset.limit={self.limit}, but there are {n}; all are taken")
        every = self.limit is None or self.limit >= n
        return range(n) if every else random.Random(self.seed).sample(range(n), self.limit or 0)

    def _build_question(
        self, split: str, rows: Sequence[Row] | Mapping[int, Row], numbers: Sequence[int], groups: Groups
    ) -> Question:
        """The question of one text, with the gold answers of all its rows."""
        records = [record for i in numbers if isinstance(record := self._read_with_target(rows[i]), Question)]
        golds = dict.fromkeys(gold for record in records for gold in record.answers)
        name, group = self._name_row(split, numbers[0]), groups.find(fold_group(records[0].group))
        return replace(records[0], id=name, split=split, group=group, answers=tuple(golds))

    def _name_row(self, split: str, row: int) -> str:
        return "-".join(filter(None, (self.name, split, f"{row:05d}")))
