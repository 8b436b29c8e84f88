"""The command `experiment=score`: scores new answers by the probes of a run, into files and a page."""

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from datamodules.card import TargetCard
from probes.report.console import PlainConsole
from probes.report.whole_file import whole_file
from probes.scoring.score_report import Outcome, describe_outcome, draw_outcome, print_outcome
from probes.scoring.scored_answer import COLUMNS, ScoredAnswer
from probes.scoring.scored_page import SHOWN, write_page
from probes.scoring.scorer import Scorer
from probes.scoring.wording import LABEL_SETS
from probes.settings import Cell, Count, FinishedRun, Folder, Rate, Text

BATCH = 256  # answers between two lines of progress
FILES = "scores.jsonl", "scores.csv", "score.html", "score.json"
OWN = ("run", "dataset", "rule", "score", "model", "site", "cache", "folder", "allow_targets", "experiment")
OWN += ("hydra", "report")
log = logging.getLogger(__name__)


def score_answers(
    run: FinishedRun,
    folder: Folder,
    dataset: Any,
    rule: Any,
    model: Any = None,
    site: Text | None = None,
    fpr: Rate = 0.05,
    cells: Count = 1,
    cell: Cell = None,
    target: Text | None = None,
    max_new_tokens: Count | None = None,
    allow_targets: Sequence[Text] = (),
) -> None:
    """Answer the questions of a set with the model of a run, or take their given answers, and score the answers.

    Writes scores.csv, scores.jsonl with the tokens, score.html and score.json. They appear together at the end: an
    interrupted command leaves none of them, and may be given again.

    Args:
        run: folder of the run.
        folder: where the files go; made if missing.
        dataset: the set.
        rule: says which answers are right, where there are gold answers.
        model: counts if the command line names one; it must read texts as that of the run does.
        site: likewise.
        fpr: share of wrong answers that may be called right.
        cells: how many of the best cells judge together.
        cell: layer and position of the one that judges; by default the best on validation rows.
        target: name of the label set, the first by default.
        max_new_tokens: longest answer; that of the run by default.
        allow_targets: see `allow_targets` of a run.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: another model, site, prompt or kind of set than that of the run; names what differs.

    Example:
        >>> score_answers("outputs/latest", "outputs/scored", dataset, TextRule(judge_by_gold))  # doctest: +SKIP
    """
    named, changes = read_overrides()
    scorer = Scorer.load(
        run,
        model if named else None,
        fpr=fpr,
        cells=cells,
        cell=None if cell is None else (int(cell[0]), str(cell[1])),
        target=target,
        max_new_tokens=max_new_tokens,
        overrides=() if named else changes,
        allow_targets=allow_targets,
    )
    card, target = scorer.probes.card, find_target(scorer).label
    if site is not None and site != card.site and _was_given("site"):
        raise ValueError(f"site: expected {card.site}, where the probes of the run read, got {site}; leave it out")
    if dataset.stated != scorer.parts.stated:
        kinds = ("questions", "statements")
        raise ValueError(
            f"dataset: expected {kinds[scorer.parts.stated]}, as those of the run, got {dataset.name}, a set of "
            f"{kinds[dataset.stated]}; choose another set or run"
        )
    dataset.fetch()
    questions = dataset.ungraded().load(log.info)
    if not all(map(scorer.parts.can_locate, questions)):
        scorer = scorer.without_exact_answers()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    known = set(scorer.parts.examples["question"])
    seen = sum(one.text in known for one in questions)
    outcome = Outcome(str(run), card, dataset.name, [way.ensemble for way in scorer.ways], seen, target)
    lines: list[int] = []  # where each record begins in scores.jsonl
    with ExitStack() as files:  # which appear together, once all is known
        of_records, of_table, of_page, of_outcome = (files.enter_context(whole_file(folder / name)) for name in FILES)
        records = files.enter_context(of_records.open("wb"))
        table = files.enter_context(of_table.open("w", encoding="utf-8", newline=""))
        writer = csv.writer(table)
        writer.writerow(COLUMNS)
        for start in range(0, len(questions), BATCH):
            for group, one in score_batch(scorer, questions[start : start + BATCH], rule):
                lines.append(records.tell())
                records.write(json.dumps(one.to_json(), ensure_ascii=False, allow_nan=False).encode() + b"\n")
                writer.writerow(one.to_row())
                outcome.add(one, group)
            if len(questions) > BATCH:
                log.info(f"score: {min(start + BATCH, len(questions)):,} of {len(questions):,} answers")
        if not lines:
            raise ValueError(describe_misfit(scorer, questions))
        records.close()
        table.close()
        order = outcome.rank()
        order = order[:: -(-len(order) // SHOWN)]
        about, figures = describe_outcome(outcome), draw_outcome(outcome)
        with of_page.open("w", encoding="utf-8") as page:
            shown = read_lines(of_records, [lines[i] for i in order])
            page.writelines(write_page(about, figures, shown, outcome.wording))
        of_outcome.write_text(json.dumps(outcome.to_json(), indent=2, allow_nan=False) + "\n", "utf-8")
    console = PlainConsole()
    print_outcome(console, outcome)
    for name in sorted(FILES[:3]):
        console.print(str(folder / name), soft_wrap=True)


def score_batch(scorer: Scorer, questions: Sequence[Any], rule: Any) -> Iterator[tuple[str, ScoredAnswer]]:
    """Score the answers to those questions that fit into the context; yields each with the group of its question."""
    tapped = scorer.tapped
    if has_given_answers(scorer, questions):
        given = tapped.state([one.text for one in questions]) if scorer.parts.stated else tapped.give(questions)
        questions, given = keep_fitting(tapped, questions, given, list(map(tapped.join, given)), room=0)
        found = scorer.judge(questions, given, tapped.read(given)) if questions else []
    else:
        prompts = tapped.encode([one.text for one in questions])
        questions, prompts = keep_fitting(tapped, questions, prompts, prompts, room=None)
        found = scorer.answer(questions) if questions else []
    labels = find_labels(scorer, questions, [one.answer for one in found], rule)
    for question, one, label in zip(questions, found, labels, strict=True):
        yield question.group, replace(one, label=label)


def has_given_answers(scorer: Scorer, questions: Sequence[Any]) -> bool:
    """Whether a set has statements or responses, so that the model writes no answers."""
    return scorer.parts.stated or questions[0].response is not None


def describe_misfit(scorer: Scorer, questions: Sequence[Any]) -> str:
    """Why no text of a set fits into the context of the model, and what would."""
    tapped = scorer.tapped
    context = tapped.running.context
    if has_given_answers(scorer, questions):
        return (
            f"dataset: expected texts that fit into the context of the model, {context:,} tokens, got none; take "
            "shorter ones"
        )
    prompts = tapped.encode([one.text for one in questions])
    room = max(context - len(prompt) - tapped.model.thinking_tokens for prompt in prompts)
    return (
        f"score.max_new_tokens: expected at most {room:,}, which the shortest question leaves of the context of the "
        f"model, {context:,} tokens, got {tapped.model.max_new_tokens:,}; lower it, or take shorter questions"
        if room > 0
        else f"dataset: expected questions that leave room for an answer in the context of the model, {context:,} "
        "tokens, got none; take shorter ones"
    )


def find_target(scorer: Scorer) -> TargetCard:
    """The label set that the cells tell apart."""
    name = scorer.ways[0].ensemble.cells[0].target
    return next(one for one in scorer.probes.card.targets if one.name == name)


def find_labels(scorer: Scorer, questions: Sequence[Any], answers: Sequence[str], rule: Any) -> list[bool | None]:
    """What the set says of N answers: whether they are right, or of the class that the cells tell apart.

    Returns:
        [N] labels, None where the set does not say.
    """
    if (own := find_target(scorer).label) not in LABEL_SETS:
        return [one.target == own if one.target else None for one in questions]
    labels = [None if one.label is None else bool(one.label) for one in questions]
    if open_ := [i for i, one in enumerate(questions) if one.label is None and one.answers]:
        verdicts = rule([questions[i] for i in open_], [answers[i] for i in open_], scorer.ask)
        for i, verdict in zip(open_, verdicts, strict=True):
            labels[i] = bool(verdict.right)
    return labels


def keep_fitting(tapped: Any, questions: Sequence[Any], parts: list[Any], ids: list[Any], room: int | None) -> Any:
    """Keep the questions, and their parts, whose token ids leave room in the context of the model; tell the others."""
    fits = [tapped.fits(one, room) for one in ids]
    if names := [one.id for one, there in zip(questions, fits, strict=True) if not there]:
        answer = f" with an answer of {tapped.model.token_limit:,} tokens" if room is None else ""
        listed = f"{', '.join(names[:20])}{', ...' * (len(names) > 20)}"
        log.info(f"score: {len(names)} texts are too long for the context{answer} and left out: {listed}")
    return list(compress(questions, fits)), list(compress(parts, fits))


def read_overrides() -> tuple[bool, list[str]]:
    """Whether the command line names a model, and the settings of the run's model that it changes.

    Raises:
        ValueError: it changes what the run has settled.
    """
    given = [one.lstrip("+~") for one in HydraConfig.get().overrides.task] if HydraConfig.initialized() else []
    for one in given:
        if (top := one.partition("=")[0].partition(".")[0].partition("@")[0]) not in OWN:
            raise ValueError(f"{top}: expected as the run had it, got {one}; leave it out of experiment=score")
    return any(one.startswith("model=") for one in given), [one for one in given if one.startswith("model.")]


def read_lines(path: Path, places: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Records of a JSON lines file, by where they begin; one at a time, as there may be many."""
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            yield json.loads(file.readline())


def _was_given(group: str) -> bool:
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return any(one.lstrip("+~").startswith((f"{group}=", f"{group}.")) for one in given)
