"""The embedded model and its two question sets; see `world` for its knowledge and `train_model` for its training."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from datamodules.language.demo.world import FACTS, KNOWN_SHARE, N_FORMS, N_KNOWN, N_KNOWN_STEMS, World
from datamodules.language.language_model import LanguageModel
from datamodules.questions.question import Question, QuestionSet, Tell
from datamodules.stream.ranges import Count, Seed, Text

KNOWN_QUESTIONS = {"facts": len(FACTS) * N_KNOWN, "words": N_FORMS * N_KNOWN_STEMS}  # that can be asked


def build_demo_model(name: Text = "probegrid demo model", **settings: Any) -> LanguageModel:
    """Return the embedded language model with its weights from the package.

    >>> build_demo_model(max_new_tokens=8).name
    'probegrid demo model'

    Raises:
        ValueError: an id, which is that of another model.
    """
    if "id" in settings:
        raise ValueError(f"model.id: expected none for the embedded model, got {settings['id']!r}; choose model=hf")
    return LanguageModel(id=str(files("datamodules.language.demo") / "weights"), name=name, **settings)


@cache
def _build_world() -> World:
    """The one world there is; the next job of a sweep asks about the same."""
    return World()


@dataclass
class DemoQuestions(QuestionSet):
    """One of the two question sets about the model's world.

    Attributes:
        skill: `facts` (remembered about people) or `words` (translated from a language of the world).
        name: shown to people.
        limit: number of questions.
        seed: of the draw.

    Example:
        >>> len(DemoQuestions(skill="facts", name="demo_facts", limit=20).load())
        20
    """

    skill: Literal["facts", "words"]
    name: Text
    limit: Count = 2000
    seed: Seed = 0

    def load(self, tell: Tell | None = None) -> list[Question]:
        """Draw the questions."""
        world = _build_world()
        most = int(KNOWN_QUESTIONS[self.skill] / KNOWN_SHARE)
        if not 1 <= self.limit <= most:
            raise ValueError(f"dataset.limit: expected 1 to {most} questions of {self.name}, got {self.limit}")
        draw = world.fact_questions if self.skill == "facts" else world.word_questions
        return draw(self.limit, self.seed)
