"""The console that reports are printed on: names are data, so it knows no markup."""

from typing import Any

from rich.console import Console
from rich.text import Text

from datamodules.card import show_text


class PlainConsole(Console):
    """A console without markup, emoji and highlighting, which writes out control characters in what it is given.

    >>> PlainConsole().print("[red] \\x1b[31m")
    [red] \\x1b[31m
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:  # also of the cells of tables
        """Make printable text of a string."""
        return super().render_str(show_text(text), **settings)
