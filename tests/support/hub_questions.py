"""Questions in the columns of the hub's data sets, and what is said to them, so that rules and judges have work.

Each question holds the name of a town with its number. From a number follow the row, the answer, its exact answer and
what a judge says of it. `script` lets small models answer like this.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datamodules.language import answer_stage
from datamodules.language.generation import Answer

TRAIN, TEST = range(60), range(60, 90)
STEPS = 3  # tokens that the small models themselves write before the scripted words take their place
THOUGHT = "<think>\nIt may be Nobody.\n</think>\n\n"


def _name(kind: str, i: int) -> str:
    """A made-up name, its own for each number."""
    rng = random.Random(f"{kind} {i}")
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3)).capitalize() + kind


def person(i: int) -> str:
    """Who leads town i."""
    return f"{_name('n', i)} {_name('rt', i)}"


def stranger(i: int) -> str:
    """Who does not."""
    return f"{_name('k', i)} {_name('sk', i)}"


def is_right(i: int) -> bool:
    """Whether the scripted answer to question i is right."""
    return random.Random(i).random() < 0.5


def _town(i: int) -> str:
    return f"{_name('burg', i)} Velor{i}"


@dataclass(frozen=True)
class Script:
    """One data set: its rows as published, and what is said.

    Attributes:
        row: number and part to row.
        exact: number to the exact answer that is given.
        say: the sentence around it.
        judged: number to a judge's reply; None: nobody is asked.
        config, parts: as published; the first part trains, the second tests.
        positions: columns of its heatmap.
    """

    row: Callable[[int], dict[str, Any]]
    exact: Callable[[int], str]
    say: str
    config: str
    parts: tuple[str, str] = ("train", "validation")
    judged: Callable[[int], str] | None = None
    positions: int = 15

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of the two parts."""
        return {part: [self.row(i) for i in numbers] for part, numbers in zip(self.parts, (TRAIN, TEST), strict=True)}

    def answer(self, i: int) -> str:
        """What is said to question i."""
        return self.say.format(exact=self.exact(i))


def _trivia(i: int) -> dict[str, Any]:
    return {
        "question": f"Who leads {_town(i)}?", "question_id": f"tc_{i}", "question_source": "x",
        "entity_pages": {"title": ["t"]}, "search_results": {"rank": [1]},
        "answer": {
            "aliases": [f"Mayor {person(i)}", person(i)], "normalized_aliases": [], "type": "WikipediaEntity",
            "value": person(i),
        },
    }  # fmt: skip


def _hotpot(i: int) -> dict[str, Any]:
    return {
        "id": f"5a{i}", "question": f"Who leads {_town(i)}?", "answer": person(i), "type": "bridge", "level": "hard",
        "supporting_facts": {"title": ["A"], "sent_id": [0]},
        "context": {"title": ["A", "B"], "sentences": [["It is a town.", " It has a hall."], ["B is."]]},
    }  # fmt: skip


def _given(i: int) -> str:
    return person(i) if is_right(i) else stranger(i)


def _judge(i: int) -> str:
    """Says yes of some answers without a gold answer in them, no of others, and now and then something else."""
    return ("Yes.", "no", "No, that is another.", "I can't say")[i % 4]


def _option(i: int) -> int:
    """Number of the right option."""
    return random.Random(-i).randrange(2)


_SENSES = ["entailment", "neutral", "contradiction"]

SCRIPTS = {
    "triviaqa": Script(_trivia, _given, "The town is led by {exact}, as far as I know.", "unfiltered.nocontext"),
    "hotpotqa": Script(_hotpot, _given, "The town is led by {exact}, as far as I know.", "distractor"),
    "hotpotqa_context": Script(_hotpot, _given, "The town is led by {exact}, as far as I know.", "distractor"),
    "natural_questions": Script(
        lambda i: {"question": f"who leads {_town(i)}", "answer": [person(i), f"Mayor {person(i)}"]},
        _given,
        "The town is led by {exact}, as far as I know.",
        "nq_open",
        judged=_judge,
    ),
    "winogrande_hub": Script(
        lambda i: {
            "sentence": f"In {_town(i)}, {person(i)} called {stranger(i)} because _ was ill.",
            "option1": person(i), "option2": stranger(i), "answer": str(1 + _option(i)),
        },
        lambda i: (person(i), stranger(i))[_option(i) if is_right(i) else 1 - _option(i)],
        "The blank stands for {exact} in this sentence.",
        "winogrande_xl",
    ),
    "mnli_hub": Script(
        lambda i: {
            "premise": f"Everyone left {_town(i)}.", "hypothesis": f"{person(i)} left.", "label": i % 3, "idx": i,
        },
        lambda i: _SENSES[i % 3 if is_right(i) else (i + 1) % 3],
        "I would say that it represents {exact} here.",
        "mnli",
        ("train", "validation_matched"),
    ),
    "imdb": Script(
        lambda i: {"text": f"A film about {person(i)} of {_town(i)}. I saw it twice.", "label": i % 2},
        lambda i: ("negative", "positive")[i % 2 if is_right(i) else 1 - i % 2],
        "I think the review is {exact}, all in all.",
        "plain_text",
        ("train", "test"),
        positions=12,
    ),
}  # fmt: skip


def training_texts() -> list[str]:
    """What tokenizers of small models are trained on, so that prompts are not hundreds of single bytes."""
    asked = ["Copy from the answer the exact answer: the shortest words that answer the question, right or wrong"]
    asked += ["Below are a question, its reference answer and a given answer. Say whether it is right: yes or no"]
    shown = [f"Question: {one.row(i)} Answer: {one.answer(i)}" for one in SCRIPTS.values() for i in range(8)]
    return [*asked * 8, *shown]


def expected_labels(script: Script, numbers: Sequence[int]) -> list[bool]:
    """Labels of those questions that can be judged, in order."""
    labels = []
    for i in numbers:
        word = "yes" if is_right(i) else "no" if script.judged is None else script.judged(i).casefold()
        labels += [word.startswith("yes")] if word.startswith(("yes", "no")) else []
    return labels


def script(monkeypatch: Any, one: Script) -> list[int]:
    """Let models say what is scripted, after they have written a few tokens of their own.

    Returns:
        a list that grows by how many prompts each batch has.
    """
    own, batches = answer_stage.generate_answers, list[int]()

    def scripted(
        network: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int, *how: Any
    ) -> list[Answer]:
        batches.append(len(prompts))
        written = own(network, tokenizer, prompts, min(max_new_tokens, STEPS), *how)
        assert all(1 <= len(answer.answer_ids) <= STEPS for answer in written)
        answers = []
        for prompt, answer in zip(prompts, written, strict=True):
            text = tokenizer.decode(prompt)
            i = int(re.findall(r"Velor(\d+)", text)[-1])
            if "Verdict:" in text:
                assert one.judged is not None, text
                said = one.judged(i)
            else:
                said = one.exact(i) if "Exact answer:" in text else one.answer(i)
            if "<think>" in tokenizer.get_vocab() and "</think>" not in text:
                said = THOUGHT + said
            ids = tokenizer(said, add_special_tokens=False).input_ids
            text = tokenizer.decode(ids, skip_special_tokens=True)
            answers.append(replace(answer, answer_ids=ids, logprobs=[-1.0] * len(ids), finish="stop", text=text))
        return answers

    monkeypatch.setattr(answer_stage, "generate_answers", scripted)
    return batches
