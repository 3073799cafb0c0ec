"""The HTML pages of reports: templates that escape values and know no undefined name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import jinja2

NONE: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"


def template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """Return the template of a file beside this one, with filters beside those of Jinja."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.evaluate", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters, side=_side)
    return environment.get_template(name)


def _side(skill: Any) -> str:
    """Return the style of a skill by its interval, from ``low`` to ``high``: none if it holds 0."""
    return "better" if skill.low > 0 else "worse" if skill.high < 0 else ""


def short(value: float | None, digits: int = 4) -> str:
    """Return a number with so many decimals; a dash for none."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """Return a number with its sign and so many decimals; a dash for none."""
    return NONE if value is None else f"{value:+.{digits}f}".replace("-", MINUS)
