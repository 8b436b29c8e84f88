"""`logger=null`: no choice of a group, which Hydra writes as `logger=[]`."""

import re
from pathlib import Path

OVERRIDE = re.compile(r"(?P<key>[\w/]+(?:@[\w.]+)?)=(?P<value>.*)", re.DOTALL)
NULL = re.compile(r"(?<![^,])null(?![^,])")


def spell_null(argument: str, conf: Path) -> str:
    """An argument of the command line as Hydra reads it: null as the choice of a group becomes an empty list.

    Hydra takes null from a defaults list, but not from the command line.

    Args:
        argument: any argument.
        conf: the folder of the configuration; its folders are the groups.

    >>> spell_null("logger=null,csv", Path("conf")), spell_null("model.stop=null", Path("conf"))
    ('logger=[],csv', 'model.stop=null')
    """
    found = OVERRIDE.fullmatch(argument)
    if found is None or not (conf / found["key"].partition("@")[0]).is_dir():
        return argument
    return f"{found['key']}={NULL.sub('[]', found['value'])}"
