"""Named positions of an example: which tokens each one is, and whether the example has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import MinLen, Predicate, doc
from transformers import PreTrainedTokenizerBase

from datamodules.language.position_rule import ROLES, Rule, build_rules
from datamodules.language.tokens import decode, find_tokens
from datamodules.language.turns import TurnTokens
from datamodules.stream.ranges import are_different

if TYPE_CHECKING:
    from torch import Tensor

ROWS = ("exact_answer", "any", "common")

_LIST = doc("a list of rules such as {name: end, of: answer, at: -1}, all different")
MoreRules = Annotated[Sequence[Rule | Mapping[str, Any]], Predicate(are_different), _LIST]
Rules = Annotated[MoreRules, MinLen(1)]


class Positions:
    """An ordered choice of named positions, the columns of the heatmap.

    Args:
        rules: a `Rule` each, or its attributes by name.
        into_prompt: allow positions of the answer or the exact answer before the answer (on the thought if there is
            one, else on the prompt). `after` an exact answer at the end of the answer is then its last token. If
            false, such positions are invalid. The study's own code does this.
        rows: which examples the columns have. `exact_answer`: where a column uses the exact answer, only examples that
            have one, in every column, so that columns are compared on equal rows; the study's own code does this.
            `any`: each column has the examples that have its position. `common`: only examples that have all positions.
        also: rules of further positions to cache from the same forward passes. Those of exact answers are left out
            where no column uses them.

    Example:
        >>> Positions([{"name": "end", "of": "answer", "at": -1}, {"name": "exact", "of": "exact_answer"}]).names
        ['end', 'exact']
    """

    def __init__(
        self,
        rules: Rules,
        into_prompt: bool = False,
        rows: Literal["exact_answer", "any", "common"] = "exact_answer",
        also: MoreRules = (),
    ) -> None:
        self.rules, more = build_rules(rules, "positions.rules"), build_rules(also, "positions.also")
        if type(into_prompt) is not bool:
            raise ValueError(f"positions.into_prompt: expected true or false, got {into_prompt!r}")
        if rows not in ROWS:
            raise ValueError(f"positions.rows: expected one of {', '.join(ROWS)}; got {rows!r}")
        self.into_prompt, self.rows = into_prompt, rows
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"positions.rules: expected different names, at least one; got {self.names}; rename some")
        shared = [rule for rule in more if rule.of != "exact_answer" or self.need_exact_answers]
        # in this order, all jobs of a sweep read the same, and so share an entry of the cache
        self.read = list(dict.fromkeys([*shared, *self.rules]))

    @property
    def names(self) -> list[str]:
        """The columns."""
        return [rule.name for rule in self.rules]

    @property
    def columns(self) -> list[int]:
        """[T] where each column is among the R positions that are read."""
        return [self.read.index(rule) for rule in self.rules]

    @property
    def need_exact_answers(self) -> bool:
        """Whether a column uses the exact answer."""
        return any(rule.of == "exact_answer" for rule in self.rules)

    @property
    def need_turns(self) -> bool:
        """Whether a rule that is read counts in what a role says in the prompt."""
        return any(rule.of in ROLES for rule in self.read)

    def resolve(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        spans: Sequence[tuple[int, int] | None],
        thoughts: Sequence[Sequence[int]] | None = None,
        turns: Sequence[Sequence[TurnTokens]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Resolve every rule that is read, R with those of `also`, for N examples.

        Args:
            tokenizer: what the ids belong to.
            prompts: [N] token ids of each prompt.
            answers: [N] token ids of each answer, the stop token included.
            spans: [N] first and last token of the exact answer, counted within the answer; None where there is none.
            thoughts: [N] token ids between prompt and answer, part of neither; none by default.
            turns: [N] tokens of what each role says in the prompt, from `find_turns`; needed where `need_turns`.

        Returns:
            tokens [N, R, 2] int64, first and last token in prompt, thought and answer, 0 where invalid; they differ
            where a rule takes a mean. Where it takes a maximum, the last token comes first: so all that reads or names
            activations tells the two apart. valid [N, R] bool. A position that an example does not have is invalid
            there, never another token. `columns` says which of them are columns.

        Raises:
            ValueError: a rule needs turns, and there are none.
        """
        import torch

        prompt, answer = torch.tensor([len(ids) for ids in prompts]), torch.tensor([len(ids) for ids in answers])
        thoughts = thoughts or [()] * len(prompts)
        before = prompt + torch.tensor([len(ids) for ids in thoughts])
        whole, zero = before + answer, torch.zeros_like(prompt)
        exact = torch.tensor([span or (1, 0) for span in spans]) + before[:, None]  # nothing: ends before it begins
        runs = {
            "prompt": (zero, prompt - 1),
            "answer": (before, whole - 1),
            "whole": (zero, whole - 1),
            "exact_answer": (exact[:, 0], exact[:, 1]),
        }
        if any(rule.of in ("text", *ROLES) for rule in self.read):
            runs["text"] = (before, whole - 1 - _count_special_at_end(tokenizer, answers))
        tokens, valid = [], []
        for rule in self.read:
            first, last = _pick_turns(rule, turns, runs["text"]) if rule.of in ROLES else runs[rule.of]
            if rule.find is not None:
                texts = {"prompt": prompts, "answer": answers, "text": answers}.get(rule.of)
                texts = texts or [[*p, *t, *a] for p, t, a in zip(prompts, thoughts, answers, strict=True)]
                found = torch.tensor([_find_text(tokenizer, ids, rule) or (1, 0) for ids in texts])
                first, last = first + found[:, 0], first + found[:, 1]
            lower = zero if self.into_prompt or rule.of in ("prompt", "whole", *ROLES) else before
            upper = prompt if rule.of == "prompt" else whole
            start, stop = rule.pick(first, last)
            if self.into_prompt and rule.of == "exact_answer" and (rule.at, rule.offset) == ("after", 0):
                start = stop = start.clamp(max=whole - 1)
            here = (first <= last) & (start >= lower) & (stop < upper)
            if isinstance(rule.at, int):  # a short run has no such token
                reaches_back = self.into_prompt and rule.of in ("answer", "text") and rule.find is None
                at = start - rule.offset
                here &= (at <= last) & ((at >= first) | reaches_back)
            ends = (stop, start) if rule.at == "max" else (start, stop)
            tokens.append(torch.where(here[:, None], torch.stack(ends, 1), 0))
            valid.append(here)
        return torch.stack(tokens, 1), torch.stack(valid, 1)

    def choose_rows(self, valid: Tensor, spans: Sequence[tuple[int, int] | None]) -> Tensor:
        """Choose the examples that the columns are compared on, as `rows` says.

        They do not change what is read or cached: examples that are left out keep their activations.

        Args:
            valid: [N, T] bool, from `resolve`.
            spans: [N] first and last token of the exact answer; None where there is none.

        Returns:
            [N] bool.

        Raises:
            ValueError: `rows` is `common`, and no example has every position; names the rarest.

        Example:
            >>> import torch
            >>> positions = Positions([Rule("end", "answer", -1), Rule("exact", "exact_answer")])
            >>> positions.choose_rows(torch.tensor([[True, True], [True, False]]), [(0, 0), None]).tolist()
            [True, False]
        """
        import torch

        if self.rows == "common":
            counts = valid.sum(0)
            if not valid.all(1).any():
                t = int(counts.argmin())
                raise ValueError(
                    f"positions.rows=common: expected examples that have every position, got none of {len(valid):,}; "
                    f"{self.names[t]} is the rarest, in {counts[t]:,}; leave it out, or set positions.rows=any"
                )
            return valid.all(1)
        if self.rows == "exact_answer" and self.need_exact_answers:
            return torch.tensor([span is not None for span in spans], dtype=torch.bool)
        return torch.ones(len(valid), dtype=torch.bool)


def _pick_turns(
    rule: Rule, turns: Sequence[Sequence[TurnTokens]] | None, text: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """First and last token, [N] each, of the turn of the role of a rule; the text of the answer is the last one."""
    import torch

    if turns is None:
        raise ValueError(
            f"positions.rules: {rule.name}: expected prompts whose turns are known, got {rule.of} without them; take "
            "a position over the prompt or the answer"
        )
    said = [[run for role, *run in each if role == rule.of] for each in turns]
    if rule.of == "assistant":
        said = [[*runs, run] for runs, run in zip(said, torch.stack(text, 1).tolist(), strict=True)]
    found = [runs[rule.nth] if -len(runs) <= rule.nth < len(runs) else [1, 0] for runs in said]
    first, last = torch.tensor(found).reshape(-1, 2).unbind(1)
    return first, last


def _count_special_at_end(tokenizer: PreTrainedTokenizerBase, answers: Sequence[Sequence[int]]) -> Tensor:
    """Count the special tokens at the end of each answer, [N]."""
    import torch

    special = set(tokenizer.all_special_ids)
    return torch.tensor(
        [next((n for n, token in enumerate(reversed(ids)) if token not in special), len(ids)) for ids in answers]
    )


def _find_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], rule: Rule) -> tuple[int, int] | None:
    """Find the first and last token of the text of a rule; special tokens count as text."""
    assert rule.find is not None
    text = decode(tokenizer, ids, special=True)
    starts = [at for at in range(len(text)) if text.startswith(rule.find, at)]
    if not -len(starts) <= rule.nth < len(starts):
        return None
    start = starts[rule.nth]
    return find_tokens(tokenizer, ids, (start, start + len(rule.find)), special=True)


def compute_coincidence(tokens: Tensor, valid: Tensor) -> Tensor:
    """Compute for each pair of positions the share of examples in which both are the same token.

    Args:
        tokens: [N, T, 2] int64.
        valid: [N, T] bool.

    Returns:
        [T, T] float64, NaN where no example has both.

    Example:
        >>> import torch
        >>> tokens = torch.tensor([[[3, 3], [3, 3]], [[2, 2], [4, 4]]])
        >>> compute_coincidence(tokens, torch.ones(2, 2, dtype=torch.bool)).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    both = valid[:, :, None] & valid[:, None, :]
    same = both & (tokens[:, :, None] == tokens[:, None, :]).all(-1)
    return same.sum(0).double() / both.sum(0).double()
