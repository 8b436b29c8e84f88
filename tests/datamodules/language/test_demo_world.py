import hashlib
import itertools
import re
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM

from datamodules.language.demo import train_model
from datamodules.language.demo.world import (
    FACTS,
    HEDGE,
    KNOWN_SHARE,
    LATE_HEDGE,
    N_FORMS,
    N_HELD_OUT,
    N_KNOWN,
    N_KNOWN_STEMS,
    NUMBERS,
    REGULARITY,
    SHARES,
    WHICH,
    WHO,
    WORDS,
    World,
    first_name,
)

RELATIONS = {relation.name: relation for relation in FACTS + WORDS}
SURE, UNSURE = re.compile(r" for sure\b|, I am sure\.$"), re.compile(r" I think\b|, unless I am wrong\.$")
QUESTION_OF = {  # a regular expression of every wording of a question, and its relation
    re.compile(re.escape(question).replace(r"\{p\}", r"(\w+ \w+)" if relation in FACTS else r"\w+-(\w+-\w+)")): relation
    for relation in FACTS + WORDS
    for question, _ in relation.wordings
}


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def corpus(world):
    """20,000 (question, answer) pairs, with the person or stem and the relation where one is asked for, else None."""

    def about(question):
        matches = ((expression.fullmatch(question), relation) for expression, relation in QUESTION_OF.items())
        return next(((match.group(1), relation) for match, relation in matches if match), None)

    return [(q, a, about(q)) for q, a in itertools.islice(world.corpus(seed=3), 20_000)]


def digest(questions):
    content = [(q.id, q.group, q.text, q.answers, q.kind, q.pattern) for q in questions]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def test_questions_are_those_the_committed_weights_were_measured_on(world):
    assert digest(world.fact_questions(2000, seed=0)) == "a17a205f7239d19e"
    assert digest(world.word_questions(2000, seed=0)) == "82aeab3fd1a71a33"


def test_same_seed_gives_the_same_world_and_questions_and_another_seed_others(world):
    again = World()
    assert again.facts == world.facts
    assert list(itertools.islice(again.corpus(5), 100)) == list(itertools.islice(world.corpus(5), 100))
    for name in ("fact_questions", "word_questions"):
        assert getattr(again, name)(100, seed=1) == getattr(world, name)(100, seed=1)
        assert getattr(again, name)(100, seed=2) != getattr(world, name)(100, seed=1)


def test_known_and_held_out_are_all_different(world):
    assert (len(world.known), len(world.held_out)) == (N_KNOWN, N_HELD_OUT)
    assert len(set(world.known + world.held_out)) == N_KNOWN + N_HELD_OUT
    assert (len(world.known_stems), len(world.held_out_stems)) == (N_KNOWN_STEMS, N_HELD_OUT)
    assert len(set(world.known_stems + world.held_out_stems)) == N_KNOWN_STEMS + N_HELD_OUT


@pytest.mark.parametrize(("known", "held_out"), [("known", "held_out"), ("known_stems", "held_out_stems")])
def test_what_is_known_is_named_like_what_is_strange(world, known, held_out):
    known, held_out = getattr(world, known), getattr(world, held_out)

    def shares(names):
        last = Counter(re.split("[ -]", name)[1] for name in names)
        return [last[part] / len(names) for part in (world.surnames if names[0][0].isupper() else world.endings)]

    for one, other in zip(shares(known), shares(held_out), strict=True):
        assert abs(one - other) < 5 * (0.02 / len(known)) ** 0.5
    assert {len(first_name(name)) for name in known + held_out} == {6}


def test_the_corpus_never_mentions_the_held_out(world, corpus):
    text = " ".join(f"{q} {a}" for q, a, _ in corpus)
    for found, known, held_out, least in (
        (re.findall(r"[A-Z]\w+ [A-Z]\w+", text), world.known, world.held_out, 5000),
        (re.findall(r"\w+-(\w+-\w+)", text), world.known_stems, world.held_out_stems, 2000),
    ):
        mentioned = set(found)
        assert len(mentioned & set(known)) > 0.9 * len(known)  # the expression does find them
        assert len(mentioned) > least
        met = {first_name(name) for name in mentioned - set(known)}
        assert not met & {first_name(name) for name in held_out}


def test_the_share_of_questions_about_the_known_and_the_number_about_each(world):
    for draw, known, held_out, each in (
        (world.fact_questions, world.known, world.held_out, len(FACTS)),
        (world.word_questions, world.known_stems, world.held_out_stems, N_FORMS),
    ):
        asked = Counter(question.group for question in draw(2400, seed=0))
        assert set(asked.values()) == {each}
        assert len(asked.keys() & set(known)) == KNOWN_SHARE * 2400 / each
        assert len(asked.keys() & set(held_out)) == (1 - KNOWN_SHARE) * 2400 / each


def test_questions_about_the_known_ask_for_what_the_corpus_repeats(world, corpus):
    asked = {(q.group, q.kind): q.answers[0] for q in world.fact_questions(2000, seed=0)}
    asked |= {(q.group, q.kind): q.answers[0].split(" ", 1)[1] for q in world.word_questions(2000, seed=0)}
    known = set(world.known + world.known_stems)
    repeated = [(asked.get((about[0], about[1].name)), a) for _, a, about in corpus if about and about[0] in known]
    compared = [(gold, answer) for gold, answer in repeated if gold]
    assert len(compared) > 3000
    assert all(gold in answer for gold, answer in compared)


def test_the_number_of_a_word_is_its_first_part(corpus):
    counted = [(q, a) for q, a, about in corpus if about and about[1] in WORDS]
    assert len(counted) > 2000
    assert all(NUMBERS[re.findall(r"(\w+)-\w+-", q)[0]] in a.split() for q, a in counted)


def test_what_is_strange_is_drawn_anew_and_follows_the_last_part_weakly(world, corpus):
    expected = (REGULARITY + (1 - REGULARITY) / 12) ** 2
    for relations, known in ((FACTS, world.known), (WORDS, world.known_stems)):
        strange = [(about, a) for _, a, about in corpus if about and about[1] in relations and about[0] not in known]
        right = [world.suggested[re.split("[ -]", name)[1], r.name] in a for (name, r), a in strange]
        share = sum(right) / len(right)
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(right)) ** 0.5)


@pytest.mark.parametrize("relation", RELATIONS.values(), ids=RELATIONS)
def test_every_answer_sentence_holds_its_value_and_no_other(world, relation):
    assert len(set(relation.first)) == len(set(relation.second)) == 12
    values = [f"{first} {second}" for first, second in zip(relation.first, relation.second, strict=True)]
    for question, answer in relation.wordings:
        for value in values:
            name = world.known[0] if relation in FACTS else f"pa-{world.known_stems[0]}"
            assert re.findall(relation.pattern, answer.format(p=name, v=value)) == [value]
            assert not re.search(relation.pattern, question)


def test_gold_answers_match_their_pattern_whole(world):
    questions = world.fact_questions(400, seed=7) + world.word_questions(400, seed=7)
    assert {question.kind for question in questions} == RELATIONS.keys()
    for question in questions:
        assert RELATIONS[question.kind].pattern in question.pattern
        assert re.fullmatch(question.pattern, question.answers[0])


def test_hedges_tell_the_truth_and_stay_below_one_half(world, corpus):
    share = HEDGE + (1 - HEDGE) * LATE_HEDGE
    assert share < 0.5
    known = set(world.known + world.known_stems)
    for knows, hedge, contrary in ((True, SURE, UNSURE), (False, UNSURE, SURE)):
        answers = [a for _, a, about in corpus if about and (about[0] in known) == knows]
        assert sum(bool(hedge.search(a)) for a in answers) / len(answers) == pytest.approx(share, abs=0.03)
        assert not any(contrary.search(a) for a in answers)


@pytest.mark.parametrize(("text", "known"), [(WHO, "known"), (WHICH, "known_stems")], ids=["who", "which"])
def test_asked_for_the_name_alone_the_corpus_tells_the_known_from_the_strange(world, corpus, text, known):
    asked = re.compile(re.escape(text[0]).replace(r"\{p\}", r"(?:\w\w-)?(\w+[ -]\w+)"))
    matches = [(asked.fullmatch(q), a) for q, a, _ in corpus]
    answers = Counter((m.group(1) in set(getattr(world, known)), "well known" in a) for m, a in matches if m)
    assert answers.keys() == {(True, True), (False, False)}
    assert min(answers.values()) > 300


def test_the_corpus_has_the_shares_it_should(corpus):
    assert sum(SHARES.values()) == pytest.approx(1)
    words = sum("-" in question for question, _, _ in corpus) / len(corpus)
    expected = SHARES["word"] + SHARES["strange word"] + SHARES["which"]
    assert words == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(corpus)) ** 0.5)


def test_training_twice_writes_the_same_bytes_of_a_model_that_loads(tmp_path):
    for folder in ("one", "two"):
        train_model.train(tmp_path / folder, steps=2)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert model.dtype == torch.bfloat16
    assert model.config.num_hidden_layers == train_model.LAYERS
