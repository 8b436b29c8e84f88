"""Question records, and how rows of a table become them."""

import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from datamodules.words import fold, group_key

log = logging.getLogger(__name__)

LISTED = 20  # rows named in a line
Tell = Callable[[str], None]  # takes a line for people


@dataclass(frozen=True)
class Question:
    """One question with its gold answer, or one statement with its label.

    Attributes:
        id: unique within its set.
        group: questions of one group (one person, one question asked twice) never stand on two sides of a split.
        text: what the model is asked, context included; or the statement.
        answers: gold answer and its aliases; any of them makes an answer right.
        kind: relation or category, for tables of accuracy by kind.
        pattern: regular expression whose first match in an answer is its exact answer, right or wrong; empty: none.
        options: what the question lets one choose from, the gold answer among them, each with its spellings, of which
            the first names it; empty: none.
        split: `train` or `test` where the set has both; empty: to be dealt.
        label: given with a statement; None: to be found out.
    """

    id: str
    group: str
    text: str
    answers: tuple[str, ...]
    kind: str = ""
    pattern: str = ""
    options: tuple[tuple[str, ...], ...] = ()
    split: str = ""
    label: bool | None = None


class QuestionSet:
    """A named set of questions, or of statements with labels.

    Attributes:
        name: shown to people.
        stated: whether the texts are statements with labels, so that no model answers.
    """

    name: str
    stated = False

    def fetch(self) -> None:
        """Download what is remote."""

    def identity(self) -> dict[str, Any]:
        """What of the set, beside its texts, the content of the cache depends on."""
        return {}

    def about(self) -> dict[str, Any]:
        """What else the cache's manifest says of the set, for people."""
        return {"dataset": self.name}

    def check_unmoved(self, cache_root: str) -> None:
        """Refuse a source that has changed under the same name since answers to it were cached."""

    def load(self, tell: Tell = log.info) -> list[Question]:
        """Return the questions; tells what was left out."""
        raise NotImplementedError


@dataclass(kw_only=True)
class RowQuestions(QuestionSet):
    """Questions from rows of a table, one a row; children give the rows.

    Where `rows` has a test part, its questions are the test split, and train questions that also stand there, case and
    punctuation folded, are left out.

    Attributes:
        question: column with the question, or a text with columns in braces: `{sentence} Who is "{pronoun}"?`. Dots
            lead into nested columns: `answer.aliases`.
        answer: column with the gold answer, or with a list of it and its aliases. With `first_option`, the number of
            an option.
        context: column whose text stands before the question; lists become lines.
        options: columns with what the question lets one choose from.
        labels: label words with their spellings, where every question lets one choose from the same:
            `{positive: [positive], negative: [negative]}`.
        first_option: number that `answer` gives to the first of `options` or `labels`; null where it gives words.
        group: column whose equal values stay on one side of a split; by default questions that differ in case,
            punctuation and blanks only do.
        pattern: regular expression whose first match in an answer is its exact answer, for `spans=rule`.
        limit: keep this many questions, of train and of test each, drawn at random; all by default.
        seed: of the draw.
        name: shown to people.
    """

    question: str = "question"
    answer: str = "answer"
    context: str | None = None
    options: Sequence[str] = ()
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    first_option: int | None = None
    group: str | None = None
    pattern: str = ""
    limit: int | None = None
    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise ValueError(f"dataset.limit: expected a number of questions above 0, got {self.limit}")
        if isinstance(self.options, str) or not isinstance(self.labels, Mapping):
            raise ValueError(
                "dataset: expected a list of columns in options and spellings by label word in labels, got "
                f"{self.options!r} and {self.labels!r}; write options=[a,b] or labels={{a:[],b:[]}}"
            )
        if self.options and self.labels:
            raise ValueError("dataset: expected options or labels, got both; leave one empty")
        try:
            re.compile(str(self.pattern))
        except re.error as error:
            raise ValueError(f"dataset.pattern: expected a regular expression, got {self.pattern!r}: {error}") from None

    def rows(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """Return the rows, as `train` and `test`, or all of them under the empty name."""
        raise NotImplementedError

    @property
    def columns(self) -> list[str]:
        """Columns that are read."""
        named = [*_fields(self.question), self.answer, self.context, *self.options, self.group]
        return list(dict.fromkeys(column for column in named if column))

    def load(self, tell: Tell = log.info) -> list[Question]:
        """Read the questions; tells what was left out.

        Raises:
            ValueError: rows cannot be read, or none is left.
        """
        parts: dict[str, list[Question]] = {}
        asked: dict[str, Counter[str]] = {}  # rows of each text
        for split, rows in self.rows().items():
            self._require_columns(rows)
            parts[split], asked[split] = self._distinct(split, rows, tell)
        if "test" in parts:
            test = {question.group for question in parts["test"]}
            kept = [question for question in parts["train"] if question.group not in test]
            if len(kept) < len(parts["train"]):
                again = sum(n for text, n in asked["test"].items() if text in asked["train"])
                tell(
                    f"{self.name}: {again} of {asked['test'].total()} test rows also stand in train letter by letter; "
                    f"{len(parts['train']) - len(kept)} train questions that test asks too, case and punctuation "
                    "folded, are left out"
                )
            parts["train"] = kept
        drawn = [question for split, part in parts.items() for question in self._draw(split, part, tell)]
        if not drawn:
            raise ValueError(f"dataset: expected rows with a question and an answer, got none in {self.name}")
        return drawn

    def record(self, row: Mapping[str, Any]) -> Question | str:
        """Turn one row into a question with no id and split yet, or say why it cannot be one."""
        text = self.filled(row)
        if not text:
            return "no question"
        context = as_text(self.value(row, self.context)).strip() if self.context else ""
        choice = tuple((word, *_texts(more)) for word, more in self.labels.items())
        choice = choice or tuple((as_text(self.value(row, column)).strip(),) for column in self.options)
        golds = _texts(self.value(row, self.answer))
        if self.first_option is not None:
            golds = [choice[i][0] for gold in golds if 0 <= (i := _number(gold) - self.first_option) < len(choice)]
        if not golds:
            return "no gold answer"
        if choice:
            spellings = [{" ".join(fold(word).counted) for word in option} for option in choice]
            if len(set().union(*spellings)) < sum(map(len, spellings)):
                return "options equal to each other"
            golds = [
                option[0] for option in choice if {gold.casefold() for gold in golds} & set(map(str.casefold, option))
            ]
            if len(golds) != 1:
                return "a gold answer that is none of the options"
        group = as_text(self.value(row, self.group)).strip() if self.group else ""
        return Question(
            id="",
            group=group or group_key(text),
            text=f"{context}\n{text}" if context else text,
            answers=tuple(golds),
            pattern=str(self.pattern),
            options=tuple(tuple(dict.fromkeys(option)) for option in choice),
        )

    def filled(self, row: Mapping[str, Any]) -> str:
        """The question of a row; empty where all its columns are."""
        columns = _fields(self.question)
        cells = {column: as_text(self.value(row, column)) for column in columns}
        if "{" not in self.question or not any(map(str.strip, cells.values())):
            return cells[columns[0]].strip()
        return re.sub(r"\{([^{}]+)\}", lambda match: cells[match[1]], self.question).strip()

    @staticmethod
    def value(row: Mapping[str, Any], column: str) -> Any:
        """A cell; dots lead into nested ones, where no column has them in its name."""
        if column in row:
            return row[column]
        value: Any = row
        for key in column.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return None
            value = value[key]
        return value

    def _require_columns(self, rows: Sequence[Mapping[str, Any]]) -> None:
        there = list(dict.fromkeys(key for row in rows[:100] for key in row))
        absent = [column for column in self.columns if column not in there and column.split(".")[0] not in there]
        if absent and rows:
            raise ValueError(
                f"dataset: expected column {', '.join(absent)} in {self.name}, got {', '.join(map(str, there))}; "
                "set dataset.question, dataset.answer, or whichever names it"
            )

    def _distinct(
        self, split: str, rows: Sequence[Mapping[str, Any]], tell: Tell
    ) -> tuple[list[Question], Counter[str]]:
        """Questions of the rows, each text once: with all its gold answers, or left out where options contradict.

        Also gives the number of rows of each text.
        """
        of = f"{self.name} {split}".strip()
        merged: dict[str, Question] = {}
        skipped: dict[str, list[str]] = defaultdict(list)
        asked: Counter[str] = Counter()
        repeated, joined, contradicted = 0, 0, set()
        for i, row in enumerate(rows):
            record = self.record(row)
            name = "-".join(filter(None, (self.name, split, f"{i:05d}")))
            if isinstance(record, str):
                skipped[record].append(name)
                continue
            asked[record.text] += 1
            held = merged.get(record.text)
            if held is None:
                merged[record.text] = replace(record, id=name, split=split)
            elif (held.answers, held.label) == (record.answers, record.label):
                repeated += 1
            elif record.options or record.label is not None:
                contradicted.add(record.text)
            else:
                joined += 1
                both = tuple(dict.fromkeys(held.answers + record.answers))
                merged[record.text] = replace(held, answers=both)
        for reason, names in skipped.items():
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            tell(f"{of}: skipped {len(names)} of {len(rows)} rows with {reason}: {', '.join(names[:LISTED])}{more}")
        if repeated:
            tell(f"{of}: dropped {repeated} of {len(rows)} rows that repeat another")
        if contradicted:
            tell(f"{of}: left out {len(contradicted)} texts whose rows contradict each other")
        if joined:
            tell(f"{of}: {joined} rows give further gold answers to a question asked before; each is accepted")
        return [question for text, question in merged.items() if text not in contradicted], asked

    def _draw(self, split: str, questions: list[Question], tell: Tell) -> list[Question]:
        if self.limit is None or self.limit == len(questions):
            return questions
        if self.limit > len(questions):
            of = f"{self.name} {split}".strip()
            tell(f"{of}: dataset.limit={self.limit}, but there are {len(questions)}; all are taken")
            return questions
        return random.Random(self.seed).sample(questions, self.limit)


def as_text(value: Any) -> str:
    """A cell as text; a list becomes lines, a list within it one of them."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, list | tuple):
        return "\n".join(
            " ".join(as_text(part).strip() for part in one) if isinstance(one, list | tuple) else as_text(one)
            for one in value
        )
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _texts(value: Any) -> list[str]:
    """The texts of a cell that holds one or a list of them, without empty ones and repetitions."""
    several = value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(text for one in several if (text := as_text(one).strip())))


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"-?\d+", text) else -1


def _fields(template: str) -> list[str]:
    """Columns that a template names, or the one that it is."""
    return re.findall(r"\{([^{}]+)\}", template) or [template]
