"""Labels by a judge: where no gold answer occurs, a language model decides whether the answer means the same."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import doc

from datamodules.examples import Verdict
from datamodules.labels.rules import Rule, TextRule, judge_by_gold, judge_by_substring
from datamodules.labels.spans import Ask, require_model
from datamodules.language.language_model import LanguageModel
from datamodules.questions.question import Question
from datamodules.stream.ranges import Count, Texts

GOLD_SHOWN = 5  # gold answers and aliases that a judge sees


Asked = Annotated[LanguageModel | None, doc("null or a model, given with +model@rule.model=NAME")]


@dataclass
class Judge:
    """Labels an answer right where a gold answer occurs in it, and asks a model about the others.

    If the model gives no verdict in `tries` tries, each with other examples, the answer is left out.

    Attributes:
        tries: highest number of tries for one answer.
        model: the judge; the model of the answers where None.
        rule: the function of `rules` that labels first; the judge sees only the answers that it calls wrong.

    Example:
        >>> Judge(tries=1)([Question("q0", "g", "?", ("1999",))], ["In 1999."], lambda *_: [])
        [Verdict(right=True, branch='the gold answer occurs')]
    """

    tries: Count = 3
    model: Asked = None
    rule: Rule = judge_by_gold

    def __post_init__(self) -> None:
        require_model("rule.model", self.model)
        most = len(_SHOWN)
        if type(self.tries) is not int or not 1 <= self.tries <= most:
            raise ValueError(f"rule.tries: expected 1 to {most}, got {self.tries}")

    def __call__(self, questions: Sequence[Question], answers: Sequence[str], ask: Ask) -> list[Verdict]:
        """Return one verdict for each."""
        verdicts = [self.rule(answer, question) for question, answer in zip(questions, answers, strict=True)]
        open_ = [i for i, verdict in enumerate(verdicts) if not verdict.right]
        for i in open_:
            verdicts[i] = Verdict(None, "the judge does not say")
        for k in range(self.tries):
            if not open_:
                break
            texts = [write_judge_prompt(questions[i], answers[i], k) for i in open_]
            for i, reply in zip(open_, ask([questions[i].id for i in open_], texts, self.model), strict=True):
                right = read_verdict(reply)
                if right is not None:
                    verdicts[i] = Verdict(right, f"the judge says {'yes' if right else 'no'}")
            open_ = [i for i in open_ if verdicts[i].right is None]
        return verdicts


def build_study_rule(dataset: str, judged: Texts, tries: Count = 3, model: Asked = None) -> Judge | TextRule:
    """Return the study's own rule for a data set: `substring`; in `judged` sets a judge labels the other answers.

    Args:
        dataset: name of the set.
        judged: names of sets.
        tries, model: see `Judge`; used only for the sets in `judged`.

    Example:
        >>> type(build_study_rule("triviaqa", judged=["natural_questions"])).__name__
        'TextRule'
    """
    judge = Judge(tries, model, judge_by_substring)
    return judge if dataset in judged else TextRule(judge_by_substring)


def read_verdict(reply: str) -> bool | None:
    """Read the verdict of a reply: true if it begins with the word yes, false for no, None for neither.

    >>> read_verdict("Yes, it is."), read_verdict("No."), read_verdict("Nobody knows")
    (True, False, None)
    """
    word = re.match(r"\W*(yes|no)\b", reply.casefold())
    return None if word is None else word[1] == "yes"


_EXAMPLES = (
    ("Who wrote Faust?", "Johann Wolfgang von Goethe", "It is a play by Goethe.", "yes"),
    ("How far is the Moon from the Earth?", "384,400 km", "Some 240 thousand miles.", "yes"),
    ("Which river flows through Vienna?", "the Danube", "Vienna lies on the Rhine.", "no"),
    ("When was the telephone patented?", "1876", "In the nineteenth century.", "no"),
)
# Pairs of one example of each verdict, in both orders, so that neither verdict is always last.
_SHOWN = [pair for pair in itertools.permutations(_EXAMPLES, 2) if pair[0][3] != pair[1][3]]


def write_judge_prompt(question: Question, answer: str, k: int) -> str:
    """Write the prompt about one answer for try k: an instruction, two examples that change with k, the answer.

    >>> write_judge_prompt(Question("q0", "g", "When?", ("1999",)), "In 1999.", 0)[-31:]
    'Given answer: In 1999.\\nVerdict:'
    """
    form = "Question: {}\nReference answer: {}\nGiven answer: {}\nVerdict:"
    examples = "\n\n".join(f"{form.format(*texts)} {verdict}" for *texts, verdict in _SHOWN[(3 * k) % len(_SHOWN)])
    reference = " or ".join(question.answers[:GOLD_SHOWN])
    return (
        "Below are a question, its reference answer and a given answer. Say whether the given answer is right: "
        "whether it says the same as the reference, in whatever words. Write yes or no and nothing else.\n\n"
        f"{examples}\n\n{form.format(question.text, reference, ' '.join(answer.split()))}"
    )
