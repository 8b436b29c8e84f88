"""A choice of Hydra whose package is not installed says which extra has it."""

import pytest
from hydra.errors import MissingConfigException

from probes.jobs.command.mistakes import EXTRAS, tell


@pytest.mark.parametrize("choice", EXTRAS)
def test_the_extra_is_named(choice):
    error = MissingConfigException("Could not find it", choice, ["basic"])
    assert tell(error) == (
        f"{choice}: expected a package that is not installed; pip install -c constraints.txt -e '.[{EXTRAS[choice]}]'"
    )


def test_another_choice_is_told_from_those_there_are():
    error = MissingConfigException("Could not find it", "hydra/launcher/nope", ["basic"])
    assert tell(error) == "expected hydra/launcher to be one of basic; got nope"
