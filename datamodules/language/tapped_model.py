"""A language model with probes on it: writes answers, or reads given ones, and scores every token in the same pass."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor

from datamodules.language.generation import Answer, cut_thinking, generate_answers, make_given_answers
from datamodules.language.kept_model import KeptModel
from datamodules.language.language_model import LanguageModel
from datamodules.language.position_rule import Rule
from datamodules.language.prompts import Asked
from datamodules.language.responses import make_answers
from datamodules.language.token_taps import TokenScores, TokenTaps, read_token_scores
from datamodules.questions.question import Question, Response

Result = TypeVar("Result")


def reads_prompt(rule: Rule) -> bool:
    """Whether a position may be on a token of the prompt before its last one.

    >>> reads_prompt(Rule("last_q", of="prompt", at="last")), reads_prompt(Rule("q", of="prompt", at="mean"))
    (False, True)
    """
    if rule.of in ("answer", "text", "exact_answer") or (rule.of == "assistant" and rule.nth == -1):
        return False
    return rule.of != "prompt" or rule.at not in ("last", -1) or rule.offset != 0 or rule.find is not None


class Taps(NamedTuple):
    """C probes, as `TokenTaps` takes them."""

    site: str
    layers: Sequence[int]
    weight: Tensor
    bias: Tensor
    whole_prompt: bool


class TappedModel:
    """Answers and their token scores.

    Args:
        running: the model.
        taps: the probes on it.

    Example:
        >>> (answer, scores), = tapped.answer(["In which country is Oslo?"])  # doctest: +SKIP
        >>> len(scores.scores) == len(answer.answer_ids) + 1  # with the end of the prompt  # doctest: +SKIP
        True
    """

    def __init__(self, running: KeptModel, taps: Taps) -> None:
        self.running, self.taps = running, taps
        self.model, self.tokenizer = running.model, running.tokenizer

    def tap(self) -> TokenTaps:
        """The probes as hooks on the model, for `with`."""
        return TokenTaps(self.running.network, *self.taps)

    def fits(self, prompt: Sequence[int], room: int | None = None) -> bool:
        """Whether a prompt leaves room for an answer, by default the longest, in the context of the model."""
        return len(prompt) + (self.model.token_limit if room is None else room) <= self.running.context

    @staticmethod
    def join(answer: Answer) -> list[int]:
        """Token ids of prompt, thought and answer."""
        return [*answer.prompt_ids, *answer.thought_ids, *answer.answer_ids]

    def answer(self, prompts: Sequence[list[int]]) -> list[tuple[Answer, TokenScores]]:
        """Answer N prompts greedily, as a run does; thinking is cut off.

        Raises:
            ValueError: a prompt does not fit into the context.
        """
        limit, stop = self.model.token_limit, self.model.find_stop_text(self.tokenizer)
        stop_ids = self.model.find_stop_ids(self.tokenizer)
        if long := [len(prompt) for prompt in prompts if not self.fits(prompt)]:
            room = self.running.context - max(long) - self.model.thinking_tokens
            raise ValueError(
                f"question: expected a prompt that leaves {limit} of {self.running.context} tokens to the answer, got "
                f"{long[0]} tokens; shorten it" + (f", or set max_new_tokens to at most {room}" if room > 0 else "")
            )

        def write(batch: list[int]) -> list[tuple[Answer, TokenScores]]:
            given = [prompts[i] for i in batch]
            with self.tap() as taps:
                answers = generate_answers(
                    self.running.network, self.tokenizer, given, limit, stop, stop_ids, taps=taps
                )
                return [
                    (cut_thinking(self.tokenizer, answer), taps.collect(prompt, k))
                    for k, (answer, prompt) in enumerate(zip(answers, given, strict=True))
                ]

        return self._run(prompts, write, limit)

    def read(self, answers: Sequence[Answer]) -> list[TokenScores]:
        """Score every token of N answers and their prompts, by teacher forcing."""
        sequences = [self.join(one) for one in answers]
        if long := [len(ids) for ids in sequences if not self.fits(ids, 0)]:
            raise ValueError(
                f"answer: expected at most {self.running.context} tokens of prompt and answer, which the model reads, "
                f"got {long[0]}; shorten it"
            )

        def read(batch: list[int]) -> list[TokenScores]:
            with TokenTaps(self.running.network, *self.taps._replace(whole_prompt=True)) as taps:
                return read_token_scores(taps, [sequences[i] for i in batch])

        return self._run(sequences, read, 0)

    def give(self, questions: Sequence[Question]) -> list[Answer]:
        """The responses of N questions as answers, see `make_answers`."""
        return make_answers(self.model, self.tokenizer, questions, self.encode, lambda line: None)

    def encode(self, asked: Sequence[Asked]) -> list[list[int]]:
        """Token ids of the prompts for N questions or chats."""
        return self.model.encode(self.tokenizer, asked)

    def write_as_model(self, text: str, blank: bool) -> Response:
        """A text as the response that the model would have written: with the stop text, and a blank before it.

        Args:
            text: of the answer.
            blank: whether answers of this model begin with a blank.
        """
        stop = self.model.find_stop_text(self.tokenizer)
        before = " " if blank and not text[:1].isspace() else ""
        return Response(f"{before}{text}{stop if stop and stop not in text else ''}", finish="stop")

    def state(self, texts: Sequence[str]) -> list[Answer]:
        """N statements, which are read as they are."""
        return make_given_answers(self.tokenizer, texts)

    def reply(self, texts: Sequence[str], settings: LanguageModel) -> list[str]:
        """Short replies to N texts, for those who ask a model about answers.

        Args:
            texts: what is asked.
            settings: this model with the settings of replies.
        """
        prompts = settings.encode(self.tokenizer, texts)
        stop, stop_ids = settings.find_stop_text(self.tokenizer), settings.find_stop_ids(self.tokenizer)
        limit = settings.token_limit

        def write(batch: list[int]) -> list[Answer]:
            given = [prompts[i] for i in batch]
            return generate_answers(self.running.network, self.tokenizer, given, limit, stop, stop_ids)

        return [cut_thinking(self.tokenizer, answer).text for answer in self._run(prompts, write, limit)]

    def _run(
        self, sequences: Sequence[Sequence[int]], compute: Callable[[list[int]], list[Result]], written: int
    ) -> list[Result]:
        """Results for N sequences, by batches."""
        found: dict[int, Result] = {}
        with self.running as running:
            for batch, results in running.run(range(len(sequences)), sequences, compute, written):
                found |= dict(zip(batch, results, strict=True))
        return [found[i] for i in range(len(sequences))]
