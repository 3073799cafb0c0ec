"""Errors as problem documents (RFC 9457), in one shape for every status."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from pydantic import Field, ValidationError
from starlette.responses import Response

from shared.messages import BrokenRule, Message, Place, broken_rule, field_name

MEDIA_TYPE: Final = "application/problem+json"

MAX_ERRORS: Final = 20
"""Most errors that a problem lists."""

MAX_FAULTS: Final = 2_000
"""Most faults of a body that are looked at; more are only counted."""

# RFC 9110's names; those of http.HTTPStatus differ between versions of Python
_TITLES: Final[dict[int, str]] = {413: "Content Too Large", 422: "Unprocessable Content"}


class FieldError(Message):
    """One rule that a request breaks."""

    field: str = Field(description="where, as in history[17].high")
    rule: str = Field(description="name of the rule, as in greater_than")
    message: str = Field(description="what was expected and what was got")


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


def invalid_body(error: ValidationError, place: Place = ()) -> ProblemError:
    """Return the problem of a body that breaks a rule: 400 if it is not JSON, else 422.

    ``place`` is where in the body that stands which was validated.
    """
    count = error.error_count()
    if count > MAX_FAULTS:  # to list so many would take longer than to find them
        message = f"expected a valid body, got one with {count} faults"
        return problem(422, FieldError(field="body", rule="too_many_faults", message=message))
    broken = [broken_rule(details) for details in error.errors(include_url=False)[:MAX_ERRORS]]
    status = 400 if broken[0].rule == "json_invalid" else 422
    return problem(status, *(_field_error(rule, place) for rule in broken))


def broken_field(place: Place, rule: str, expected: str, got: object) -> ProblemError:
    """Return the problem of one value that breaks a rule."""
    message = f"expected {expected}, got {got}"
    return problem(422, FieldError(field=field_name(place), rule=rule, message=message))


def not_json(field: str, fault: str) -> ProblemError:
    """Return the problem of what is not JSON."""
    message = f"expected JSON in UTF-8, got {fault}"
    return problem(400, FieldError(field=field, rule="json_invalid", message=message))


def _field_error(broken: BrokenRule, place: Place) -> FieldError:
    name = field_name((*place, *broken.place)) or "body"
    return FieldError(field=name, rule=broken.rule, message=broken.message)
