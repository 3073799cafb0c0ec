"""Errors as problem documents (RFC 9457), in one shape for every status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import Response

from shared.messages import Message

MEDIA_TYPE: Final = "application/problem+json"
MAX_ERRORS: Final = 20
MAX_FAULTS: Final = 2_000

# RFC 9110's names; those of http.HTTPStatus differ between versions of Python
_TITLES: Final[dict[int, str]] = {413: "Content Too Large", 422: "Unprocessable Content"}


class FieldError(Message):
    """One rule that a request breaks."""

    field: str = Field(description="where, as in history[17].high")
    rule: str = Field(description="name of the rule, as in greater_than")
    message: str = Field(description="what was expected and what came")


class Problem(Message):
    """A problem document, RFC 9457: the one shape of every error."""

    type: str = Field(default="about:blank", description="about:blank: the status says it all")
    title: str
    status: int
    detail: str
    error: str = Field(description="the detail, by the name of the Open Inference Protocol")
    errors: tuple[FieldError, ...] = ()


class ProblemError(Exception):
    """A request that cannot be answered, with the document that says why."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = headers

    def response(self) -> Response:
        """Return the answer to send."""
        return Response(
            self.problem.encode(),
            status_code=self.problem.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


def problem(
    status: int, *errors: FieldError, detail: str = "", headers: Mapping[str, str] | None = None
) -> ProblemError:
    """Return a problem; without a detail the first error speaks for all."""
    if errors and not detail:
        detail = f"{errors[0].field}: {errors[0].message}"
    title = _TITLES.get(status) or HTTPStatus(status).phrase
    document = Problem(title=title, status=status, detail=detail, error=detail, errors=errors)
    return ProblemError(document, headers)


def invalid_body(error: ValidationError, where: tuple[int | str, ...] = ()) -> ProblemError:
    """Return the problem of a body that breaks a rule: 400 if it is no JSON, else 422.

    ``where`` is the place in the body of what was validated.
    """
    count = error.error_count()
    if count > MAX_FAULTS:  # to list so many would take longer than to find them
        message = f"expected a valid body, got one with {count} faults"
        return problem(422, FieldError(field="body", rule="too_many_faults", message=message))
    details = error.errors(include_url=False)
    status = 400 if details[0]["type"] == "json_invalid" else 422
    shown = (_field_error(one, where) for one in details[:MAX_ERRORS])
    return problem(status, *shown)


def no_json(field: str, what: str) -> ProblemError:
    """Return the problem of what is no JSON."""
    return problem(400, _no_json(field, what))


def _no_json(field: str, what: str) -> FieldError:
    message = f"expected JSON in UTF-8, got: {what}"
    return FieldError(field=field, rule="json_invalid", message=message)


def field_name(location: tuple[int | str, ...]) -> str:
    """Return a place in a JSON document: ``("history", 17, "high")`` is ``history[17].high``."""
    name = ""
    for part in location:
        name += f"[{part}]" if isinstance(part, int) else f".{part}"
    return name.removeprefix(".") or "body"


def _field_error(error: ErrorDetails, where: tuple[int | str, ...]) -> FieldError:
    name = field_name((*where, *error["loc"]))
    rule, context = error["type"], error.get("ctx", {})
    if rule == "inconsistent":  # its text begins with the field
        field, _, text = str(context["detail"]).partition(": ")
        message = text.replace("must be", "expected", 1)
        return FieldError(field=f"{name}.{field}", rule=rule, message=message)
    if rule == "json_invalid":
        return _no_json(name, str(context["error"]))
    limit = next(
        (context[key] for key in ("gt", "ge", "lt", "le", "max_length") if key in context), 0
    )
    got = "nothing" if rule == "missing" else shown(error["input"])
    known = _EXPECTED.get(rule)
    expected = error["msg"].removeprefix("Input should be ")
    noun = "candles" if name == "history" else name.rpartition(".")[2]
    text = known.format(limit=limit, noun=noun) if known else expected
    message = f"expected {text}, got {got}"
    return FieldError(field=name, rule=rule, message=message)


_EXPECTED: Final[dict[str, str]] = {
    "missing": "a value",
    "extra_forbidden": "no such field",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than {limit:g}",
    "greater_than_equal": "at least {limit:g}",
    "less_than": "less than {limit:g}",
    "less_than_equal": "at most {limit:g}",
    "string_type": "a string",
    "string_pattern_mismatch": "a symbol of up to 32 letters, digits and ^ = . - _ / & :",
    "int_type": "a whole number",
    "literal_error": "a name that is known",
    "model_type": "an object",
    "tuple_type": "an array",
    "too_long": "at most {limit:g} {noun}",
}


def shown(value: object) -> str:
    """Return a value for a message, as JSON and short."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return f"an array of {len(value)}"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
