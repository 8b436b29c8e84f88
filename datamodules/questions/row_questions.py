"""Questions from the rows of a table, one a row: each text once, groups found, some of them drawn."""

import logging
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from datamodules.questions.groups import Groups, UniqueText, name_groups, read_patterns
from datamodules.questions.parquet_rows import list_names, pick_rows
from datamodules.questions.question import LISTED, Question, QuestionSet, Tell
from datamodules.questions.row import Row, are_texts, fill, find_columns, format_cell, read_cell, read_texts
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
        pattern: regular expression whose first match in an answer is its exact answer, for `spans=rule`.
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
            ("options", "a list of columns, such as [a,b]", are_texts(self.options)),
            ("labels", "spellings by label word, such as {a: [], b: []}, yes and no quoted", _are_labels(self.labels)),
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
        named = [*find_columns(self.question), *self.answer, self.context, *(self.options or ())]
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
        parts = {split: self._find_texts(split, rows, groups, tell) for split, rows in tables.items()}
        if "test" in parts:
            parts["train"] = self._drop_tested(parts["train"], parts["test"], groups, tell)
        questions = []
        for split, part in parts.items():
            drawn = self._draw(split, list(part.values()), tell)
            rows = pick_rows(tables[split], [i for unique in drawn for i in unique.rows])
            questions += [self._build_question(split, rows, unique, groups) for unique in drawn]
        if not questions:
            raise ValueError(f"dataset: expected rows with a question and an answer, got none in {self.name}")
        return questions

    def read_record(self, row: Row) -> Question | str:
        """Turn one row into a question without id and split, or return the reason why it is skipped."""
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
            golds = [choice[i][0] for gold in golds if 0 <= (i := _read_number(gold) - self.first_option) < len(choice)]
        if graded and not golds:
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
            if graded and len(golds) != 1:
                return "a gold answer that is none of the options"
        return Question(
            id="",
            group=fold_group(asked),
            text=text,
            answers=tuple(dict.fromkeys(golds)),
            pattern=self.pattern,
            options=tuple(tuple(dict.fromkeys(option)) for option in choice),
        )

    def _read_golds(self, cell: Any, column: str, choice: tuple[tuple[str, ...], ...]) -> list[str]:
        if isinstance(cell, str) and (cell.strip(),) in choice:  # an option may look like a list
            return [cell.strip()]
        return read_texts(self.read_list(cell, column))

    def _require_columns(self, rows: Sequence[Row]) -> None:
        for some in (range(min(100, len(rows))), range(len(rows))):  # a column may be missing in the first rows
            there = dict.fromkeys(list_names(rows, some))
            absent = [column for column in self.columns if column not in there]
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

    def _find_texts(self, split: str, rows: Sequence[Row], groups: Groups, tell: Tell) -> dict[bytes, UniqueText]:
        """Find the different texts of the rows, by digest; texts with contradicting rows are left out.

        The texts are not kept in memory: the table may be much larger than the drawn sample.
        """
        self._require_columns(rows)
        of = f"{self.name} {split}".strip()
        found: dict[bytes, UniqueText] = {}
        skipped: dict[str, list[str]] = defaultdict(list)
        repeated, joined, contradicted, grouped = 0, 0, set(), 0
        for i, row in enumerate(rows):
            try:
                record = self.read_record(row)
            except ValueError as error:
                raise ValueError(f"{error} (row {self._name_row(split, i)})") from None
            if isinstance(record, str):
                skipped[record].append(self._name_row(split, i))
                continue
            for shared in name_groups(row, self._group or {}):
                groups.join(record.group, shared)
                grouped += 1
            key = blake2b(record.content.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            gives = hash((record.answers, record.label))
            held = found.setdefault(key, UniqueText([], record.group, gives))
            held.times += 1
            if held.times == 1:
                held.rows.append(i)
            elif held.gives == gives:
                repeated += 1
            elif record.options or record.label is not None:
                contradicted.add(key)
            else:
                joined += 1
                held.rows.append(i)
        for reason, ids in skipped.items():
            more = f" and {len(ids) - LISTED} more" if len(ids) > LISTED else ""
            tell(f"{of}: skipped {len(ids)} of {len(rows)} rows with {reason}: {', '.join(ids[:LISTED])}{more}")
        if self._group and not grouped:
            tell(f"{of}: dataset.group joins no rows: none has a value, or a match, of {', '.join(self._group)}")
        if repeated:
            tell(f"{of}: dropped {repeated} of {len(rows)} rows that repeat another")
        if contradicted:
            tell(f"{of}: left out {len(contradicted)} texts whose rows contradict each other")
        if joined:
            tell(f"{of}: {joined} rows give further gold answers to a question asked before; each is accepted")
        return {key: unique for key, unique in found.items() if key not in contradicted}

    def _drop_tested(
        self, train: dict[bytes, UniqueText], test: dict[bytes, UniqueText], groups: Groups, tell: Tell
    ) -> dict[bytes, UniqueText]:
        """Return the train part without the questions that share a group with the test part."""
        tested = {groups.find(unique.group) for unique in test.values()}
        kept = {key: unique for key, unique in train.items() if groups.find(unique.group) not in tested}
        if len(kept) < len(train):
            again = sum(unique.times for key, unique in test.items() if key in train)
            rows = sum(unique.times for unique in test.values())
            shared = [f"match of {one!r} in {text}" if one else text for text, one in (self._group or {}).items()]
            same = f"or of the same {' or '.join(shared)}, " if shared else ""
            tell(
                f"{self.name}: {again} of {rows} test rows also occur in train letter by letter; "
                f"{len(train) - len(kept)} train questions that are also in test, apart from case and punctuation, "
                f"{same}are left out"
            )
        return kept

    def _draw(self, split: str, unique: list[UniqueText], tell: Tell) -> list[UniqueText]:
        if self.limit is None or self.limit == len(unique):
            return unique
        if self.limit > len(unique):
            of = f"{self.name} {split}".strip()
            tell(f"{of}: dataset.limit={self.limit}, but there are {len(unique)}; all are taken")
            return unique
        return random.Random(self.seed).sample(unique, self.limit)

    def _build_question(
        self, split: str, rows: Sequence[Row] | Mapping[int, Row], unique: UniqueText, groups: Groups
    ) -> Question:
        """The question of one text, with the gold answers of all its rows."""
        records = [record for i in unique.rows if isinstance(record := self.read_record(rows[i]), Question)]
        golds = dict.fromkeys(gold for record in records for gold in record.answers)
        name, group = self._name_row(split, unique.rows[0]), groups.find(unique.group)
        return replace(records[0], id=name, split=split, group=group, answers=tuple(golds))

    def _name_row(self, split: str, row: int) -> str:
        return "-".join(filter(None, (self.name, split, f"{row:05d}")))


def _are_labels(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(word, str) and are_texts(more or []) for word, more in value.items()
    )


def _read_number(text: str) -> int:
    """The number of an option; pandas writes 1.0 for 1 where a column has gaps."""
    return int(text.partition(".")[0]) if re.fullmatch(r"\d+(\.0+)?", text) else -1
