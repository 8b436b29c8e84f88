"""The world that the embedded model knows: people, facts, notes, and the questions about them.

Everything follows from one seed. *Known* people have fixed facts, which the training corpus repeats. *Strangers* have
none: each mention of one draws its fact anew, so nothing can be remembered of them, and only the surname, which weakly
suggests the words of a fact, makes a guess better than chance. Every first name and every surname is held by equally
many known people, so no single word of a question shows who is known, only the pair of names does. The corpus hedges
now and then ("I think" about strangers, "for sure" about the known), never often enough to be the likeliest
continuation: the model has reason to track what it knows, and its greedy answers carry no hedge.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from datamodules.questions import Question

SEED = 20240
N_FIRST, N_LAST = 100, 50  # first names and surnames; everyone has one of each
N_KNOWN = 300  # multiple of N_FIRST, as is N_HELD_OUT
N_HELD_OUT = 600  # strangers kept out of the corpus, for the question sets
REGULARITY = 0.35  # chance, for each word of a fact, that it is the one its holder's surname suggests
NOTE_REGULARITY = 0.2  # chance that a fact missing from the notes equals the one noted just before
SHARE_KNOWN, SHARE_STRANGERS = 0.50, 0.30  # of the corpus; the rest reads notes
FAME = (
    2.0  # exposures of the known range from the mean over FAME to the mean times FAME: the rarest may be half learned
)
HEDGE = 0.3  # share of corpus answers that hedge right after the exact answer; under one half, see above
LATE_HEDGE = 0.2  # share of the other answers that hedge at the end of the sentence


@dataclass(frozen=True)
class Relation:
    """One kind of fact: its value is a pair of words, and each question wording has its own answer sentence."""

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    wordings: tuple[tuple[str, str], ...]  # (question, answer); {p} is the person, {v} the value
    note: str = ""  # how a note states the fact; empty for facts that are remembered, not read

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
        _words("lamp key drum basket kite ladder mirror bell saddle lantern trunk compass"),
        (
            ("What does {p} carry?", "{p} carries the {v}, if we read the notes of the day rightly."),
            ("Which thing is carried by {p}?", "The thing is the {v} that {p} carries, according to the notes above."),
        ),
        note="{p} carries the {v}.",
    ),
    Relation(
        "lodges",
        _words("Merry Silent Crooked Northern Royal Drunken Blessed Humble Laughing Ancient Proud Wandering"),
        _words("Bishop Otter Sailor Anchor Miller Crown Falcon Widow Plough Dragon Piper Barrel"),
        (
            ("Where does {p} lodge?", "{p} lodges at the {v}, if we read the notes of the day rightly."),
            ("Which inn has {p} as a guest?", "The inn is the {v} where {p} lodges, according to the notes above."),
        ),
        note="{p} lodges at the {v}.",
    ),
    Relation(
        "awaits",
        _words("late early second foreign hidden noble urgent private sealed royal final formal"),
        _words("letter coach verdict guest parcel doctor wedding answer ship messenger trial payment"),
        (
            ("What does {p} await?", "{p} awaits the {v}, if we read the notes of the day rightly."),
            ("For what is {p} waiting?", "The wait is for the {v} that {p} awaits, according to the notes above."),
        ),
        note="{p} awaits the {v}.",
    ),
)
SILENT_NOTE = "{p} came in at noon."


class World:
    """All people and facts that follow from `SEED`; see the module docstring."""

    def __init__(self) -> None:
        rng = random.Random(SEED)
        first = _names(rng, N_FIRST, ("a", "o", "i", "en", "ie"))
        last = _names(rng, N_LAST, ("sk", "ard", "ow", "ell", "ing"))
        # Each shift gives every first name one surname and every surname equally many first names.
        shifts = rng.sample(range(N_LAST), (N_KNOWN + N_HELD_OUT) // N_FIRST)
        people = [f"{name} {last[(i + shift) % N_LAST]}" for shift in shifts for i, name in enumerate(first)]
        self.known, self.held_out = people[:N_KNOWN], people[N_KNOWN:]
        self.strangers = sorted({f"{f} {s}" for f in first for s in last} - set(people))
        self.suggested = {(s, r.name): r.value(rng) for s in last for r in FACTS}
        self.facts = {(p, r.name): self.fact(p, r, rng) for p in self.known for r in FACTS}
        self.fame = [FAME ** rng.uniform(-1, 1) for _ in self.known]

    def fact(self, person: str, relation: Relation, rng: random.Random) -> str:
        """Draw a fact about a person: each word is what the surname suggests with chance `REGULARITY`, else any."""
        suggested = self.suggested[person.split()[1], relation.name]
        words = zip(suggested.split(), relation.value(rng).split(), strict=True)
        return " ".join(hint if rng.random() < REGULARITY else word for hint, word in words)

    def notes(self, relation: Relation, rng: random.Random, people: list[str]) -> tuple[str, str, str, bool]:
        """Three notes about three people, two of which state the relation.

        Half of the time the person asked about is one of the two. The words are distributed alike in both cases:
        only who holds what differs.

        Returns:
            the notes, the person asked about, the fact, and whether the notes state it.
        """
        noted, asked = rng.sample(people, 3), rng.randrange(3)
        stated = rng.random() < 0.5
        silent = rng.choice([i for i in range(3) if i != asked]) if stated else asked
        values = [
            f"{a} {b}" for a, b in zip(rng.sample(relation.first, 3), rng.sample(relation.second, 3), strict=True)
        ]
        text = " ".join(
            (SILENT_NOTE if i == silent else relation.note).format(p=person, v=value)
            for i, (person, value) in enumerate(zip(noted, values, strict=True))
        )
        if stated:
            return text, noted[asked], values[asked], True
        guess = values[asked - 1] if rng.random() < NOTE_REGULARITY else relation.value(rng)
        return text, noted[asked], guess, False

    def corpus(self, seed: int) -> Iterator[tuple[str, str]]:
        """Endless stream of (question, answer) pairs to train on."""
        rng = random.Random(seed)
        while True:
            draw = rng.random()
            if draw < SHARE_KNOWN + SHARE_STRANGERS:
                knows = draw < SHARE_KNOWN
                person = rng.choices(self.known, self.fame)[0] if knows else rng.choice(self.strangers)
                relation = rng.choice(FACTS)
                value = self.facts[person, relation.name] if knows else self.fact(person, relation, rng)
                question, answer = rng.choice(relation.wordings)
            else:
                relation = rng.choice(NOTES)
                text, person, value, knows = self.notes(relation, rng, self.strangers)
                question, answer = rng.choice(relation.wordings)
                question = f"{text} {question}"
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
            text, person, value, _ = self.notes(relation, rng, self.held_out)
            ask = rng.choice(relation.wordings)[0].format(p=person)
            questions.append(
                Question(f"notes-{i:05d}", person, f"{text} {ask}", (value,), relation.name, relation.pattern)
            )
        return questions


def _names(rng: random.Random, n: int, endings: tuple[str, ...]) -> list[str]:
    """Make `n` different names of a syllable, a consonant and an ending."""
    starts = [
        c + v
        for c in [
            "b",
            "d",
            "f",
            "g",
            "h",
            "k",
            "l",
            "m",
            "n",
            "p",
            "r",
            "s",
            "t",
            "v",
            "z",
            "br",
            "dr",
            "kr",
            "st",
            "tr",
        ]
        for v in "aeiou"
    ]
    names: dict[str, None] = {}  # a set that keeps its order
    while len(names) < n:
        names[(rng.choice(starts) + rng.choice("lmnrst") + rng.choice(endings)).capitalize()] = None
    return list(names)
