"""Marks in a document, between which its content is written by code."""

from __future__ import annotations

import re


def replace(text: str, mark: str, content: str) -> str:
    """Return a text with new content between ``<!-- mark -->`` and ``<!-- /mark -->``."""
    between = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    return between.sub(lambda marks: f"{marks[1]}{content}\n{marks[2]}", text)
