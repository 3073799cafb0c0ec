"""Access control: host names, API keys, scopes and rates."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from limits import RateLimitItem
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import Scope as AsgiScope

from api.edge.keys import ANYONE, Client, KeyRing, Scope
from api.edge.problems import FieldError, ProblemError, problem

_CHALLENGE: Final[Mapping[str, str]] = {"www-authenticate": 'Bearer realm="candlecast"'}

_HOST: Final = re.compile(
    r"(\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:/@\[\]]*))(:[0-9]*)?", re.ASCII
)
"""A Host header: an address of IPv6 or a name, and perhaps a port; RFC 9110, 7.2."""


@dataclass(frozen=True)
class AccessRules:
    """What a request must show."""

    keys: Callable[[], KeyRing] | None = None  # None: no keys are in use
    hosts: frozenset[str] | None = None  # names in the Host header; None: any


class Access:
    """Refuses requests: 401 without a key, 403 without the scope, 429 above the rate."""

    def __init__(self, rules: AccessRules) -> None:
        self._rules = rules
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def check_host(self, scope: AsgiScope) -> None:
        """Refuse a foreign name for this host, as of a page whose name was rebound to loopback.

        Two names are refused too: a proxy may have read the other one.
        """
        headers = [value for name, value in scope["headers"] if name == b"host"]
        if len(headers) > 1:
            message = f"expected one Host header, got {len(headers)}"
            raise problem(400, FieldError(field="host", rule="too_many", message=message))
        if self._rules.hosts is None:
            return
        if host_name(b"".join(headers).decode("latin-1")) not in self._rules.hosts:
            message = "expected a name that this API is known by, got another"
            raise problem(421, FieldError(field="host", rule="unknown", message=message))

    def admit(self, scope: AsgiScope, needed: Scope | None) -> None:
        """Note the client of a request that may be answered.

        Args:
            scope: the request; ``client_name``, ``client_id``, ``is_admitted``, which says
                whether the key still opens the route, and ``charge``, which counts further
                requests of its rate for an answer that costs as much, are added to it.
            needed: which the key must have; None where any key will do.

        Raises:
            ProblemError: 401, 403 or 429.
        """
        client = self._client(scope)
        scope["client_name"] = client.name
        scope["client_id"] = client.id
        scope["is_admitted"] = lambda: self._is_admitted(client, needed)
        scope["charge"] = lambda requests: self._charge(client, requests)
        if needed is not None and needed not in client.scopes:
            message = f"expected the scope {needed}, the key {client.name!r} has not got it"
            raise problem(403, FieldError(field="authorization", rule="scope", message=message))
        if client.rate is not None and not self._limiter.hit(client.rate, client.id):
            raise self._too_often(client.rate, client.id)

    def _client(self, scope: AsgiScope) -> Client:
        if self._rules.keys is None:
            return ANYONE
        key = _key_of(scope)
        client = self._rules.keys().client(key) if key else None
        if client is None:
            got = "one that is not valid" if key else "none"
            message = f"expected an API key as in 'Bearer cc_...', got {got}"
            reason = FieldError(field="authorization", rule="key", message=message)
            raise problem(401, reason, headers=_CHALLENGE)
        return client

    def _is_admitted(self, client: Client, needed: Scope | None) -> bool:
        """True when a client's key still has the scope; for answers that take long."""
        return self._rules.keys is None or self._rules.keys().holds(client.id, needed)

    def _charge(self, client: Client, requests: int) -> None:
        """Count further requests, no more than half of the rate at once; raises the 429 problem."""
        if client.rate is None:
            return
        cost = min(requests, client.rate.amount // 2)
        if cost and not self._limiter.hit(client.rate, client.id, cost=cost):
            raise self._too_often(client.rate, client.id)

    def _too_often(self, rate: RateLimitItem, client_id: str) -> ProblemError:
        stats = self._limiter.get_window_stats(rate, client_id)
        wait_s = max(math.ceil(stats.reset_time - time.time()), 1)
        message = f"expected at most {rate}, got more; try again in {wait_s} s"
        reason = FieldError(field="authorization", rule="rate", message=message)
        return problem(429, reason, headers={"retry-after": str(wait_s)})


def host_name(header: str) -> str:
    """Return the name in a Host header, without its port; ``""`` of one that is not valid."""
    matched = _HOST.fullmatch(header)
    return (matched["address"] or matched["name"] or "").lower() if matched else ""


def _key_of(scope: AsgiScope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, key = value.decode("latin-1").partition(" ")
            return str(key).strip() if kind.lower() == "bearer" else ""
        if name == b"x-api-key":
            return str(value.decode("latin-1")).strip()
    return ""
