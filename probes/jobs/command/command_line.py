"""The command line: options before overrides, and overrides with signs that Hydra takes for its own."""

import re
import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

KEY = re.compile(r"(\+{1,2}|~)?[A-Za-z_][\w./@:$-]*", re.ASCII)
STRUCTURE = re.compile(r"([\[\]{},]|:\s)")  # of lists and dicts
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
SWEEP = re.compile(r"(,)(?!\s)")  # between the values of a sweep


def check_command_line(arguments: Sequence[str]) -> None:
    """Refuse what Hydra's parser of options would answer with its usage text.

    Args:
        arguments: those of the program, without its name.

    Raises:
        ValueError: an unknown option, or one between overrides.

    Example:
        >>> check_command_line(["probe=mlp", "-m", "split.seed=0,1"])
        Traceback (most recent call last):
        ValueError: expected options before overrides, got -m after probe=mlp; write python train.py -m probe=mlp ...
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ValueError(f"command line: {message}; see --help and --hydra-help")

    parser.error = refuse
    _, left = parser.parse_known_args(arguments)
    if not left:
        return
    if unknown := [argument for argument in left if argument.startswith("-")]:
        key = unknown[0].lstrip("-")
        close = get_close_matches(unknown[0], parser._option_string_actions, n=1, cutoff=0.7)
        cure = f"did you mean {close[0]}?" if close else "an override has no dashes: KEY=VALUE"
        cure = f"write {key}" if "=" in key else cure
        raise ValueError(f"expected an option such as -m or --cfg job, got {unknown[0]}; {cure}; see --help")
    overrides = parser.parse_intermixed_args(arguments).overrides
    options = list(arguments)
    for override in overrides:
        options.remove(override)
    misplaced = next(option for option in options if arguments.index(option) > arguments.index(overrides[0]))
    raise ValueError(
        f"expected options before overrides, got {misplaced} after {overrides[0]}; "
        f"write python train.py {shlex.join([*options, *overrides])}"
    )


def check_thread_limits(environment: Mapping[str, str]) -> None:
    """Refuse limits of threads that the libraries which read them would ignore, or stumble over.

    Raises:
        ValueError: one is no whole number above 0; `OMP_NUM_THREADS` may be several with commas.

    Example:
        >>> check_thread_limits({"OMP_NUM_THREADS": "two"})
        Traceback (most recent call last):
        ValueError: OMP_NUM_THREADS: expected a whole number above 0, got 'two'; set it anew, or unset it
    """
    for name in THREADS:
        value = environment.get(name, "").strip()
        parts = value.split(",") if name == "OMP_NUM_THREADS" else [value]
        if value and not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise ValueError(f"{name}: expected a whole number above 0, got {value!r}; set it anew, or unset it")


def quote_override(override: str, is_sweep: bool = False) -> str | None:
    """An override as a shell and Hydra both read it, or None where its value is not what is wrong.

    Elements of a list or a dict are quoted one by one, as are the values of a sweep; any other value is quoted whole.

    Args:
        override: KEY=VALUE, as Hydra got it.
        is_sweep: whether commas separate the values of a sweep.

    Example:
        >>> print(quote_override("dataset.group={a}|{b}"))
        'dataset.group="{a}|{b}"'
        >>> print(quote_override("dataset.options=[café,bar]"))
        'dataset.options=["café",bar]'
    """
    key, equals, value = override.partition("=")
    if not equals or not KEY.fullmatch(key) or "\n" in override:
        return None
    values = [_quote(value)]
    if value[:1] in ("[", "{"):
        values.insert(0, _quote_parts(value, STRUCTURE))
    elif is_sweep and "," in value:
        values.insert(0, _quote_parts(value, SWEEP))
    for quoted in values:
        if _can_be_read(f"{key}={quoted}"):
            return shlex.quote(f"{key}={quoted}")
    return None


def _quote_parts(value: str, separator: re.Pattern[str]) -> str:
    """Quote what stands between separators, where Hydra cannot read it as it is."""
    parts = separator.split(value)
    for place in range(0, len(parts), 2):
        part = parts[place].strip()
        if part and not _can_be_read(f"key={part}"):
            parts[place] = _quote(part)
    return "".join(parts)


def _quote(value: str) -> str:
    return QuotedString(text=value, quote=Quote.double).with_quotes()


def _can_be_read(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True
