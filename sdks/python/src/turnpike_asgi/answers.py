"""What the door's answer means for a batch, and how long to wait. Pure functions; the conformance vectors are their tests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

RETRY_AFTER_MAX_SECONDS = 300.0
RETRY_CODES = frozenset({"disconnected"})  # 400 because the body did not arrive whole: nothing is wrong with it
AHEAD = "in_the_future"
AHEAD_SLACK_SECONDS, AHEAD_PAUSE_SECONDS, AHEAD_PAUSE_MAX_SECONDS = 300.0, 60.0, 3600.0  # the door takes what is 5 minutes ahead
REFUSED = "the key is refused: give a valid one (turnpike senders add); all is kept until then"

Action = Literal["done", "split", "retry", "unauthorized"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One event the door will never take. `place` is its place in the batch."""

    place: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a batch.

    done: remove it, its refusals are kept aside, and those ahead of the door's clock wait. split: something in it is poison, send
    halves. `answered_at` is the door's clock.
    """

    action: Action
    refusals: tuple[Refusal, ...] = ()
    ahead: tuple[Refusal, ...] = ()
    answered_at: datetime | None = None
    wait_seconds: float = 0.0
    problem: str = ""


def judge(status: int, headers: Mapping[str, str], body: bytes, *, events: int, now: datetime) -> Verdict:
    """Return what an HTTP answer means for the batch of `events` that was sent. `headers` have names in lower case."""
    answer = _object(body)
    results = answer.get("results")
    if status in {202, 403, 422} and isinstance(results, list):
        return _by_event(results, events, door_time(headers.get("date", ""), now))
    error = answer.get("error")
    code = str(error.get("code", "")) if isinstance(error, dict) else ""
    message = str(error.get("message", "")) if isinstance(error, dict) else ""
    if status in {401, 403}:
        return Verdict("unauthorized", problem=f"HTTP {status}: {REFUSED}")
    if status in {400, 413} and code not in RETRY_CODES and (code or events > 1):
        if events > 1:
            return Verdict("split", problem=f"HTTP {status}: {code}")
        return Verdict("done", (Refusal(0, code, message),))
    wait = retry_after(headers.get("retry-after", ""), now)
    return Verdict("retry", wait_seconds=wait, problem=f"HTTP {status}{f': {code}' if code else ''}")


def _by_event(results: list[Any], events: int, answered_at: datetime) -> Verdict:
    if len(results) != events or not all(isinstance(one, dict) and one.get("status") in {"accepted", "rejected"} for one in results):
        return Verdict("retry", problem="the answer does not fit the batch")
    refusals = tuple(
        Refusal(place, str(one.get("reason", "")), str(one.get("message", "")))
        for place, one in enumerate(results)
        if one["status"] == "rejected"
    )
    ahead = tuple(refusal for refusal in refusals if refusal.reason == AHEAD)
    return Verdict("done", tuple(refusal for refusal in refusals if refusal.reason != AHEAD), ahead, answered_at)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def door_time(date: str, now: datetime) -> datetime:
    """Return the door's clock as its header Date says, or this machine's where there is none."""
    try:
        found = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return now
    return found.replace(tzinfo=found.tzinfo or UTC)


def ahead_pause(time: datetime, answered_at: datetime, longest: timedelta) -> float | None:
    """Return the seconds until an event ahead of the door's clock is sent again: 1 to 60 minutes; None: it is too far ahead to wait."""
    ahead = time - answered_at
    if ahead > longest:
        return None
    return min(max(ahead.total_seconds() - AHEAD_SLACK_SECONDS, AHEAD_PAUSE_SECONDS), AHEAD_PAUSE_MAX_SECONDS)


def retry_after(value: str, now: datetime) -> float:
    """Return the seconds a Retry-After header asks for (a number or a date), at most five minutes; 0 when it says nothing."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), RETRY_AFTER_MAX_SECONDS))
    try:
        until = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    seconds = (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds()
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_SECONDS)


def backoff(attempt: int, *, first_seconds: float, longest_seconds: float, random: float) -> float:
    """Return the pause before the next try: doubled with each attempt (from 0), of which the upper half is random in [0, 1)."""
    whole = min(first_seconds * 2.0 ** min(attempt, 30), longest_seconds)
    return whole * (0.5 + 0.5 * random)
