"""What a scorer takes: questions, answers, a rate and a device, each refused in one line where it is another thing."""

from collections.abc import Iterable
from typing import Any

import torch


def read_questions(questions: Any, record: type[Any]) -> list[Any]:
    """N questions as records; texts are numbered.

    Args:
        questions: texts and records.
        record: class of the records, `Question`.

    Raises:
        ValueError: one text instead of a list, an item that is neither, a text without words, or one that UTF-8
            cannot hold.

    >>> read_questions(["Where is Oslo?"], Question)[0].id  # doctest: +SKIP
    'q0'
    """
    items = _read_list(questions, "questions")
    found = [record(f"q{i}", f"q{i}", one, ()) if isinstance(one, str) else one for i, one in enumerate(items)]
    for i, one in enumerate(found):
        if not isinstance(one, record):
            raise ValueError(
                f"questions: expected texts or Question records, got {one!r:.60} at index {i}; write a text"
            )
        if isinstance(one.text, str):  # a chat is a list of turns
            _require_unicode(one.text, f"questions: index {i}")
            if not one.text.strip():
                raise ValueError(
                    f"questions: expected words, got {one.text!r:.60} at index {i}; leave empty questions out"
                )
    return found


def read_answers(answers: Any, n: int, special: Iterable[str]) -> list[str]:
    """N answers, none of them empty.

    Args:
        answers: what was given.
        n: how many questions they answer.
        special: texts of the tokenizer's special tokens, which are no words of an answer.

    Raises:
        ValueError: another number of them, an item that is no text, one without words, one that UTF-8 cannot hold.

    >>> read_answers(["Norway.</s>"], 1, ["</s>"])
    ['Norway.</s>']
    """
    items = _read_list(answers, "answers")
    if len(items) != n:
        raise ValueError(f"answers: expected one for each of {n} questions, got {len(items)}; give as many")
    for i, one in enumerate(items):
        if not isinstance(one, str):
            raise ValueError(f"answers: expected texts, got {one!r:.60} at index {i}; write a text")
        _require_unicode(one, f"answers: index {i}")
        words = one
        for token in special:
            words = words.replace(token, "")
        if not words.strip():
            raise ValueError(f"answers: expected words, got {one!r:.60} at index {i}; leave empty answers out")
    return items


def require_rate(fpr: Any) -> None:
    """Refuse a false-alarm rate that is no number between 0 and 1.

    Raises:
        ValueError: it is none.
    """
    if isinstance(fpr, bool) or not isinstance(fpr, int | float) or not 0 < fpr < 1:
        raise ValueError(f"fpr: expected a rate between 0 and 1, got {fpr!r}; choose one, as 0.05")


def require_one_choice(cell: Any, cells: Any) -> None:
    """Refuse a cell that was asked for beside a number of the best ones.

    Raises:
        ValueError: there are both.
    """
    if cell is not None and cells != 1:
        raise ValueError(f"cells: expected 1 beside a cell that is named, got {cells!r}; leave one of the two out")


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of this name; by default cuda where there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        found = torch.device(device or ("cuda" if there else "cpu"))
    except (RuntimeError, TypeError):
        raise ValueError(f"device: expected a name such as cpu or cuda:0, got {device!r}; correct it") from None
    if found.type == "cuda" and (found.index or 0) >= there:
        raise ValueError(f"device: expected one of {there} GPUs, got {found}; leave device out, or take cpu")
    return found


def _read_list(given: Any, what: str) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{what}: expected a list, got {given!r:.60}; put it into [ ]")
    return list(given)


def _require_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where}: expected a text that UTF-8 can hold, got half of a surrogate pair in {text!r:.60}; remove it"
        ) from None
