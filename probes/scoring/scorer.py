"""Scores new answers with the probes of a run: the one file that brings a language model and probes together."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.labels.spans import prepare_for_replies
from datamodules.language.generation import Answer
from datamodules.language.identity import require_reading
from datamodules.language.kept_model import KeptModel
from datamodules.language.language_model import LanguageModel
from datamodules.language.loaded_model import split_loaded
from datamodules.language.positions import Positions
from datamodules.language.tapped_model import TappedModel, Taps, reads_prompt
from datamodules.language.token_taps import TokenScores
from datamodules.language.tokens import cut_text, find_tokens
from datamodules.language.turns import find_turns
from datamodules.questions.question import Question
from probes.python.linear_probes import LinearProbes
from probes.report.run_folder import find_folder
from probes.scoring.arguments import find_device, read_answers, read_questions, require_one_choice, require_rate
from probes.scoring.ensemble import Ensemble, Way, choose_ensembles, fit_cell, require_own_scores
from probes.scoring.recorded import choose_recorded
from probes.scoring.run_parts import RunParts, limit_answers, read_parts
from probes.scoring.running_score import RunningScore
from probes.scoring.scored_answer import ScoredAnswer

CHECKED = 4  # recorded examples that are read again
SAME = 0.2  # standard deviations of the scores: another batch or device moves them by less, other weights by more


class Scorer:
    """Scores answers by a run's probes on the run's model. `load` makes one.

    The cells are chosen on validation rows. Where they read the exact answer, and it is not found, or only gold answers
    could find it, the best cells that need none judge instead; `cell` of a record says which did.

    Attributes:
        probes, parts: of the run.
        tapped: the model with the probes on it.
        ways: how answers are judged, the first where it can.

    Example:
        >>> scorer = Scorer.load("outputs/latest")  # doctest: +SKIP
        >>> scorer("In which country is Oslo?", "Norway.").probability  # doctest: +SKIP
        0.93
        >>> [one.answer for one in scorer.answer(["In which country is Oslo?"])]  # doctest: +SKIP
        ['Oslo is in Norway.']
    """

    def __init__(
        self, probes: LinearProbes, parts: RunParts, running: KeptModel, ensembles: Sequence[Ensemble]
    ) -> None:
        self.probes, self.parts = probes, parts
        self.positions: Positions = parts.build("positions")
        rules = {rule.name: rule for rule in self.positions.rules}
        if missing := [name for name in probes.card.positions if name not in rules]:
            raise ValueError(
                f"run: expected a rule for every position of its probes, got none for {', '.join(missing)}; the files "
                "are of different runs"
            )
        cells = {(one.layer, one.position): one for ensemble in ensembles for one in ensemble.cells}
        keys = list(cells)
        self.ways = [Way(one, [keys.index((cell.layer, cell.position)) for cell in one.cells]) for one in ensembles]
        self._exact = [any(rules[cell.position].of == "exact_answer" for cell in one.cells) for one in ensembles]
        whole = self.positions.into_prompt or any(reads_prompt(rules[position]) for _, position in keys)
        weight, bias = torch.stack([one.weight for one in cells.values()]), [one.bias for one in cells.values()]
        taps = Taps(probes.card.site, [layer for layer, _ in keys], weight, torch.tensor(bias), whole)
        self.tapped = TappedModel(running, taps)

    @classmethod
    def load(
        cls,
        run: str | Path,
        model: Any = None,
        tokenizer: Any = None,
        *,
        device: str | None = None,
        cell: tuple[int, str] | None = None,
        cells: int = 1,
        fpr: float = 0.05,
        target: str | None = None,
        max_new_tokens: int | None = None,
        overrides: Sequence[str] = (),
        allow_targets: Sequence[str] = (),
    ) -> "Scorer":
        """Make a scorer from a run folder.

        A model that differs from that of the run is refused. A loaded model, and that of a run which does not record
        what it was read with, is held against recorded prompts and scores: it reads a few examples again.

        Args:
            run: the folder.
            model: a `LanguageModel`; or a loaded one, of `load_model` or transformers; by default that of the run.
            tokenizer: of a model of transformers.
            device: where it runs, such as `cuda`; by default there where one is, else `cpu`.
            cell: layer and position of the probe; by default the best on validation rows.
            cells: how many of the best cells judge together.
            fpr: share of wrong answers that may be called right.
            target: name of the label set, the first by default.
            max_new_tokens: longest answer; that of the run by default.
            overrides: changes of the run's model settings, such as `model.batch_size=8`.
            allow_targets: classes of your own that the run's configuration may name, see `allow_targets` of a run.

        Raises:
            FileNotFoundError: there is no such run.
            ValueError: the run has no language model, no validation scores, no such cell, or probes fitted with
                probe.offset; no cell tells right from wrong; there is no such device; the model, revision, dtype,
                tokenizer or prompt differs from that of the run: the message names what differs.
        """
        loaded, tokenizer = split_loaded(model, tokenizer)
        require_rate(fpr)
        require_one_choice(cell, cells)
        where, folder = find_device(device), find_folder(run)
        probes = LinearProbes.load(folder)
        require_own_scores(probes)
        parts = read_parts(folder, probes.card, overrides, allow_targets, loaded is not None)
        settings = model if model is not None and loaded is None else parts.build("model")
        if not isinstance(settings, LanguageModel):
            raise ValueError(f"model: expected a LanguageModel or a model of transformers, got {settings!r}")
        settings = limit_answers(settings, max_new_tokens)
        running = KeptModel(settings, where, not parts.stated, loaded, tokenizer, parts.digests)
        dtype = None if loaded is None else str(loaded.dtype).removeprefix("torch.")
        require_reading(probes.card, settings, running.tokenizer, parts.stated, parts.digests, dtype)
        rules = parts.build("positions").rules
        if cell is not None:
            ensembles = [fit_cell(probes, cell, fpr, target, {rule.name for rule in rules if rule.at == "max"})]
        else:
            ensembles = choose_ensembles(probes, cells, fpr, target, rules, parts.finds_exact_answers)
        scorer = cls(probes, parts, running, ensembles)
        if loaded is not None or not probes.card.identity:
            scorer.require_same_scores()
        return scorer

    @property
    def network(self) -> Any:
        """The loaded model."""
        return self.tapped.running.network

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.tapped.tokenizer

    def __call__(self, question: str | Question, answer: str | None = None) -> ScoredAnswer:
        """Score one answer, read in one forward; or one statement, where the run was of statements."""
        if self.parts.stated and answer is not None:
            raise ValueError("scorer: expected a statement alone, as those of the run, got an answer beside it")
        if not self.parts.stated and answer is None:
            raise ValueError("scorer: expected a question and its answer, got one text; scorer.answer([text]) answers")
        return self.score([question], None if answer is None else [answer])[0]

    def score(self, questions: Sequence[Question | str], answers: Sequence[str] | None = None) -> list[ScoredAnswer]:
        """Score answers to N questions; their responses, or N statements, where `answers` is None."""
        asked = read_questions(questions, Question)
        if answers is not None:
            texts = read_answers(answers, len(asked), self.tokenizer.all_special_tokens)
            given = [self.tapped.write_as_model(one, self.parts.begins_blank) for one in texts]
            asked = [replace(one, response=response) for one, response in zip(asked, given, strict=True)]
        if not asked:
            return []
        found = self.tapped.state([one.text for one in asked]) if self.parts.stated else self.tapped.give(asked)
        return self.judge(asked, found, self.tapped.read(found))

    def answer(self, questions: Sequence[Question | str]) -> list[ScoredAnswer]:
        """Answer N questions greedily, as the run did, and score the answers in the same pass."""
        if self.parts.stated:
            raise ValueError("scorer.answer: expected a run of questions, got one of statements; call scorer(text)")
        asked = read_questions(questions, Question)
        if not asked:
            return []
        written = self.tapped.answer(self.tapped.encode([one.text for one in asked]))
        return self.judge(asked, [answer for answer, _ in written], [scores for _, scores in written])

    def hook(
        self, stop_below: float | None = None, at_least: int = 1, on_token: Callable[[Tensor], object] | None = None
    ) -> RunningScore:
        """The running score while `scorer.network.generate` writes, see `RunningScore`."""
        way, ends = self.ways[0], {*self.tapped.model.find_stop_ids(self.tokenizer)}
        own: Any = self.network.generation_config.eos_token_id
        ends |= {*(own if isinstance(own, list) else [] if own is None else [own])}
        return RunningScore(self.tapped.tap, way.ensemble, way.columns, ends, stop_below, at_least, on_token)

    def without_exact_answers(self) -> "Scorer":
        """The same scorer without the cells that read the exact answer, if it has others."""
        other = copy(self)
        if not all(self._exact):
            other.ways = [way for way, exact in zip(self.ways, self._exact, strict=True) if not exact]
            other._exact = [False] * len(other.ways)
        return other

    def ask(self, ids: Sequence[str], texts: Sequence[str], model: LanguageModel | None) -> list[str]:
        """Short replies of this model, for span finders and rules that ask one."""
        if model is not None:
            raise ValueError(
                f"score: expected a rule and spans that ask no other model, got {model.name}; set rule=gold"
            )
        return self.tapped.reply(texts, prepare_for_replies(self.tapped.model))

    def judge(
        self, questions: Sequence[Question], answers: Sequence[Answer], tokens: Sequence[TokenScores]
    ) -> list[ScoredAnswer]:
        """Turn N answers with the scores of their tokens into records."""
        can = all(map(self.parts.can_locate, questions))
        ways = [way for way, exact in zip(self.ways, self._exact, strict=True) if can or not exact]
        if not ways:
            raise ValueError(
                f"cell: expected questions whose exact answers are found without gold answers, for "
                f"{self.ways[0].ensemble.name}, got {questions[0].id} without a pattern or options; leave cell out, or "
                "give Question records"
            )
        texts = [answer.text for answer in answers]
        spans: list[tuple[int, int] | None] = [None] * len(texts)
        if can and any(self._exact):
            found = self.parts.build("spans")(questions, texts, [False] * len(texts), self.ask)
            spans = [one.characters for one in found]
        places = [
            find_tokens(self.tokenizer, answer.answer_ids, span) if span else None
            for answer, span in zip(answers, spans, strict=True)
        ]
        ids = [[getattr(answer, name) for answer in answers] for name in ("prompt_ids", "answer_ids", "thought_ids")]
        turns = find_turns(self.tapped.model, self.tokenizer, questions, ids[0]) if self.positions.need_turns else None
        at, valid = self.positions.resolve(self.tokenizer, ids[0], ids[1], places, ids[2], turns)
        columns = dict(zip(self.positions.names, self.positions.columns, strict=True))
        records = []
        for i, (question, answer, scores) in enumerate(zip(questions, answers, tokens, strict=True)):
            there = {name: tuple(at[i, t].tolist()) for name, t in columns.items() if valid[i, t]}
            said = answer.text[slice(*spans[i])] if spans[i] else None  # type: ignore[misc]
            records.append(self._record(question, answer, said, scores, there, ways))
        return records

    def _record(
        self,
        question: Question,
        answer: Answer,
        said: str | None,
        tokens: TokenScores,
        there: dict[str, tuple[int, int]],
        ways: Sequence[Way],
    ) -> ScoredAnswer:
        way = next((one for one in ways if all(cell.position in there for cell in one.ensemble.cells)), None)
        score = None if way is None else way.ensemble.combine(way.gather(tokens, there))
        way = way or ways[0]
        answered, first = len(answer.prompt_ids) + len(answer.thought_ids), way.ensemble.cells[0].position
        running = way.ensemble.combine(tokens.scores[answered - tokens.start :, way.columns])
        if not running.isfinite().all():
            raise ValueError(
                f"score: expected finite activations, got others in the answer to {question.id}; "
                "set model.dtype=float32"
            )
        calibration, threshold = way.ensemble.calibration, way.ensemble.threshold.value
        return ScoredAnswer(
            id=question.id,
            question="" if self.parts.stated else question.text,
            answer=answer.text,
            score=None if score is None else float(score),
            probability=None if score is None else float(calibration.probability(score)),
            decision=None if score is None else bool(score >= threshold),
            threshold=threshold,
            cell=way.ensemble.name,
            exact_answer=said,
            read_at=None if score is None else (there[first][0] - answered, there[first][1] - answered),
            tokens=tuple(cut_text(self.tokenizer, answer.answer_ids)),
            token_scores=tuple(running.tolist()),
            token_probabilities=tuple(calibration.probability(running).tolist()),
            finish=answer.finish,
        )

    def require_same_scores(self) -> None:
        """Read a few recorded examples again; their prompts and their scores have to be those of the run.

        Raises:
            ValueError: another prompt, tokenizer or chat template, or other weights.
        """
        way = self.ways[0]
        cell = way.ensemble.cells[0]
        known = choose_recorded(self.probes, self.parts.examples, cell, CHECKED)
        asked = known.table[:0] if self.parts.stated or self.parts.answered else known.table
        prompts = self.tapped.encode(list(asked["question"])) if len(asked) else []
        if prompts != [ids.tolist() for ids in asked["prompt_ids"]]:
            raise ValueError(
                f"model: expected {self.probes.card.model} as the run read it, got another prompt, chat template or "
                "tokenizer; take the tokenizer and the settings of the run"
            )
        answers = [Answer(prompt, said, (), "given", "", thought) for prompt, said, thought in known.ids]
        read = zip(self.tapped.read(answers), known.places, strict=True)
        found = torch.cat([way.gather(tokens, {cell.position: place}, 1) for tokens, place in read])
        off = float((found - known.scores).abs().max()) / known.spread
        if not off < SAME:
            raise ValueError(
                f"model: expected {self.probes.card.model} as the run read it, got other weights: scores of recorded "
                f"answers differ by {off:.2f} standard deviations; take the model and revision of the run"
            )
