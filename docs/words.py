#!/usr/bin/env python
"""Finds words and names in code and documents that the project does not use.

``python docs/words.py`` checks what is listed as clean, ``python docs/words.py PATH...`` any files
and folders. CONTRIBUTING.md has the rules.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]

CLEAN: Final = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "api",
    "benchmarks",
    "docs/architecture.md",
    "docs/data.md",
    "docs/decisions",
    "docs/feature_plots.py",
    "docs/features.md",
    "docs/generate.py",
    "docs/glossary.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/producer.md",
    "docs/screenshots.py",
    "docs/troubleshooting.md",
    "local",
    "producer",
    "shared",
    "stream_app",
    "tests/candles.py",
    "tests/conftest.py",
    "tests/direct_yahoo.py",
    "tests/documents.py",
    "tests/forecasters.py",
    "tests/integration/conftest.py",
    "tests/integration/processes.py",
    "tests/integration/test_documents.py",
    "tests/integration/topics.py",
    "tests/integration/workers.py",
    "tests/new_york.py",
    "tests/panels.py",
    "tests/polled_market.py",
    "tests/reader_fuzz.py",
    "tests/ticker_frames.py",
    "tests/unit/producer",
    "tests/unit/shared",
    "tests/unit/test_documents.py",
    "tests/vendors.py",
    "tests/virtual_time.py",
    "tests/yfinance_state.py",
    "trainer/__main__.py",
    "trainer/console.py",
    "trainer/evaluate",
    "trainer/export.py",
    "trainer/inspection.py",
    "trainer/protocol.py",
    "trainer/search.py",
    "trainer/settings.py",
    "trainer/tracking.py",
    "trainer/training.py",
)
"""Files and folders that a test keeps free of these words."""

ENDINGS: Final = frozenset({".html", ".j2", ".js", ".md", ".py"})
"""Endings of the files that are read, beside Makefiles."""

UNREAD: Final = ("docs/words.py", "tests/unit/test_words.py")
"""Files that have the words as data."""

WORDS: Final = {
    r"\banew\b": "again",
    r"\blest\b": "so that ... not",
    r"\bfor ever\b": "forever",
    r"(?<!\bthere\s)\b(?:is|are|was|were) no (?!longer\b|more\b|less\b)\w+": "is not a ...",
    r"\b(?:is|are|was|were|be|been) told\b": "gets, logs or reports",
    r"\b(?:is|are|was|were|be|been) asked\b": "is requested or called",
    r"\bwhat(?:ever)? came\b": "the outcome",
}
"""Words, and what to write in their place; in comments, strings and documents."""

OPENINGS: Final = {
    r"Whether\b": "the noun, or: True when",
    r"What of\b": "the noun",
}
"""Words that a docstring does not begin with."""

NAMES: Final = {"one": "the noun, as in: for candle in candles"}
"""Names that a variable or an argument does not have."""


class Finding(NamedTuple):
    """A word that is not used here."""

    path: str
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r}: write {self.instead}"


def find(paths: Iterable[Path]) -> list[Finding]:
    """Return the findings in files and in all files below folders, by path and line."""
    files = {file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))}
    findings: list[Finding] = []
    for file in sorted(files):
        name = file.resolve().relative_to(ROOT).as_posix()
        is_read = file.suffix in ENDINGS or file.name == "Makefile"
        if is_read and name not in UNREAD:
            text = file.read_text(encoding="utf-8")
            lines = in_python(text) if file.suffix == ".py" else in_text(text)
            findings += [Finding(name, *rest) for rest in sorted(set(lines))]
    return findings


def in_text(text: str, first: int = 1) -> Iterator[tuple[int, str, str]]:
    """Yield line, word and replacement for a document, also where a line ends in the word."""
    for pattern, instead in WORDS.items():
        for match in re.finditer(pattern.replace(" ", r"\s+"), text, re.IGNORECASE):
            yield first + text.count("\n", 0, match.start()), " ".join(match[0].split()), instead


def in_python(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, word and replacement for a module: comments, strings, docstrings and names."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from in_text(token.string, token.start[0])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from in_text(node.value, node.lineno)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield from _opening(node.value)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield from _name(node.lineno, node.id)
        elif isinstance(node, ast.arg):
            yield from _name(node.lineno, node.arg)


def _opening(node: ast.Constant) -> Iterator[tuple[int, str, str]]:
    for pattern, instead in OPENINGS.items():
        match = re.match(pattern, str(node.value).lstrip())
        if match:
            yield node.lineno, match[0], instead


def _name(line: int, name: str) -> Iterator[tuple[int, str, str]]:
    if name in NAMES:
        yield line, name, NAMES[name]


def main(argv: Sequence[str]) -> int:
    """Print the findings; return the exit code."""
    findings = find([Path(path) for path in argv] or [ROOT / path for path in CLEAN])
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
