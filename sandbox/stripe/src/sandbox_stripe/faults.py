"""Faults on demand, and Stripe's rate limits where they are switched on."""

import secrets
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from sandbox_stripe.errors import Json, StripeError, invalid
from sandbox_stripe.settings import Settings

KINDS = ("status", "drop", "drop_after_commit", "delay")
DELAY_SECONDS_MAX = 120.0
METER_EVENTS = "/v1/billing/meter_events"


@dataclass
class Fault:
    """What goes wrong, where, how often."""

    kind: str
    method: str = ""
    path_prefix: str = "/"
    status: int = 500
    seconds: float = 0.0
    times: int | None = None
    probability: float = 1.0
    headers: dict[str, str] = field(default_factory=dict)
    hits: int = 0
    id: str = field(default_factory=lambda: f"fault_{secrets.token_hex(6)}")

    def fits(self, method: str, path: str) -> bool:
        return self.method in {"", method} and path.startswith(self.path_prefix) and (self.times is None or self.hits < self.times)


def read_fault(given: Any) -> Fault:
    """Check what somebody posted to the door."""
    if not isinstance(given, dict) or given.get("kind") not in KINDS:
        raise invalid(f"`kind` must be one of {', '.join(KINDS)}.", "kind")
    match = given.get("match") or {}
    try:
        fault = Fault(
            kind=given["kind"], method=str(match.get("method", "")).lower(), path_prefix=str(match.get("path_prefix", "/")),
            status=int(given.get("status", 500)), seconds=float(given.get("seconds", 0)), probability=float(given.get("probability", 1)),
            times=None if given.get("times") is None else int(given["times"]), headers={str(k): str(v) for k,
            v in (given.get("headers") or {}).items()},
        )  # fmt: skip
    except (TypeError, ValueError, AttributeError):
        raise invalid("`status`, `seconds`, `times` and `probability` must be numbers, `headers` and `match` objects.") from None
    if not (400 <= fault.status <= 599 and 0 <= fault.seconds <= DELAY_SECONDS_MAX and 0 <= fault.probability <= 1):
        raise invalid(f"Allowed: `status` 400 to 599, `seconds` 0 to {DELAY_SECONDS_MAX:.0f}, `probability` 0 to 1.")
    return fault


@dataclass
class Faults:
    """The faults in force, in the order in which they were added; the first that fits is taken."""

    active: list[Fault] = field(default_factory=list)
    chance: Random = field(default_factory=Random)

    def take(self, method: str, path: str) -> Fault | None:
        for fault in self.active:
            if fault.fits(method, path) and self.chance.random() < fault.probability:
                fault.hits += 1
                return fault
        return None

    def shown(self) -> list[Json]:
        return [asdict(fault) for fault in self.active]


def status_error(fault: Fault) -> StripeError:
    """Return the error that Stripe would answer with this status."""
    if fault.status == 429:
        headers = {"Stripe-Rate-Limited-Reason": "global-rate", **fault.headers}
        message = "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits."
        return StripeError(429, message, code="rate_limit", headers=headers)
    if fault.status >= 500:
        message = "An unknown error occurred. Try again; if it goes on, contact support."
        return StripeError(fault.status, message, type_="api_error", headers=fault.headers)
    return StripeError(fault.status, "This request was made to fail on demand.", headers=fault.headers)


class RateLimit:
    """Token buckets of one second, as Stripe's limits per account; off unless the settings say so."""

    def __init__(self, settings: Settings) -> None:
        self._rates = {"global-rate": settings.rate_limit_per_second, "resource-specific": settings.rate_limit_meter_events_per_second}
        self._tokens = {name: float(rate) for name, rate in self._rates.items()}
        self._at = dict.fromkeys(self._rates, 0.0)

    def check(self, path: str, monotonic: float) -> None:
        name = "resource-specific" if path == METER_EVENTS and self._rates["resource-specific"] else "global-rate"
        rate = self._rates[name]
        if not rate:
            return
        self._tokens[name] = min(float(rate), self._tokens[name] + (monotonic - self._at[name]) * rate)
        self._at[name] = monotonic
        if self._tokens[name] < 1:
            raise status_error(Fault("status", status=429, headers={"Stripe-Rate-Limited-Reason": name}))
        self._tokens[name] -= 1
