"""Types of settings, with the range that each has. Constructors state them, and a configuration is held against them.

A `doc` says what a message calls the type, where its parts do not say it well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen, Predicate, doc


def are_different(values: Sequence[object]) -> bool:
    """Whether no value occurs twice.

    >>> are_different([1, 2]), are_different(["a", "a"])
    (True, False)
    """
    return len({repr(value) for value in values}) == len(values)


Count = Annotated[int, Gt(0)]
NotNegative = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]  # what Lightning and numpy take
Seeds = Annotated[list[Seed], MinLen(1), Predicate(are_different)]
Share = Annotated[float, Ge(0), Lt(1), doc("a share of at least 0 and below 1")]
TestShare = Annotated[float, Gt(0), Lt(1), doc("a share above 0 and below 1")]
Text = Annotated[str, MinLen(1)]
Prompt = Annotated[Text, Predicate(lambda text: "{question}" in text), doc("a text with {question} in it")]
Texts = Annotated[Sequence[Text], MinLen(1), Predicate(are_different)]
Folder = Annotated[str | Path, MinLen(1), doc("a folder")]
File = Annotated[str, MinLen(1), doc("a file")]
Layers = Annotated[Sequence[NotNegative], MinLen(1), Predicate(are_different)]
MoreLayers = Annotated[Sequence[NotNegative], Predicate(are_different)]
Site = Literal["resid_pre", "resid_post", "attn_out", "z", "mlp_post", "mlp_out"]
Sites = Annotated[Sequence[Site], Predicate(are_different), doc("a list of different sites, such as [z,mlp_out]")]
Dtype = Literal["bfloat16", "float16", "half", "float32", "float", "float64", "double"]  # torch's names
Column = Annotated[str, MinLen(1), doc("a column")]
Columns = Annotated[Sequence[Column], MinLen(1), Predicate(are_different), doc("a list of different columns")]
Options = Annotated[Sequence[Column], Predicate(are_different), doc("a list of columns, such as [a,b]")]
Group = Annotated[
    Text | Mapping[str, str] | Annotated[Sequence[Text | Mapping[str, str]], MinLen(1)],
    doc("a column, a text with columns in braces, or a list of such"),
]
