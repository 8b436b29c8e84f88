import hashlib
import itertools
import re
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM

from datamodules.demo import train_model
from datamodules.demo.world import (
    FACTS,
    HEDGE,
    LATE_HEDGE,
    N_HELD_OUT,
    N_KNOWN,
    NOTES,
    REGULARITY,
    SILENT_NOTE,
    WHO,
    World,
    first_name,
)

RELATIONS = {relation.name: relation for relation in FACTS + NOTES}
SURE, UNSURE = re.compile(r" for sure\b|, I am sure\.$"), re.compile(r" I think\b|, unless I am wrong\.$")
QUESTION_OF = {  # a regular expression of every wording of a fact question, and its relation
    re.compile(re.escape(question).replace(r"\{p\}", r"(\w+ \w+)")): relation
    for relation in FACTS
    for question, _ in relation.wordings
}


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def corpus(world):
    """20,000 (question, answer) pairs, with the person and relation of those that ask for a fact, else None."""

    def about(question):
        matches = ((expression.fullmatch(question), relation) for expression, relation in QUESTION_OF.items())
        return next(((match.group(1), relation) for match, relation in matches if match), None)

    return [(q, a, about(q)) for q, a in itertools.islice(world.corpus(seed=3), 20_000)]


def digest(questions):
    return hashlib.sha256(repr(questions).encode()).hexdigest()[:16]


def test_questions_are_those_the_committed_weights_were_measured_on(world):
    assert digest(world.fact_questions(2000, seed=0)) == "56650edc76f6e3e2"
    assert digest(world.note_questions(2000, seed=0)) == "99811f4e5ac9e60f"


def test_same_seed_gives_the_same_world_and_questions_and_another_seed_others(world):
    again = World()
    assert again.facts == world.facts
    assert list(itertools.islice(again.corpus(5), 100)) == list(itertools.islice(world.corpus(5), 100))
    for name in ("fact_questions", "note_questions"):
        assert getattr(again, name)(100, seed=1) == getattr(world, name)(100, seed=1)
        assert getattr(again, name)(100, seed=2) != getattr(world, name)(100, seed=1)


def test_known_and_held_out_people_are_all_different(world):
    assert (len(world.known), len(world.held_out)) == (N_KNOWN, N_HELD_OUT)
    assert len(set(world.known + world.held_out)) == N_KNOWN + N_HELD_OUT


def test_names_of_the_known_are_drawn_like_those_of_strangers(world):
    def shares(people):
        surnames = Counter(person.split()[1] for person in people)
        return [surnames[surname] / len(people) for surname in world.surnames]

    for known, held_out in zip(shares(world.known), shares(world.held_out), strict=True):
        assert abs(known - held_out) < 5 * (0.02 / N_KNOWN) ** 0.5


def test_the_corpus_never_mentions_the_held_out(world, corpus):
    mentioned = set(re.findall(r"[A-Z]\w+ [A-Z]\w+", " ".join(f"{q} {a}" for q, a, _ in corpus)))
    assert len(mentioned & set(world.known)) > 0.9 * N_KNOWN  # the expression does find people
    assert len(mentioned) > 5000
    assert not mentioned & set(world.held_out)
    met = {first_name(person) for person in mentioned - set(world.known)}
    assert not met & {first_name(person) for person in world.held_out}


def test_half_of_the_fact_questions_are_about_the_known_and_the_rest_about_the_held_out(world):
    asked = Counter(question.group for question in world.fact_questions(2000, seed=0))
    assert set(asked.values()) == {len(FACTS)}
    assert len(asked.keys() & set(world.known)) == len(asked.keys() & set(world.held_out)) == 250


def test_fact_questions_about_the_known_ask_for_what_the_corpus_repeats(world, corpus):
    asked = {(q.group, q.kind): q.answers[0] for q in world.fact_questions(2000, seed=0)}
    repeated = [
        (asked.get((about[0], about[1].name)), a) for _, a, about in corpus if about and about[0] in world.known
    ]
    compared = [(gold, answer) for gold, answer in repeated if gold]
    assert len(compared) > 2000
    assert all(gold in answer for gold, answer in compared)


def test_strangers_facts_are_drawn_anew_and_follow_the_surname_weakly(world, corpus):
    right = [
        world.suggested[about[0].split()[1], about[1].name] in a
        for _, a, about in corpus
        if about and about[0] not in world.known
    ]
    share = sum(right) / len(right)
    expected = (REGULARITY + (1 - REGULARITY) / 12) ** 2
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(right)) ** 0.5)


@pytest.mark.parametrize("relation", RELATIONS.values(), ids=RELATIONS)
def test_every_answer_sentence_holds_its_value_and_no_other(world, relation):
    assert len(set(relation.first)) == len(set(relation.second)) == 12
    values = [f"{first} {second}" for first, second in zip(relation.first, relation.second, strict=True)]
    for question, answer in relation.wordings:
        for value in values:
            assert re.findall(relation.pattern, answer.format(p=world.known[0], v=value)) == [value]
            assert not re.search(relation.pattern, question)


def test_gold_answers_match_their_pattern_whole(world):
    questions = world.fact_questions(400, seed=7) + world.note_questions(400, seed=7)
    assert {question.kind for question in questions} == RELATIONS.keys()
    for question in questions:
        assert question.pattern == RELATIONS[question.kind].pattern
        assert re.fullmatch(question.pattern, question.answers[0])


def test_hedges_tell_the_truth_and_stay_below_one_half(world, corpus):
    share = HEDGE + (1 - HEDGE) * LATE_HEDGE
    assert share < 0.5
    known = set(world.known)
    for knows, hedge, contrary in ((True, SURE, UNSURE), (False, UNSURE, SURE)):
        answers = [a for _, a, about in corpus if about and (about[0] in known) == knows]
        assert sum(bool(hedge.search(a)) for a in answers) / len(answers) == pytest.approx(share, abs=0.03)
        assert not any(contrary.search(a) for a in answers)


def test_who_somebody_is_says_who_is_known(world, corpus):
    known = set(world.known)
    people = {WHO[0].format(p=person): person in known for person in known}
    answers = Counter((people.get(q, False), "well known" in a) for q, a, _ in corpus if q.startswith("Who is"))
    assert answers.keys() == {(True, True), (False, False)}


def test_notes_state_half_of_what_is_asked_and_the_words_do_not_show_it(world):
    questions = world.note_questions(4000, seed=3)
    stated = [SILENT_NOTE.format(p=q.group) not in q.text for q in questions]
    assert sum(stated) / len(stated) == pytest.approx(0.5, abs=0.03)
    for question, is_stated in zip(questions, stated, strict=True):
        holds = re.search(rf"{question.group} {question.answers[0]}\.", question.text)
        assert bool(holds) == is_stated
        # In both cases the words are two values, a silent note, and the one asked about twice.
        assert question.text.count(question.group) == 2
        assert len(re.findall(question.pattern, question.text)) == 2
        assert question.text.count(SILENT_NOTE.removeprefix("{p}")) == 1


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
