"""Texts that a model cannot take: too long for its context, or with tokens that it has no embedding for."""

import shutil
from dataclasses import replace

import pytest
import torch

from datamodules.labels.labelling import collect_replies, label_examples
from datamodules.labels.rules import TextRule, judge_by_gold
from datamodules.language.positions import Positions
from datamodules.language.stages import LanguageModelStages
from datamodules.questions.files import FileQuestions
from tests.support.activations import COLOURS, counts, make
from tests.support.positions import shipped


def test_prompts_beyond_the_context_are_skipped_counted_and_named(language_model, questions_csv, tmp_path, caplog):
    text = questions_csv.read_text()
    long = "red " * 200
    path = tmp_path / "long.csv"
    path.write_text(text + f"{long}?,nothing\n{long}!,nothing\n")
    built = make(language_model, path, tmp_path, positions=Positions(shipped("paper"), rows="any"))
    with caplog.at_level("INFO"):
        built.setup()
    assert sum(count.n for count in counts(built)) == 300
    assert (
        "skipped 2 of 302 texts, too long to leave 14 of the 128 tokens of context to the answer "
        "(a model with a longer context or fewer model.max_new_tokens would keep them): long-00300, long-00301"
    ) in caplog.text
    with pytest.raises(ValueError, match=r"that leave 127 of the 128 tokens of context to the answer, got \d+ tokens"):
        make(replace(language_model, max_new_tokens=127), questions_csv, tmp_path).setup()


def test_a_prompt_that_just_fits_is_kept(language_model, questions_csv, tmp_path):
    questions = sorted(FileQuestions(path=str(questions_csv)).load(), key=lambda question: -len(question.text))[:80]
    tokenizer = language_model.load_tokenizer()
    longest = max(map(len, language_model.encode(tokenizer, [q.text for q in questions])))
    with LanguageModelStages(
        replace(language_model, max_new_tokens=128 - longest), COLOURS, str(tmp_path), torch.device("cpu"), True
    ) as stages:
        assert len(label_examples(stages, questions, TextRule(judge_by_gold), None).questions) == 80
        stages.model = replace(stages.model, max_new_tokens=129 - longest)
        assert 0 < len(label_examples(stages, questions, TextRule(judge_by_gold), None).questions) < 80


def test_replies_to_texts_too_long_for_the_model_are_empty(language_model, tmp_path):
    with LanguageModelStages(language_model, COLOURS, str(tmp_path), torch.device("cpu"), quiet=True) as stages:
        told: list[str] = []
        short, long = collect_replies(stages, language_model, ["a", "b"], ["red?", "red " * 300], told.append)
        assert short
        assert long == ""
        assert collect_replies(stages, language_model, ["b"], ["red " * 300], told.append) == [""]
        assert [line[:44] for line in told] == [
            f"1 of {n} texts are not sent to {language_model.name}"[:44] for n in (2, 1)
        ]


def test_tokens_without_an_embedding_are_refused_where_they_are_used(language_model, tiny_model, tmp_path):
    """gemma-3-1b and CodeLlama-34b have such tokens in their tokenizers."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = language_model.load_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens([f"<more-{i}>" for i in range(9)])
    tokenizer.save_pretrained(folder)
    model = replace(language_model, id=str(folder))
    with LanguageModelStages(model, COLOURS, str(tmp_path), torch.device("cpu"), quiet=True) as stages:
        (answer,) = stages.answer(["a"], stages.encode(["red?"]))
        assert answer.answer_ids
        with pytest.raises(
            ValueError, match=rf"expected tokens below {rows}, .* got {rows + 3} \('<more-3>'\); the tokenizer belongs"
        ):
            stages.answer(["a", "b"], stages.encode(["red?", "<more-3> blue?"]))
