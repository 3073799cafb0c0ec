"""Parses the documents: their code blocks with the markers above them, links and anchors.

A block of commands (``console``) or of Python runs in a test as it stands. A marker in a comment
above a block changes that; several parts are separated by semicolons::

    <!-- not run: needs Yahoo -->             a reason, for people
    <!-- run: until "ready" -->               ends the block's process once it has printed this
    <!-- run: with "50" => "2" -->            runs the block with a text replaced, to be quick
    <!-- run: as my_features.py -->           only writes the block to a file, for later blocks
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

COMMANDS: Final = frozenset({"bash", "console", "sh"})
"""Languages of blocks of commands."""

RUN: Final = COMMANDS | {"python"}
"""Languages of blocks that run."""

_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENTS: Final = re.compile(r"(?:^<!--[^\n]*-->\n)+\Z", re.MULTILINE)
_MARKER: Final = re.compile(r"<!-- (not run|run): (.*?) -->")
_UNTIL: Final = re.compile(r'until "([^"]+)"')
_WITH: Final = re.compile(r'with "([^"]+)" => "([^"]+)"')
_AS: Final = re.compile(r"as (\S+)")
_LINK: Final = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"')
_PATH: Final = re.compile(r"`([\w.-]+(?:/[\w.-]+)+)`")


class MarkerError(ValueError):
    """A marker that says nothing that is known."""


@dataclass(frozen=True)
class Block:
    """A code block and what its marker says."""

    page: str  # path from the root
    line: int  # of the fence, from 1
    language: str
    text: str
    reason: str = ""  # why it is not run
    until: str = ""  # output after which its process may end
    replacements: tuple[tuple[str, str], ...] = ()
    file: str = ""  # name of the file that it is written to

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def code(self) -> str:
        """Return the text to run; raises ``MarkerError`` when a replaced text is not in it."""
        text = self.text
        for old, new in self.replacements:
            if old not in text:
                raise MarkerError(f"{self}: {old!r} is not in the block")
            text = text.replace(old, new)
        return text


def pages() -> list[Path]:
    """Return all documents."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page; raises ``MarkerError``."""
    return list(parse(page.read_text(), page.relative_to(ROOT).as_posix()))


def parse(text: str, name: str) -> Iterator[Block]:
    """Yield the code blocks of a document; raises ``MarkerError``."""
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 1
        above = _COMMENTS.search(text[: fence.start()])
        block = Block(name, line, fence[1], fence[2])
        yield _marked(block, _MARKER.findall(above[0]) if above else [])


def _marked(block: Block, markers: list[tuple[str, str]]) -> Block:
    reason, until, file = "", "", ""
    replacements: list[tuple[str, str]] = []
    for kind, content in markers:
        if kind == "not run":
            reason = content
            continue
        for part in content.split("; "):
            if match := _UNTIL.fullmatch(part):
                until = match[1]
            elif match := _WITH.fullmatch(part):
                replacements.append((match[1], match[2]))
            elif match := _AS.fullmatch(part):
                file = match[1]
            else:
                raise MarkerError(f"{block}: {part!r} is not until, with or as")
    return Block(
        block.page, block.line, block.language, block.text, reason, until, tuple(replacements), file
    )


def links(text: str) -> list[str]:
    """Return the targets of a document's links and pictures, without those of other hosts."""
    targets = [a or b for a, b in _LINK.findall(_FENCE.sub("", text))]
    return [target for target in targets if "://" not in target]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


def paths(text: str) -> list[str]:
    """Return the files and folders of this repository that a document names in code quotes."""
    tops = {path.name for path in ROOT.iterdir()}
    return [path for path in _PATH.findall(text) if path.split("/")[0] in tops]
