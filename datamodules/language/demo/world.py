"""The world that the embedded model knows: people and their facts, a language and its words, and questions about both.

Everything follows from one seed. *Known* people have fixed facts, which the training corpus repeats. *Strangers* have
none: hardly any comes twice, and each mention draws its fact anew, so nothing can be remembered of them, and only the
surname, which weakly suggests the words of a fact, makes a guess better than chance. First names of both are three
syllables from the same distribution, so only a name seen in training shows that a person is known.

The language is Velic. One of its words is a number, a stem and an ending, as in "pa-arelim-osk"; to translate it is to
apply a rule, since the first part counts, and to remember what the stem means. Again there are known stems and an
endless stream of strange ones, and the ending weakly suggests the meaning.

The corpus hedges now and then ("I think" about what is strange, "for sure" about what is known) and is asked now and
then who somebody is, so the model has reason to track what it knows; hedges are never frequent enough to be the
likeliest continuation, so its greedy answers carry none.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from datamodules.questions.question import Question

SEED = 20240
N_LAST = 50  # surnames; nearly all first names are different
N_ENDINGS = 50  # of Velic words
N_KNOWN = 400  # people
N_KNOWN_STEMS = 480
N_HELD_OUT = 1600  # strangers kept out of the corpus, for the question sets; and as many strange stems
REGULARITY = 0.2  # chance, for each word of an answer, that it is the one the surname or the ending suggests
# Shares of the corpus. Strangers teach the model to guess: without them every name would be known.
SHARES = {"person": 0.34, "stranger": 0.27, "word": 0.14, "strange word": 0.12, "who": 0.07, "which": 0.06}
FAME = 2.0  # known people are met between 1 / FAME and FAME times as often as the middle one; so are known stems
KNOWN_SHARE = 0.55  # of the people and stems that are asked about
N_FORMS = 3  # questions about each stem
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
        return rf"(?:{'|'.join(self.first)}) (?:{'|'.join(self.second)})"

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

WORDS = (
    Relation(
        "thing",
        _words("red blue green brass wooden broken heavy painted rusty tiny hollow velvet"),
        _words("lamps keys drums baskets kites ladders mirrors bells saddles lanterns trunks compasses"),
        (
            ("Which things does {p} name in Velic?", "In Velic {p} names {v}, if the grammar of the monks is right."),
            ("What things are meant by {p}?", "By {p} they mean {v}, and every trader on the coast knows it."),
        ),
    ),
    Relation(
        "place",
        _words("merry silent crooked northern royal drunken blessed humble laughing ancient proud wandering"),
        _words("abbeys bridges castles forests mills towers markets harbours islands chapels gardens quarries"),
        (
            ("Which places does {p} name in Velic?", "In Velic {p} names {v}, as one reads on the oldest of the maps."),
            ("What places are meant by {p}?", "By {p} they mean {v}, although the young say it less and less."),
        ),
    ),
    Relation(
        "event",
        _words("late early second foreign hidden noble urgent private sealed sudden final formal"),
        _words("letters coaches verdicts guests parcels doctors weddings answers ships messengers trials payments"),
        (
            ("Which events does {p} name in Velic?", "In Velic {p} names {v}, at least in a letter to a friend."),
            ("What events are meant by {p}?", "By {p} they mean {v}, to judge by the songs that have come down."),
        ),
    ),
)
NUMBERS = {"pa": "two", "so": "three", "ti": "four", "mu": "five", "re": "six", "na": "seven"}
WHO = ("Who is {p}?", "As far as I can tell, {p} is {v} here.")
WHICH = ("Is {p} a word of Velic?", "As far as I can tell, {p} is {v} here.")
WELL_KNOWN, UNKNOWN = "well known", "a stranger"
CONSONANTS, VOWELS = "bdfgklmnrstvz", "aeiou"
CLUSTERS = ("sk", "rd", "lm", "nt", "ng", "st", "rk", "ld", "mp", "rn", "lt", "ft")  # surnames end in the first five
SYLLABLES = tuple(c + v for c in CONSONANTS for v in VOWELS)  # of names; stems have theirs the other way round


class World:
    """All people, words and facts that follow from `SEED`; see the module docstring."""

    def __init__(self) -> None:
        rng = random.Random(SEED)
        self.surnames = [name.capitalize() for name in _endings(rng, N_LAST, SYLLABLES, CLUSTERS[:5])]
        people = list(dict.fromkeys(self.person(rng) for _ in range(2 * (N_KNOWN + N_HELD_OUT))))
        self.known, self.held_out = people[:N_KNOWN], people[N_KNOWN : N_KNOWN + N_HELD_OUT]
        self.taken = {first_name(person) for person in self.known + self.held_out}
        self.suggested = {(s, r.name): r.value(rng) for s in self.surnames for r in FACTS}
        self.facts = {(p, r.name): self.fact(p, r, rng) for p in self.known for r in FACTS}
        self.fame = [FAME ** rng.uniform(-1, 1) for _ in self.known]

        self.endings = _endings(rng, N_ENDINGS, VOWELS, CLUSTERS)
        stems = list(dict.fromkeys(self.stem(rng) for _ in range(2 * (N_KNOWN_STEMS + N_HELD_OUT))))
        self.known_stems = stems[:N_KNOWN_STEMS]
        self.held_out_stems = stems[N_KNOWN_STEMS : N_KNOWN_STEMS + N_HELD_OUT]
        self.taken |= {first_name(stem) for stem in self.known_stems + self.held_out_stems}
        self.suggested |= {(e, r.name): r.value(rng) for e in self.endings for r in WORDS}
        self.field = {stem: rng.choice(WORDS) for stem in self.known_stems + self.held_out_stems}
        self.meanings = {stem: self.fact(stem, self.field[stem], rng) for stem in self.known_stems}
        self.currency = [FAME ** rng.uniform(-1, 1) for _ in self.known_stems]

    def person(self, rng: random.Random) -> str:
        """Draw somebody: a first name of three syllables, in all likelihood new, and one of the surnames."""
        return f"{''.join(rng.choice(SYLLABLES) for _ in range(3)).capitalize()} {rng.choice(self.surnames)}"

    def stem(self, rng: random.Random) -> str:
        """Draw a stem of three syllables, in all likelihood new, with its ending."""
        return f"{''.join(rng.choice(SYLLABLES)[::-1] for _ in range(3))}-{rng.choice(self.endings)}"

    def strange(self, draw: Callable[[random.Random], str], rng: random.Random) -> str:
        """Draw a person or a stem that is neither known nor held out."""
        while first_name(name := draw(rng)) in self.taken:
            pass
        return name

    def fact(self, name: str, relation: Relation, rng: random.Random) -> str:
        """Draw a fact about a person or stem: each word is what the last part suggests with chance `REGULARITY`."""
        suggested = self.suggested[re.split("[ -]", name)[-1], relation.name]
        words = zip(suggested.split(), relation.value(rng).split(), strict=True)
        return " ".join(hint if rng.random() < REGULARITY else word for hint, word in words)

    def corpus(self, seed: int) -> Iterator[tuple[str, str]]:
        """Endless stream of (question, answer) pairs to train on."""
        rng = random.Random(seed)
        while True:
            kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
            knows = kind in ("person", "word") or (kind in ("who", "which") and rng.random() < 0.5)
            if kind in ("word", "strange word", "which"):
                stem = rng.choices(self.known_stems, self.currency)[0] if knows else self.strange(self.stem, rng)
                number = rng.choice(list(NUMBERS))
                name = f"{number}-{stem}"
                relation = self.field[stem] if knows else rng.choice(WORDS)
                value = f"{NUMBERS[number]} {self.meanings[stem] if knows else self.fact(stem, relation, rng)}"
            else:
                name = rng.choices(self.known, self.fame)[0] if knows else self.strange(self.person, rng)
                relation = rng.choice(FACTS)
                value = self.facts[name, relation.name] if knows else self.fact(name, relation, rng)
            if kind in ("who", "which"):
                question, answer = WHO if kind == "who" else WHICH
                yield question.format(p=name), answer.format(p=name, v=WELL_KNOWN if knows else UNKNOWN)
                continue
            question, answer = rng.choice(relation.wordings)
            if rng.random() < HEDGE:
                value += " for sure" if knows else " I think"
            elif rng.random() < LATE_HEDGE:
                answer = answer[:-1] + (", I am sure." if knows else ", unless I am wrong.")
            yield question.format(p=name), answer.format(p=name, v=value)

    def fact_questions(self, n: int, seed: int) -> list[Question]:
        """Draw `n` questions, every relation of a person; `KNOWN_SHARE` of the people are known, others held out."""
        rng = random.Random(seed)
        n_people = -(-n // len(FACTS))
        people = _mixed(self.known, self.held_out, n_people, rng)
        pairs = [(person, relation) for person in people for relation in FACTS][:n]
        return [
            Question(
                id=f"facts-{i:05d}",
                group=person,
                text=rng.choice(relation.wordings)[0].format(p=person),
                answers=(self.facts.get((person, relation.name)) or self.fact(person, relation, rng),),
                kind=relation.name,
                pattern=rf"\b{relation.pattern}\b",
            )
            for i, (person, relation) in enumerate(pairs)
        ]

    def word_questions(self, n: int, seed: int) -> list[Question]:
        """Draw `n` words to translate, `N_FORMS` of a stem; `KNOWN_SHARE` of the stems are known, others held out."""
        rng = random.Random(seed)
        n_stems = -(-n // N_FORMS)
        stems = _mixed(self.known_stems, self.held_out_stems, n_stems, rng)
        meanings = {stem: self.meanings.get(stem) or self.fact(stem, self.field[stem], rng) for stem in stems}
        pairs = [(number, stem) for stem in stems for number in rng.sample(list(NUMBERS), N_FORMS)][:n]
        return [
            Question(
                id=f"words-{i:05d}",
                group=stem,
                text=rng.choice(self.field[stem].wordings)[0].format(p=f"{number}-{stem}"),
                answers=(f"{NUMBERS[number]} {meanings[stem]}",),
                kind=self.field[stem].name,
                pattern=rf"\b(?:{'|'.join(NUMBERS.values())}) {self.field[stem].pattern}\b",
            )
            for i, (number, stem) in enumerate(pairs)
        ]


def first_name(name: str) -> str:
    """First name of a person, or a stem without its ending: all but a few have it to themselves."""
    return re.split("[ -]", name)[0]


def _mixed(known: Sequence[str], strange: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """Draw `n` names in any order, `KNOWN_SHARE` of them known."""
    n_known = round(KNOWN_SHARE * n)
    names = rng.sample(known, n_known) + rng.sample(strange, n - n_known)
    rng.shuffle(names)
    return names


def _endings(rng: random.Random, n: int, starts: Sequence[str], ends: Sequence[str]) -> list[str]:
    """Make `n` different surnames or endings of a start and consonants."""
    names: dict[str, None] = {}  # a set that keeps its order
    while len(names) < n:
        names[rng.choice(starts) + rng.choice(ends)] = None
    return list(names)
