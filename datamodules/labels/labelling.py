"""The stages before activations: questions are answered, the answers labelled, and their exact answers found."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Protocol

from datamodules.card import MIN_PER_CLASS
from datamodules.examples import LabelledExamples, Span, Verdict
from datamodules.labels.judge import Judge
from datamodules.labels.rules import TextRule, judge_as_given
from datamodules.labels.span_check import check_spans
from datamodules.labels.spans import Ask, SpanFinder, prepare_for_replies
from datamodules.language.generation import Answer, cut_thinking, make_given_answers
from datamodules.language.language_model import LanguageModel
from datamodules.language.responses import make_answers
from datamodules.language.stages import LanguageModelStages
from datamodules.language.thinking import CURE
from datamodules.language.tokens import find_tokens
from datamodules.questions.question import LISTED, Question, QuestionSet, Tell

log = logging.getLogger(__name__)


class LabelRule(Protocol):
    """A way to tell right answers from wrong ones, N at a time."""

    def __call__(self, questions: Sequence[Question], answers: Sequence[str], ask: Ask) -> list[Verdict]:
        """Return one verdict for each."""
        ...


def require_rule_for(dataset: QuestionSet, rule: LabelRule) -> None:
    """Check that a rule fits a set: statements have no gold answers, and questions have no labels.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(rule, TextRule | Judge):
        return
    reads_labels = isinstance(rule, TextRule) and getattr(rule.rule, "func", rule.rule) is judge_as_given
    if dataset.stated and not reads_labels:
        raise ValueError(
            f"rule: expected rule=given for {dataset.name}, whose statements come with their labels, got one that "
            "looks for gold answers; set rule=given"
        )
    if reads_labels and not dataset.stated and not dataset.answered:
        raise ValueError(
            f"rule=given: expected statements with labels, got the questions of {dataset.name}; choose another rule, "
            "such as rule=gold"
        )


def label_examples(
    stages: LanguageModelStages, questions: list[Question], rule: LabelRule, find_spans: SpanFinder | None
) -> LabelledExamples:
    """Answer questions, label the answers, and find their exact answers.

    Args:
        stages: the language model at work.
        questions: N or more; those that do not fit into the context, or that the rule cannot judge, are left out.
        rule: decides whether an answer is right.
        find_spans: finds the exact answer in an answer; None where no position needs it.

    Raises:
        ValueError: nothing fits, a rule gives statements other labels than their own, one class is nearly empty, or too
            few have an exact answer (see `check_spans`).

    Example:
        >>> with LanguageModelStages(model, dataset, "cache", torch.device("cpu")) as stages:  # doctest: +SKIP
        ...     examples = label_examples(stages, dataset.load(), TextRule(judge_by_gold), RuleSpans())
    """
    logged: set[str] = set()

    def tell(line: str) -> None:
        if not stages.quiet and line not in logged:  # each line once, even if a model is asked several times
            log.info(line)
            logged.add(line)

    def warn(line: str) -> None:
        if not stages.quiet:
            log.warning(line)

    def ask(ids: Sequence[str], texts: Sequence[str], model: LanguageModel | None) -> list[str]:
        if model is None:
            return collect_replies(stages, prepare_for_replies(stages.model), ids, texts, tell)
        stages.running.free()
        model.fetch()
        device = stages.running.device
        with LanguageModelStages(model, stages.dataset, stages.cache_root, device, stages.quiet) as others:
            return collect_replies(others, prepare_for_replies(model), ids, texts, tell)

    questions, answers = _answer_questions(stages, questions, tell)
    n = len(questions)
    questions, answers = _drop_unfinished(stages.model, questions, answers, tell)
    unfinished = n - len(questions)
    verdicts = _judge(rule, questions, answers, ask, stages.dataset.answered, tell)
    judged = [i for i, verdict in enumerate(verdicts) if verdict.right is not None]
    if len(judged) < len(verdicts):
        names = [questions[i].id for i, verdict in enumerate(verdicts) if verdict.right is None]
        listed = _list_names(names)
        tell(f"labels: {len(names)} of {len(verdicts)} answers could not be judged and are left out: {listed}")
    questions, answers = [questions[i] for i in judged], [answers[i] for i in judged]
    verdicts = [verdicts[i] for i in judged]
    if stages.dataset.target is None:
        _check_classes(questions, answers, verdicts, unfinished)
    n, right = len(verdicts), sum(bool(verdict.right) for verdict in verdicts)
    if stages.dataset.stated and stages.dataset.target:
        counts = Counter(question.target for question in questions)
        tell(f"classes: {', '.join(f'{name} ({count})' for name, count in sorted(counts.items()))}")
    elif stages.dataset.stated:
        tell(f"labels: {right / n:.1%} of {n} statements are labelled 1")
    else:
        cut = sum(answer.finish == "length" for answer in answers)
        tell(f"labels: {right / n:.1%} of {n} answers are right; {cut} cut off at the longest length")
    spans = [Span(None, "not looked for")] * len(questions)
    if find_spans is not None:
        labels = [bool(verdict.right) for verdict in verdicts]
        spans = find_spans(questions, [answer.text for answer in answers], labels, ask)
        check_spans(questions, answers, labels, spans, stages.model.max_new_tokens, tell, warn)
        if names := [question.id for question, one in zip(questions, spans, strict=True) if one.characters is None]:
            listed = _list_names(names, ", see examples.parquet")
            tell(f"exact answers: none in {listed}; their exact-answer positions are invalid")
    span_tokens = [
        find_tokens(stages.tokenizer, answer.answer_ids, one.characters) if one.characters else None
        for answer, one in zip(answers, spans, strict=True)
    ]
    return LabelledExamples(questions, answers, verdicts, spans, span_tokens)


def collect_replies(
    stages: LanguageModelStages,
    settings: LanguageModel,
    ids: Sequence[str],
    texts: Sequence[str],
    tell: Callable[[str], None],
) -> list[str]:
    """Ask a model about N texts. Replies have no thinking; a reply is empty where the text does not fit the context.

    If a model thinks first although the template disables it, it is asked again with a higher token limit.
    """
    prompts, replies, todo = stages.encode(texts, settings), [""] * len(texts), list(range(len(texts)))
    for limited in (settings, replace(settings, thinking_tokens=stages.model.token_limit)):
        fit = [i for i in todo if len(prompts[i]) + limited.token_limit <= stages.running.context]
        if len(fit) < len(todo):
            tell(
                f"{len(todo) - len(fit)} of {len(texts)} texts are not sent to {settings.name}: with "
                f"{limited.token_limit} tokens of reply they are longer than its context of "
                f"{stages.running.context} tokens"
            )
        answers = stages.answer([ids[i] for i in fit], [prompts[i] for i in fit], limited) if fit else []
        todo = []
        for i, answer in zip(fit, answers, strict=True):
            reply = cut_thinking(stages.tokenizer, answer)
            replies[i] = reply.text
            todo += [] if reply.answer_ids else [i]
        if not todo:
            return replies
    tell(
        f"{len(todo)} of {len(texts)} replies of {settings.name} are empty, because the thinking before them does not "
        f"end within {stages.model.token_limit} tokens; {CURE}"
    )
    return replies


def _judge(
    rule: LabelRule, questions: Sequence[Question], answers: Sequence[Answer], ask: Ask, answered: bool, tell: Tell
) -> list[Verdict]:
    """One verdict for each of N answers: what the rule says, but responses keep the labels that they came with."""
    own = {i: question for i, question in enumerate(questions) if answered and question.label is not None}
    if own:
        tell(f"labels: {len(own)} of {len(questions)} responses keep the label that they came with")
    open_ = [i for i in range(len(questions)) if i not in own]
    judged = iter(rule([questions[i] for i in open_], [answers[i].text for i in open_], ask) if open_ else [])
    return [judge_as_given(answer.text, own[i]) if i in own else next(judged) for i, answer in enumerate(answers)]


def _answer_questions(
    stages: LanguageModelStages, questions: list[Question], tell: Callable[[str], None]
) -> tuple[list[Question], list[Answer]]:
    """Answer the questions that fit into the context, and log the others. Statements and responses are the answers."""
    texts = [question.text for question in questions]
    given: list[Answer] = []
    if stages.dataset.stated:
        given = make_given_answers(stages.tokenizer, texts)
    elif stages.dataset.answered:
        given = make_answers(stages.model, stages.tokenizer, questions, stages.encode, tell)
    prompts = [] if given else stages.encode(texts)
    room = 0 if given else stages.model.token_limit
    lengths = [len(prompt) for prompt in prompts]
    lengths += [len(one.prompt_ids) + len(one.thought_ids) + len(one.answer_ids) for one in given]
    fits = [i for i, length in enumerate(lengths) if length + room <= stages.running.context]
    context = f"{stages.running.context} tokens of context"
    fewer = "fewer model.max_new_tokens" + (" or model.thinking_tokens" if stages.model.thinking_tokens else "")
    if not fits:
        raise ValueError(
            f"dataset: expected texts that leave {room} of the {context} to the answer, got {min(lengths)} tokens and "
            f"more; choose a model with a longer context, or {fewer}"
        )
    if len(fits) < len(questions):
        names = [questions[i].id for i, length in enumerate(lengths) if length + room > stages.running.context]
        limit = f"too long to leave {room} of the {context} to the answer" if room else f"longer than the {context}"
        cure = "a model with a longer context" + (f" or {fewer}" if room else "") + " would keep them"
        tell(f"skipped {len(names)} of {len(questions)} texts, {limit} ({cure}): {_list_names(names)}")
    kept = [questions[i] for i in fits]
    if given:
        return kept, [given[i] for i in fits]
    answers = stages.answer([question.id for question in kept], [prompts[i] for i in fits])
    return kept, [cut_thinking(stages.tokenizer, answer) for answer in answers]


def _drop_unfinished(
    model: LanguageModel, questions: list[Question], answers: list[Answer], tell: Callable[[str], None]
) -> tuple[list[Question], list[Answer]]:
    """Keep the questions with an answer. Log the others, whose thinking does not end within the token limit."""
    thoughts = [len(answer.thought_ids) for answer in answers if answer.thought_ids and answer.answer_ids]
    if thoughts:
        tell(
            f"thinking: {len(thoughts)} of {len(answers)} answers follow a thought, in the median of "
            f"{median(thoughts):.0f} tokens; labels and positions refer to what follows it"
        )
    without = [i for i, answer in enumerate(answers) if answer.thought_ids and not answer.answer_ids]
    if not without:
        return questions, answers
    left = len(answers) - len(without)
    never = f"{len(without)} of {len(answers)} end inside their thinking, which does not close within "
    never += f"{model.token_limit} tokens"
    # Templates disable thinking in the generation prompt, so this has no effect without it.
    bare = (model.template or {}).get("add_generation_prompt") is False
    cure = CURE + (", which takes model.template.add_generation_prompt=true" if bare else "")
    if any(questions[i].response for i in without):
        never, cure = f"{len(without)} of {len(answers)} end inside their thinking", "give responses with its end"
    if left < 2 * MIN_PER_CLASS:
        raise ValueError(
            f"answers: expected at least {2 * MIN_PER_CLASS} that follow their thinking, got {left}; {never}; {cure}"
        )
    names = [questions[i].id for i in without]
    tell(f"answers: {never}, and are left out ({_list_names(names)}); {cure}")
    kept = sorted(set(range(len(answers))) - set(without))
    return [questions[i] for i in kept], [answers[i] for i in kept]


def _check_classes(
    questions: Sequence[Question], answers: Sequence[Answer], verdicts: Sequence[Verdict], unfinished: int
) -> None:
    n, right = len(verdicts), sum(bool(verdict.right) for verdict in verdicts)
    if min(right, n - right) >= MIN_PER_CLASS:
        return
    most = 2 * right > n
    more = f", beside {unfinished} whose thinking never ends" if unfinished else ""
    shown = [
        f"{question.id} {answer.text.strip()[:60]!r}" + (f" (gold {question.answers[0]!r})" if question.answers else "")
        for question, answer, verdict in zip(questions, answers, verdicts, strict=True)
        if bool(verdict.right) is most
    ]
    raise ValueError(
        f"labels: expected at least {MIN_PER_CLASS} right and {MIN_PER_CLASS} wrong answers, got {right} right and "
        f"{n - right} wrong of {n}{more}; take more questions, another model, or check the gold answers and the rule; "
        f"{'right' if most else 'wrong'} are {'; '.join(shown[:3])}"
    )


def _list_names(names: Sequence[str], rest: str = "") -> str:
    more = f" and {len(names) - LISTED} more{rest}" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
