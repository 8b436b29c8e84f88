"""Overrides with odd signs are shown as a shell and Hydra read them."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException

from probes.jobs.command.command_line import check_command_line, quote_override
from probes.jobs.command.mistakes import tell


def read(shown: str):
    """What a shell and then Hydra make of one word of a command."""
    (word,) = shlex.split(shown)
    return OverridesParser.create().parse_override(word)


@pytest.mark.parametrize(
    "value",
    [
        "{a}|{b}", "{question}", "Q: {question}\\nA:", "a=b", "a#b", "é", "ünïcode, and more", "東京", "a,b", "a, b",
        "it's", "'", '"', 'say "so"', "a\\", '\\"', "C:\\folder\\", "~/x.gguf", "(a", "a)b", "[a", "a]", "$HOME",
        "`ls`", "!x", "<s>", "a&b;c", "a*?", "50%, 60%", " a ", "{a}, {b}",
    ],
)  # fmt: skip
def test_a_text_comes_back_as_it_was(value):
    shown = quote_override(f"dataset.group={value}")
    assert shown is not None
    assert "\n" not in shown
    override = read(shown)
    assert override.key_or_group == "dataset.group"
    assert override.value() == value


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("[é,b]", ["é", "b"]),
        ("[a=b, 3, c d]", ["a=b", 3, "c d"]),
        ("{Question: in the movie .(.*).}", {"Question": "in the movie .(.*)."}),
        ("{yes: [é,f], no: []}", {"yes": ["é", "f"], "no": []}),
    ],
)
def test_elements_are_quoted_one_by_one(value, meant):
    with pytest.raises(HydraException):
        OverridesParser.create().parse_override(f"dataset.labels={value}")
    assert read(quote_override(f"dataset.labels={value}") or "").value() == meant


def test_the_values_of_a_sweep_stay_several():
    override = read(quote_override("dataset.name=é,b,c=d", is_sweep=True) or "")
    assert override.is_sweep_override()
    assert list(override.sweep_string_iterator()) == ['"é"', "b", '"c=d"']


@pytest.mark.parametrize("override", ["quick", "é=3", "=3", "a b=3", "name=a\nb"])
def test_what_quotation_marks_do_not_mend_is_not_shown(override):
    assert quote_override(override) is None


def test_the_line_names_the_override_as_it_was_written():
    with pytest.raises(OverrideParseException) as caught:
        OverridesParser.create().parse_overrides(["seed=0", "+dataset.group={a}|{b}"])
    assert tell(caught.value) == (
        "expected quotation marks around signs that Hydra takes for its own, got +dataset.group={a}|{b}; "
        """write '+dataset.group="{a}|{b}"'"""
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a=1", "-m", "b=2"], "got -m after a=1; write python train.py -m a=1 b=2"),
        (["a=x y", "-m", "b=2"], "got -m after a=x y; write python train.py -m 'a=x y' b=2"),
        (["a=1", "--config-dir", "mine", "b=2"], "write python train.py --config-dir mine a=1 b=2"),
        (["-m", "a=1", "--config-dir=mine", "b=2"], "got --config-dir=mine after a=1; write python train.py -m --co"),
        (["--multrun", "a=1"], "got --multrun; did you mean --multirun?"),
        (["--probe=mlp"], "got --probe=mlp; write probe=mlp"),
        (["-x"], "got -x; an override has no dashes: KEY=VALUE"),
        (["--cfg", "jb"], "command line: argument --cfg/-c: invalid choice: 'jb'"),
    ],
)
def test_options_that_hydra_s_parser_refuses_are_one_line(arguments, line):
    with pytest.raises(ValueError, match=r"expected|command line") as refused:
        check_command_line(arguments)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a=1"],
        ["-m", "a=1,2"],
        ["a=1", "-m"],
        ["--config-dir", "mine", "a=1"],
        ["--cfg", "job"],
        ["--help"],
        ["~a"],
    ],
)
def test_options_that_hydra_reads_pass(arguments):
    check_command_line(arguments)
