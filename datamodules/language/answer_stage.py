"""The first cached stage: greedy answers to prompts."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from datamodules.language.cache.shards import name_shard
from datamodules.language.capture import capture, check_finite
from datamodules.language.generation import VERSION, Answer, generate_answers, write_answers
from datamodules.language.language_model import LanguageModel
from datamodules.language.progress import Speed
from datamodules.language.running_model import RunningModel
from datamodules.language.sequences import digest_sequences
from datamodules.stream.out_of_memory import pass_over_out_of_memory

OUTPUT = "answers"
BYTES_PER_TOKEN = 16  # of a stored answer, generously: id and log-probability before compression


class AnswerStage:
    """Answers of one language model to N prompts; thinking is not yet cut off.

    Args:
        running: the running model.
        ids: [N] names of the examples, for messages.
        prompts: [N] token ids.
        settings: the model with the limits of its answers.
    """

    kind = "answers"

    def __init__(
        self, running: RunningModel, ids: Sequence[str], prompts: Sequence[Sequence[int]], settings: LanguageModel
    ) -> None:
        self.running, self.ids, self.prompts = running, ids, prompts
        self.limit = settings.token_limit
        self.stop, self.stop_ids = settings.find_stop_text(running.tokenizer), settings.find_stop_ids(running.tokenizer)
        self.tokens = [len(prompt) + self.limit for prompt in prompts]

    def describe(self, output: str = OUTPUT) -> dict[str, Any]:
        """Return everything except the model that the answers depend on, for the key of the cache."""
        return {
            "version": VERSION,
            "prompts": digest_sequences(self.prompts),
            "decoding": {
                "greedy": True,
                "max_new_tokens": self.limit,
                "stop": self.stop,
                "stop_ids": self.stop_ids,
            },
        }

    def cost(self, outputs: Sequence[str] = (OUTPUT,)) -> int:
        """Bytes that one example takes in the cache, at most."""
        return BYTES_PER_TOKEN * max(self.tokens)

    def estimate(self, n: int) -> float:
        """Seconds that n examples will take; loads the model."""
        mean = sum(map(len, self.prompts)) // len(self.prompts)
        size = self.running.writing.count_examples(mean + self.limit)
        return Speed(self.running.network).estimate_batches(n, size, mean, self.limit)

    def make(
        self, rows: range, outputs: Sequence[str], advance: Callable[[Sequence[int]], None]
    ) -> dict[str, dict[str, bytes]]:
        """Answer the prompts of one shard.

        Args:
            rows: numbers of its examples.
            outputs: `answers` alone.
            advance: called with the rows of each batch that is done.

        Returns:
            for the output, the content of its files by name.

        Raises:
            ValueError: the model computed something that is not finite; names layer, position and example.
        """
        answers: dict[int, Answer] = {}
        for batch, given in self.running.run(rows, self.prompts, self._generate, self.limit):
            for i, answer in zip(batch, given, strict=True):
                if not all(map(math.isfinite, answer.logprobs)):
                    self._refuse(i, answer)
                answers[i] = answer
            advance(batch)
        return {OUTPUT: {name_shard(rows, "parquet"): write_answers([answers[i] for i in rows])}}

    def _generate(self, batch: list[int]) -> list[Answer]:
        prompts = [list(self.prompts[i]) for i in batch]
        return generate_answers(
            self.running.network, self.running.tokenizer, prompts, self.limit, self.stop, self.stop_ids
        )

    def _refuse(self, i: int, answer: Answer) -> NoReturn:
        """Find where the numbers of an example stop being finite."""
        first = next(n for n, logprob in enumerate(answer.logprobs) if not math.isfinite(logprob))
        # The log-probability of an answer's token comes from the states of the token before it.
        start, layers = len(self.prompts[i]) - 1, range(self.running.config.num_hidden_layers)
        tokens = torch.arange(start, start + first + 1)[None, :, None].expand(1, -1, 2)
        names = ["last_q", *(f"answer token {n}" for n in range(1, first + 1))]
        sequence = [*self.prompts[i], *answer.answer_ids[:first]]
        where = ""
        with pass_over_out_of_memory():  # then it stays unknown in which layer
            acts = capture(self.running.network, [sequence], tokens, ["resid_post"], layers)
            check_finite(acts["resid_post"], layers, names, [self.ids[i]])
            where = f", behind layer {layers[-1]}, the last one, whose numbers are finite"
        raise ValueError(
            f"answers: expected finite log-probabilities, got {answer.logprobs[first]} from {names[first]} of example "
            f"{self.ids[i]}{where}; try model.dtype=float32"
        )
