"""A user's mistake: how to tell one, and the one line that it becomes."""

import errno
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from probes.jobs.command.command_line import quote_override
from probes.jobs.command.keys import tell_unadded_key
from probes.jobs.command.shipped import list_choices
from probes.jobs.command.signals import raise_signal_again
from probes.jobs.command.wording import describe
from probes.settings import TOP

log = logging.getLogger("probegrid")
MISTAKES = (ValueError, OSError, YAMLError, HydraException, OmegaConfBaseException)
EXTRAS = {  # which extra has what a choice of Hydra needs
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/submitit_local": "submitit",
    "hydra/launcher/submitit_slurm": "submitit",
    "hydra/sweeper/optuna": "optuna",
}


def is_mistake(error: BaseException) -> bool:
    """Whether a user can mend it. Lightning's kind is known by its name, as importing it takes seconds."""
    return isinstance(error, MISTAKES) or type(error).__name__ == "MisconfigurationException"


class HydraFullError:
    """Give the environment variable HYDRA_FULL_ERROR a value within a `with` block, and put back the old one after it.

    Where it is "1", Hydra raises what it finds wrong with a configuration; otherwise it prints many lines and exits.
    `main` needs the first, to print one line. The run needs the user's own value again: the processes that Lightning
    starts inherit it, and are to print one line as well. None removes the variable.
    """

    def __init__(self, value: str | None) -> None:
        self.value = value

    def __enter__(self) -> None:
        self.before = os.environ.get("HYDRA_FULL_ERROR")
        self._set(self.value)

    def __exit__(self, *_: object) -> None:
        self._set(self.before)

    @staticmethod
    def _set(value: str | None) -> None:
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if value is not None:
            os.environ["HYDRA_FULL_ERROR"] = value


@contextmanager
def stop_at_mistakes() -> Iterator[None]:
    """Print a line and exit with status 1 where the user has made a mistake."""
    try:
        yield
    except Exception as error:
        raise_signal_again()
        if not is_mistake(error):
            raise
        log.error("error: %s", tell(error))
        sys.exit(1)


def tell(error: Exception) -> str:
    """The one line for a mistake, without its type."""
    if isinstance(error, MissingConfigException) and error.options:
        got = str(error.missing_cfg_file)
        if extra := EXTRAS.get(got):
            return f"{got}: expected a package that is not installed; pip install -c constraints.txt -e '.[{extra}]'"
        group, _, name = got.rpartition("/")
        return f"expected {group} to be one of {', '.join(error.options)}; got {name}"
    if isinstance(error, OverrideParseException):
        return _tell_unreadable(str(error.override))
    if isinstance(error, ConfigCompositionException):
        return _tell_composition(error)
    if str(error).startswith("Config group override"):
        return _tell_choice(error)
    if isinstance(error, MissingMandatoryValue):
        key = str(error.full_key)
        key = key.removeprefix("command.")  # what it holds has names of its own at the top
        inner = key.removeprefix("datamodule.")
        key = inner if "." in inner else key  # other groups are composed into the datamodule, its own keys are not
        return f"expected a value for {key}, which has no default; add {key}=... to the command"
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        hint = TOP.get(key := str(error.full_key))
        return f"{key}: expected {describe(hint) if hint else 'in the configuration'}, got none; leave it in"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # where a library writes
        return (
            f"{error.filename or 'disk'}: expected room for what a run writes, got: {error.strerror}; free some space, "
            "or choose another folder (hydra.run.dir=FOLDER, cache.root=FOLDER)"
        )
    if "gpu backend" in str(error):
        return "trainer.accelerator: expected a GPU, got a machine or a torch without one; choose trainer=cpu"
    return " ".join(str(error).split())


def _tell_unreadable(override: str) -> str:
    """An override that Hydra's grammar does not read."""
    is_sweep = not {"-m", "--multirun"}.isdisjoint(sys.argv)
    quoted = quote_override(override, is_sweep)
    if quoted is None:
        return f"expected KEY=VALUE, got {' '.join(override.split())}; write a key, =, and a value"
    return f"expected quotation marks around signs that Hydra takes for its own, got {override}; write {quoted}"


def _tell_choice(error: Exception) -> str:
    """A choice of a group that is no name; Hydra does not say which."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    override = next(frame.f_locals["override"] for frame in reversed(frames) if "override" in frame.f_locals)
    group = override.key_or_group
    choices = ", ".join(list_choices(group))
    expected = f"one of {choices}" if choices else "the name of a choice, or of one below it, as in hydra/launcher=NAME"
    return f"{group}: expected {expected}, got {' '.join(str(override.input_line).split())}; choose one"


def _tell_composition(error: ConfigCompositionException) -> str:
    """A configuration that Hydra cannot compose, in one line that does not advise a + for a mistyped key."""
    text = " ".join(str(error).split())
    if found := re.search(r"To append to your config use \+(.*)", text):
        return tell_unadded_key(error, found[1])
    if found := re.search(r"^You must specify '(.*?)',", text):
        choices = ", ".join(list_choices(found[1]))
        return f"expected a choice for {found[1]}, which has no default here; add {found[1]}=..., one of {choices}"
    if found := re.search(r"Ambiguous value for argument '(.*?)=(.*)' 1\.", text):
        key, values = found.groups()
        as_text = quote_override(f"{key}={values}")
        return (
            f"{key}: expected one value, got {values}; for a sweep put -m before the overrides, "
            f"for a list write '{key}=[{values}]', for a text {as_text}"
        )
    if found := re.search(r"Multiple values for (\S+)\. To override a value use 'override \S+: (\S+)'", text):
        return f"{found[1]}: expected one choice, got a second; write {found[1]}={found[2]} without a +"
    if found := re.search(r"An item is already at '(.*)'\. Either remove \+ prefix: '(.*?)' Or", text):
        return f"{found[1]}: expected a new key after +, got one that is there; write {found[2]}"
    if found := re.search(r"^Sweeping over Hydra's configuration is not supported : '([^=]*)=(.*)'$", text):
        key, values = found.groups()
        return f"{key}: expected one value for all jobs, as of any option of Hydra, got {values}; make a sweep for each"
    if found := re.search(r"^Could not delete from config\. '(.*)' does not exist\.$", text):
        return f"{found[1]}: expected a key with a value after ~, got one that is null or absent; leave ~{found[1]} out"
    if found := re.search(r"^Could not delete from config\. The value of '(.*?)' is (.*) and not (.*)\.$", text):
        return f"{found[1]}: expected its value after ~, {found[2]}, got {found[3]}; write ~{found[1]}"
    if found := re.search(r"^Could not delete '(.*?)(?:=(.*))?'\. No match in the defaults list$", text):
        return f"{found[1]}: expected a choice that is made after ~, got {found[2] or found[1]}; leave it out"
    if found := re.search(r"^force-add of config groups is not supported: '\++(.*?)=(.*)'$", text):
        return f"{found[1]}: expected a choice without ++, got ++; write {found[1]}={found[2]}"
    if found := re.search(r"^Error merging override \+*(.*?)=(.*)$", text):
        why = str(error.__cause__).splitlines()[0]
        return f"{found[1]}: expected a value of the same kind as the one there, got {found[2]} ({why}); choose another"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return f"{text}: {str(error.__cause__).splitlines()[0]}"
    return text.partition(" To append to your default list")[0]
