"""The card describes a grid of activations. A grid of probes keeps the card of the data it was fitted on.

Standard library only: it is the only module of `datamodules` that `probes` imports.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

MIN_PER_CLASS = 10  # a probe is not judged with fewer examples of a class
CONTROL = "control"  # name of a label set that is random
AGAINST_REST = ("of other classes", "of the class")  # what labels 0 and 1 are called with more than two classes
MIN_GROUPS = 20  # of a test split: standard errors from fewer are rough


# Control characters, marks that turn the direction of writing, and halves of surrogate pairs.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def show_text(text: str) -> str:
    r"""A name or a text as people are shown it: on one line, with characters that act on a terminal written out.

    Names come from files of other people. Everything that prints one, or writes it for people, calls this.

    >>> show_text("caf\xe9\x1b[31m\n")
    'caf\xe9\\x1b[31m\\n'
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_control(label: str) -> bool:
    """Whether a label set is random: its name is `control`, or `control of` that of another.

    >>> is_control("control of correctness"), is_control("control questions")
    (True, False)
    """
    return label == CONTROL or label.startswith(f"{CONTROL} of ")


@dataclass(frozen=True)
class Count:
    """How many examples a split has.

    Attributes:
        n: examples.
        n_positive: those with label 1.
        n_groups: groups of examples that stay together; None in cards of older versions.

    Example:
        >>> Count(n=20, n_positive=12).n_positive
        12
    """

    n: int
    n_positive: int
    n_groups: int | None = None


@dataclass(frozen=True)
class TargetCard:
    """One target: a label set and the split of its examples.

    Attributes:
        name: unique among the targets, such as `correctness, seed 5`.
        label: what label 1 means; targets with the same label are one label set with several splits.
        seed: of the split.
        counts: of `train`, `val` and `test`.

    Example:
        >>> TargetCard("correctness", "correctness", 0, {"test": Count(20, 12)}).counts["test"].n
        20
    """

    name: str
    label: str
    seed: int | None
    counts: Mapping[str, Count]


@dataclass(frozen=True)
class Card:
    """Describes a grid of L layers and T positions.

    Attributes:
        model: name of the language model.
        revision: its commit on the hub; None for local files.
        dataset: name of the question set.
        site: which tensor of a block, by TransformerLens' name.
        layers: [L] block numbers, the rows.
        positions: [T] names, the columns.
        width: D.
        targets: [K].
        classes: what labels 0 and 1 are called.
        coincidence: [T, T], share of the examples having both positions in which the two are one token, None where no
            example has both; None where the tokens are not known.
        n_valid: [T], how many examples have the position, of those that the targets do not leave out.
        cache: keys of the cache entries that were read, by stage.
        identity: what the activations depend on beside the texts, by part: digests of weights, tokenizer and prompt,
            and the dtype. Empty in cards of older versions, and for activations from elsewhere.

    Example:
        >>> Card("gpt2", "cities", "resid_post", (0, 4), ("first", "last"), 768, targets=(), n_valid=(9, 9)).shape
        (0, 2, 2, 768)
    """

    model: str
    dataset: str
    site: str
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    width: int
    targets: tuple[TargetCard, ...]
    n_valid: tuple[int, ...]
    revision: str | None = None
    classes: tuple[str, str] = ("wrong", "right")
    coincidence: tuple[tuple[float | None, ...], ...] | None = None
    cache: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """K, L, T, D."""
        return len(self.targets), len(self.layers), len(self.positions), self.width

    def choose(self, layers: Sequence[int], positions: Sequence[str]) -> "Card":
        """Return the card of some rows and columns, in the order given; all of them must exist.

        >>> card = Card("gpt2", "cities", "resid_post", (0, 4), ("first", "last"), 768, targets=(), n_valid=(9, 8))
        >>> card.choose([4], ["last"]).n_valid
        (8,)
        """
        columns = [self.positions.index(name) for name in positions]
        shares = self.coincidence
        return replace(
            self,
            layers=tuple(layers),
            positions=tuple(positions),
            n_valid=tuple(self.n_valid[t] for t in columns),
            coincidence=shares and tuple(tuple(shares[i][j] for j in columns) for i in columns),
        )

    def require(self, fitted: "Card") -> None:
        """Check that probes with the card `fitted` can be tested on this data; rows and columns may be in any order.

        Raises:
            ValueError: this data lacks a layer, a position or the width of the probes, or the targets cannot be paired.
                They are paired in order; a single target is paired with all.
        """
        probes = f"the probes that were fitted on {fitted.dataset}"
        for name, wanted, here in (
            ("layer", fitted.layers, self.layers),
            ("position", fitted.positions, self.positions),
        ):
            if missing := [str(one) for one in wanted if one not in here]:
                raise ValueError(
                    f"test: expected every {name} of {probes}, got {self.dataset} without {name} {', '.join(missing)}; "
                    "read it there too, or fit probes without it"
                )
        if fitted.width != self.width:
            raise ValueError(
                f"test: expected activations of width {fitted.width}, that of {probes}, got width {self.width} of "
                f"{self.model}; take the same model and site"
            )
        names, own = ([target.name for target in card.targets] for card in (fitted, self))
        if 1 in (len(names), len(own)):
            return
        if len(names) != len(own):
            raise ValueError(
                f"test: expected one target or {len(names)}, as many as {probes} have, got {len(own)}; choose as many "
                "split seeds"
            )
        if any(name in own and own.index(name) != k for k, name in enumerate(names)):
            raise ValueError(
                f"test: expected targets in the order of {probes}, {'; '.join(names)}, got {'; '.join(own)}; put them "
                "in that order"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON-ready data, which `from_json` reads."""
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Card":
        """Read a card, also one of version 0.1, which had a single target without a name.

        Raises:
            ValueError: the content is not that of a card, or contradicts itself.
        """
        try:
            card = _parse(content)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise ValueError(f"expected a card, got one that lacks something or has another form ({error})") from None
        wrong = [name for name, holds in _list_rules(card) if not holds]
        if "targets" in content and not card.n_valid:  # those of version 0.1 had none of either
            wrong.append("n_valid")
        if wrong:
            raise ValueError(f"expected a card whose parts fit each other, got one with other {', '.join(wrong)}")
        return card


def _parse(content: Mapping[str, Any]) -> Card:
    given = dict(content)
    if "targets" not in given:
        split, label = dict(given.pop("split", {})), given.pop("target", "label 1")
        seed = split.pop("seed", None)
        given["targets"] = [{"name": label, "label": label, "seed": seed, "counts": split}]
    shares = given.get("coincidence")
    known = {name: given[name] for name in Card.__dataclass_fields__ if name in given}
    return Card(
        **known
        | {
            "layers": tuple(given["layers"]),
            "positions": tuple(given["positions"]),
            "n_valid": tuple(given.get("n_valid", ())),
            "classes": tuple(given.get("classes", ("wrong", "right"))),
            "coincidence": shares and tuple(tuple(row) for row in shares),
            "targets": tuple(
                TargetCard(
                    one["name"],
                    one["label"],
                    one["seed"],
                    {split: Count(**count) for split, count in one["counts"].items()},
                )
                for one in given["targets"]
            ),
        }
    )


def _list_rules(card: Card) -> list[tuple[str, bool]]:
    """What a card must hold, each part by its name."""
    T = len(card.positions)
    counts = [count for target in card.targets for count in target.counts.values()]
    shares = card.coincidence
    return [
        ("model, dataset or site", all(isinstance(text, str) for text in (card.model, card.dataset, card.site))),
        ("revision", card.revision is None or isinstance(card.revision, str)),
        ("layers", _are_counts(card.layers) and _differ(card.layers)),
        ("positions", _are_texts(card.positions) and _differ(card.positions)),
        ("width", _are_counts([card.width]) and card.width > 0),
        ("n_valid", _are_counts(card.n_valid) and len(card.n_valid) in (0, T)),
        ("classes", _are_texts(card.classes) and len(card.classes) == 2),
        ("coincidence", shares is None or (len(shares) == T and all(len(row) == T for row in shares))),
        (
            "shares of coincidence",
            shares is None or all(one is None or type(one) in (int, float) for row in shares for one in row),
        ),
        (
            "targets",
            bool(card.targets) and _are_texts([text for one in card.targets for text in (one.name, one.label)]),
        ),
        (
            "names of targets",
            _are_texts([one.name for one in card.targets]) and _differ([t.name for t in card.targets]),
        ),
        ("seeds", all(one.seed is None or type(one.seed) is int for one in card.targets)),
        ("counts", all(_are_counts([n, ones]) and ones <= n for n, ones in ((c.n, c.n_positive) for c in counts))),
        ("groups", _are_counts([count.n_groups for count in counts if count.n_groups is not None])),
        ("cache", isinstance(card.cache, Mapping) and _are_texts([*card.cache, *card.cache.values()])),
        ("identity", isinstance(card.identity, Mapping) and _are_texts([*card.identity, *card.identity.values()])),
    ]


def _are_counts(numbers: Sequence[object]) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def _are_texts(texts: Sequence[object]) -> bool:
    return all(isinstance(text, str) for text in texts)


def _differ(names: Sequence[object]) -> bool:
    return 0 < len(names) == len(set(names))
