"""The console that all of ours print on, so that text of others is text and nothing else."""

from __future__ import annotations

from typing import Any

from rich import console
from rich.text import Text

from shared.messages import printable


class Console(console.Console):
    """Rich's console for plain text: no markup, no emoji, nothing that controls the terminal.

    Names, reasons and versions are of whoever writes to the topics, the files or the model store.
    Style is given by ``Text`` and ``style=``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text for printing; every string of a table's or of ``print`` comes by here."""
        return super().render_str(plain(text), **options)


def plain(text: str) -> str:
    """Return text of any number of lines, with what would control a terminal spelt out."""
    return "\n".join(map(printable, text.split("\n")))
