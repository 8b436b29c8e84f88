"""The embedded model and its two question sets; see `world` for what it knows and `train_model` for how it learnt."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from datamodules.demo.world import FACTS, World
from datamodules.language_model import LanguageModel
from datamodules.questions import Question


def demo_model(**settings: Any) -> LanguageModel:
    """Return the embedded language model with its weights from the package."""
    return LanguageModel(id=str(files("datamodules.demo") / "weights"), name="probegrid demo model", **settings)


@dataclass
class DemoQuestions:
    """One of the two question sets about the model's world.

    Attributes:
        skill: `facts` (remembered about people) or `notes` (read in the question).
        name: shown to people.
        limit: number of questions.
        seed: of the draw.
    """

    skill: Literal["facts", "notes"]
    name: str
    limit: int = 2000
    seed: int = 0

    def load(self) -> list[Question]:
        """Draw the questions."""
        world = World()
        most = len(FACTS) * 2 * min(len(world.known), len(world.held_out)) if self.skill == "facts" else 10**6
        if not 1 <= self.limit <= most:
            raise ValueError(f"dataset.limit: expected 1 to {most} questions of {self.name}, got {self.limit}")
        draw = world.fact_questions if self.skill == "facts" else world.note_questions
        return draw(self.limit, self.seed)
