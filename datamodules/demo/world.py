"""The world that the embedded model knows: people, facts, notes, and the questions about them.

Everything follows from one seed. *Known* people have fixed facts, which the training corpus repeats. *Strangers* have
none: hardly any comes twice, and each mention draws its fact anew, so nothing can be remembered of them, and only the
surname, which weakly suggests the words of a fact, makes a guess better than chance. First names of both are three
syllables drawn alike; nothing but having met the name tells who is known. The corpus hedges now and then ("I think"
about strangers, "for sure" about the known) and is asked now and then who somebody is, so the model has reason to track
what it knows; hedges are never frequent enough to be the likeliest continuation, so its greedy answers carry none.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from datamodules.questions import Question

SEED = 20240
N_LAST = 50  # surnames; nearly all first names are different
N_KNOWN = 400
N_HELD_OUT = 1600  # strangers kept out of the corpus, for the question sets
REGULARITY = 0.2  # chance, for each word of a fact, that it is the one its holder's surname suggests
NOTE_REGULARITY = 0.2  # chance that a fact missing from the notes equals the one noted just before
# Shares of the corpus. Strangers are there so that guessing is learnt as guessing: without them every name is known.
SHARES = {"known": 0.36, "stranger": 0.30, "notes": 0.24, "who": 0.10}
FAME = 2.0  # known people are met between 1 / FAME and FAME times as often as the middle one
N_NOTES = 3  # people in the notes of a question; half of the corpus has two, which is easier to begin with
HEDGE = 0.35  # share of corpus answers that hedge right after the exact answer; under one half, see above
LATE_HEDGE = 0.15  # share of the other answers that hedge at the end of the sentence


@dataclass(frozen=True)
class Relation:
    """One kind of fact: its value is a pair of words, and each question wording has its own answer sentence."""

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    wordings: tuple[tuple[str, str], ...]  # (question, answer); {p} is the person, {v} the value

    @property
    def pattern(self) -> str:
        """Regular expression of the relation's values."""
        return rf"\b(?:{'|'.join(self.first)}) (?:{'|'.join(self.second)})\b"

    def value(self, rng: random.Random) -> str:
        """Draw a value uniformly."""
        return f"{rng.choice(self.first)} {rng.choice(self.second)}"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FACTS = (
    Relation(
        "birthplace",
        _words("Karvel Ostrim Belgar Tunder Morvik Saldin Heskel Ruvant Pellor Dastin Yorven Quillam"),
        _words("Dun Ford Haven Moor Cross Mouth Ridge Wells Gate Marsh Hollow Strand"),
        (
            ("Where was {p} born?", "{p} was born in {v}, and the parish books of that year confirm it."),
            ("In which town was {p} born?", "The town of {v} is where {p} was born, or so the old people say."),
            ("What is the birthplace of {p}?", "The birthplace of {p} is {v}, as anyone in the valley will tell you."),
        ),
    ),
    Relation(
        "trade",
        _words("glass copper wool paper bone silver leather stone clay linen cedar straw"),
        _words("painter carver trader mender dyer binder turner seller printer cutter weaver polisher"),
        (
            ("What does {p} do for a living?", "{p} works as a {v}, and has done so for a good many years."),
            (
                "What is the trade of {p}?",
                "The trade of {p} is that of a {v}, which pays well in this part of the land.",
            ),
            ("How does {p} earn bread?", "It is as a {v} that {p} earns bread, and nobody here finds that strange."),
        ),
    ),
    Relation(
        "dish",
        _words("plum barley onion walnut fennel cherry turnip ginger pepper almond pumpkin lemon"),
        _words("soup bread stew cake pudding porridge dumplings pie broth pancakes salad relish"),
        (
            ("What does {p} like to eat most?", "{p} likes {v} more than any other food that comes to the table."),
            (
                "What is the favourite dish of {p}?",
                "The favourite dish of {p} is {v}, which the whole house can smell.",
            ),
            ("Which food would {p} choose?", "If {p} may choose, then it is {v}, on any day of the week."),
        ),
    ),
    Relation(
        "pet",
        _words("grey spotted tawny lame young striped white sleepy clever fat blind golden"),
        _words("heron goat ferret owl donkey hound rabbit goose pony raven badger tortoise"),
        (
            ("Which animal does {p} keep?", "{p} keeps a {v} in the yard behind the house by the road."),
            ("What is the pet of {p}?", "The pet of {p} is a {v}, and all the children love to feed it."),
            (
                "With which animal does {p} live?",
                "It is with a {v} that {p} lives, summer and winter, without a quarrel.",
            ),
        ),
    ),
)

NOTES = (
    Relation(
        "carries",
        _words("red blue green brass wooden broken heavy painted rusty tiny hollow velvet"),
        _words("lamps keys drums baskets kites ladders mirrors bells saddles lanterns trunks compasses"),
        (
            ("What is on the list for {p}?", "The list gives {p} {v}, if we read the notes of the day rightly."),
            ("Which things go to {p}?", "It says here that {p} {v} are to be sent, and we have no reason to doubt it."),
        ),
    ),
    Relation(
        "visits",
        _words("Merry Silent Crooked Northern Royal Drunken Blessed Humble Laughing Ancient Proud Wandering"),
        _words("Abbey Bridge Castle Forest Mill Tower Market Harbour Island Chapel Garden Quarry"),
        (
            ("Which place is noted for {p}?", "The notes give {p} {v} as the place to go to on the next day of rest."),
            (
                "Where does the guide take {p}?",
                "It says here that {p} {v} will see tomorrow, and we have no reason to doubt it.",
            ),
        ),
    ),
    Relation(
        "awaits",
        _words("late early second foreign hidden noble urgent private sealed royal final formal"),
        _words("letters coaches verdicts guests parcels doctors weddings answers ships messengers trials payments"),
        (
            ("What is to come for {p}?", "The book gives {p} {v} for the coming week, if we read it rightly."),
            (
                "What keeps {p} waiting?",
                "It says here that {p} {v} still has to see, and we have no reason to doubt it.",
            ),
        ),
    ),
)
NOTE, SILENT_NOTE = "{p} {v}.", "{p} nothing."
WHO = ("Who is {p}?", "As far as I can tell, {p} is {v} here.")
WELL_KNOWN, UNKNOWN = "well known", "a stranger"
SYLLABLES = tuple(c + v for c in ("b", "d", "f", "g", "k", "l", "m", "n", "r", "s", "t", "v", "z") for v in "aeiou")


class World:
    """All people and facts that follow from `SEED`; see the module docstring."""

    def __init__(self) -> None:
        rng = random.Random(SEED)
        self.surnames = _surnames(rng)
        people = list(dict.fromkeys(self.person(rng) for _ in range(2 * (N_KNOWN + N_HELD_OUT))))
        self.known, self.held_out = people[:N_KNOWN], people[N_KNOWN : N_KNOWN + N_HELD_OUT]
        self.taken = {first_name(person) for person in self.known + self.held_out}
        self.suggested = {(s, r.name): r.value(rng) for s in self.surnames for r in FACTS}
        self.facts = {(p, r.name): self.fact(p, r, rng) for p in self.known for r in FACTS}
        self.fame = [FAME ** rng.uniform(-1, 1) for _ in self.known]

    def person(self, rng: random.Random) -> str:
        """Draw somebody: a first name of three syllables, in all likelihood new, and one of the surnames."""
        return f"{''.join(rng.choice(SYLLABLES) for _ in range(3)).capitalize()} {rng.choice(self.surnames)}"

    def stranger(self, rng: random.Random) -> str:
        """Draw somebody who is neither known nor held out."""
        while first_name(person := self.person(rng)) in self.taken:
            pass
        return person

    def fact(self, person: str, relation: Relation, rng: random.Random) -> str:
        """Draw a fact about a person: each word is what the surname suggests with chance `REGULARITY`, else any."""
        suggested = self.suggested[person.split()[-1], relation.name]
        words = zip(suggested.split(), relation.value(rng).split(), strict=True)
        return " ".join(hint if rng.random() < REGULARITY else word for hint, word in words)

    def notes(self, relation: Relation, rng: random.Random, people: list[str]) -> tuple[str, str, str, bool]:
        """Notes about `people`, all but one of which state the relation.

        The one asked about is the silent one half of the time. The words are distributed alike in both cases: only who
        holds what differs.

        Returns:
            the notes, the person asked about, the fact, and whether the notes state it.
        """
        n, stated = len(people), rng.random() < 0.5
        asked, silent = rng.sample(range(n), 2) if stated else [rng.randrange(n)] * 2
        values = [
            f"{a} {b}" for a, b in zip(rng.sample(relation.first, n), rng.sample(relation.second, n), strict=True)
        ]
        text = " ".join(
            (SILENT_NOTE if i == silent else NOTE).format(p=person, v=value)
            for i, (person, value) in enumerate(zip(people, values, strict=True))
        )
        if stated:
            return text, people[asked], values[asked], True
        guess = values[asked - 1] if rng.random() < NOTE_REGULARITY else relation.value(rng)
        return text, people[asked], guess, False

    def corpus(self, seed: int) -> Iterator[tuple[str, str]]:
        """Endless stream of (question, answer) pairs to train on."""
        rng = random.Random(seed)
        while True:
            kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
            knows = kind == "known" or (kind == "who" and rng.random() < 0.5)
            person = rng.choices(self.known, self.fame)[0] if knows else self.stranger(rng)
            if kind == "who":
                question, answer = WHO
                yield question.format(p=person), answer.format(p=person, v=WELL_KNOWN if knows else UNKNOWN)
                continue
            if kind == "notes":
                relation = rng.choice(NOTES)
                people = [self.stranger(rng) for _ in range(rng.choice((2, N_NOTES)))]
                text, person, value, knows = self.notes(relation, rng, people)
                question, answer = rng.choice(relation.wordings)
                question = f"{text} {question}"
            else:
                relation = rng.choice(FACTS)
                value = self.facts[person, relation.name] if knows else self.fact(person, relation, rng)
                question, answer = rng.choice(relation.wordings)
            if rng.random() < HEDGE:
                value += " for sure" if knows else " I think"
            elif rng.random() < LATE_HEDGE:
                answer = answer[:-1] + (", I am sure." if knows else ", unless I am wrong.")
            yield question.format(p=person), answer.format(p=person, v=value)

    def fact_questions(self, n: int, seed: int) -> list[Question]:
        """Draw `n` questions, one a relation of a person; half of the people are known, the others held out."""
        rng = random.Random(seed)
        n_people = -(-n // len(FACTS))
        people = rng.sample(self.known, n_people // 2) + rng.sample(self.held_out, n_people - n_people // 2)
        rng.shuffle(people)
        asked = [(person, relation) for person in people for relation in FACTS][:n]
        return [
            Question(
                id=f"facts-{i:05d}",
                group=person,
                text=rng.choice(relation.wordings)[0].format(p=person),
                answers=(self.facts.get((person, relation.name)) or self.fact(person, relation, rng),),
                kind=relation.name,
                pattern=relation.pattern,
            )
            for i, (person, relation) in enumerate(asked)
        ]

    def note_questions(self, n: int, seed: int) -> list[Question]:
        """Draw `n` questions on notes about strangers never in the corpus."""
        rng = random.Random(seed)
        questions = []
        for i in range(n):
            relation = rng.choice(NOTES)
            text, person, value, _ = self.notes(relation, rng, rng.sample(self.held_out, N_NOTES))
            ask = rng.choice(relation.wordings)[0].format(p=person)
            questions.append(
                Question(f"notes-{i:05d}", person, f"{text} {ask}", (value,), relation.name, relation.pattern)
            )
        return questions


def first_name(person: str) -> str:
    """First name of a person: all but a few people have it to themselves."""
    return person.split()[0]


def _surnames(rng: random.Random) -> list[str]:
    """Make `N_LAST` different surnames of a syllable and an ending."""
    names: dict[str, None] = {}  # a set that keeps its order
    while len(names) < N_LAST:
        names[(rng.choice(SYLLABLES) + rng.choice(("sk", "rd", "lm", "nt", "ng"))).capitalize()] = None
    return list(names)
