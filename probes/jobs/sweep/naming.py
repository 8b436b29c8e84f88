"""Names of the jobs of a sweep, from what differs between them."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

MOST_OF_VALUE, MOST_OF_NAME = 40, 120  # characters; file systems take 255 bytes


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides as Hydra does; in Hydra, `glob(*)` finds the choices of a group."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None
    return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))


def read_values(overrides: Sequence[str]) -> dict[str, str]:
    """Values by key, as texts; a later override wins. Overrides that remove a key are left out.

    >>> read_values(["site=z", "+trainer.num_nodes=2", "probe.l2=1", "probe.l2=10"])
    {'site': 'z', 'trainer.num_nodes': '2', 'probe.l2': '10'}
    """
    return {_key(one): _write(one) for one in parse(overrides) if not one.is_delete()}


def find_swept(overrides: Sequence[str], params: Mapping[str, Any] | None = None) -> dict[str, list[str] | None]:
    """Keys that take several values in a sweep, and these values; None where a sweeper draws them.

    Args:
        overrides: of the command line.
        params: `hydra.sweeper.params`; the command line wins over them.

    Raises:
        ValueError: a key is given twice, and several values once or more; Hydra would drop the first.

    >>> find_swept(["site=z,mlp_out", "seed=0", "probe.l2=interval(1,10)"])
    {'site': ['z', 'mlp_out'], 'probe.l2': None}
    """
    texts = [f"{key}={value}" for key, value in (params or {}).items()]
    found: dict[str, list[str] | None] = {}
    given = [one for one in parse(overrides) if not one.is_delete()]
    for number, one in enumerate(given):
        same = [other for other in given[:number] if _key(other) == _key(one)]
        if same and any(each.is_sweep_override() for each in (*same, one)):
            raise ValueError(
                f"{_key(one)}: expected once in a sweep, got {same[-1].input_line} and {one.input_line}; write all "
                "values after one ="
            )
    for one in parse([*texts, *overrides]):
        found.pop(_key(one), None)
        if one.is_discrete_sweep():
            found[_key(one)] = list(one.sweep_string_iterator())
        elif one.is_sweep_override():
            found[_key(one)] = None
    return found


def take_first(overrides: Sequence[str]) -> list[str]:
    """The overrides of the first job of a sweep; what a sweeper draws is left out.

    >>> take_first(["site=z,mlp_out", "+seeds=0,1", "seed=0", "probe.l2=interval(1,10)"])
    ['site=z', '+seeds=0', 'seed=0']
    """
    return [
        f"{one.get_key_element()}={next(one.sweep_string_iterator())}"
        if one.is_sweep_override()
        else str(one.input_line)
        for one in parse(overrides)
        if one.is_discrete_sweep() or not one.is_sweep_override()
    ]


def shorten_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, or all of it where another key has the same last part.

    >>> shorten_keys(["probe.l2", "split.seed", "seed"])
    {'probe.l2': 'l2', 'split.seed': 'split.seed', 'seed': 'seed'}
    """
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def label_job(differing: Mapping[str, str]) -> str:
    """What differs, as people read it.

    >>> label_job({"probe.l2": "10", "site": "mlp_out"})
    'l2=10 site=mlp_out'
    """
    short = shorten_keys(list(differing))
    return " ".join(f"{short[key]}={round_number(value)}" for key, value in differing.items())


def round_number(value: str) -> str:
    """A number with many digits, as a search draws them, with five; any other text as it is.

    >>> round_number("19.628224813442806"), round_number("0.015"), round_number("mlp_out")
    ('19.628', '0.015', 'mlp_out')
    """
    return f"{float(value):.5g}" if re.fullmatch(r"-?\d*\.\d{6,}(e[-+]?\d+)?", value) else value


def name_folder(differing: Mapping[str, str]) -> str:
    """The same as the name of a folder that shells, Hydra and file systems take without quotation marks.

    Values that differ get names that differ: where characters had to go, a digest stands for them.

    >>> name_folder({"probe.l2": "10", "site": "mlp_out"}), name_folder({"site.layers": "[0,4]"})
    ('l2-10+site-mlp_out', 'layers-0_4')
    >>> name_folder({})
    'job'
    """
    short = shorten_keys(list(differing))
    name = "+".join(f"{_clean(short[key])}-{_clean(value)}" for key, value in differing.items())
    if len(name) > MOST_OF_NAME:
        name = f"{name[: MOST_OF_NAME - 9]}-{_digest(name)}"
    return name or "job"


def check_names(swept: Mapping[str, Sequence[str] | None]) -> None:
    """Raise ValueError where two values of a key would share a folder, as equal values do.

    >>> check_names({"probe.l2": ["1", "10"]})
    """
    for key, values in swept.items():
        names = [_clean(_strip(value)).lower() for value in values or ()]  # some file systems do not tell case
        for number, name in enumerate(names):
            if name in names[:number]:
                raise ValueError(
                    f"{key}: expected values that differ, got {(values or ())[names.index(name)]} and "
                    f"{(values or ())[number]}; leave one out"
                )


def quote(text: str) -> str:
    r"""Write a text as a value of an override.

    >>> print(quote("it's"))
    'it\'s'
    """
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", text)
    trailing = re.search(r"\\*$", escaped)
    return f"'{escaped}{trailing[0] if trailing else ''}'"


def _key(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _write(override: Override) -> str:
    if override.is_sweep_override():
        return str(override.input_line).partition("=")[2]
    value = override.value()
    return value if isinstance(value, str) else override.get_value_element_as_str()


def _strip(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _clean(text: str) -> str:
    """Letters, digits, `_`, `.` and `-` alone; a digest where that loses something."""
    listed = re.fullmatch(r"\[([\w.,-]+)\]", text, re.ASCII)
    plain = listed[1].replace(",", "_") if listed else text
    safe = re.sub(r"[^\w.-]+", "-", plain, flags=re.ASCII).strip("-.") if not _is_safe(plain) else plain
    if safe == plain and len(safe) <= MOST_OF_VALUE:
        return safe
    return f"{safe[: MOST_OF_VALUE - 7]}-{_digest(text)[:6]}".lstrip("-")


def _is_safe(text: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+", text, re.ASCII))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
