"""Stripe: send one meter event, read a meter's sums. No other file imports its SDK."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import stripe

from stripe_reporter.domain import Answer, Kind, MeterEvent

DUPLICATE = "already exists with identifier"  # Stripe has no code for it
PAGE = 100
SESSION_MARGIN = timedelta(minutes=1)


class StripeUnavailableError(Exception):
    """Stripe did not answer a question; ask again later, and less often when it was `too_fast`."""

    def __init__(self, error: stripe.StripeError) -> None:
        super().__init__(f"{type(error).__name__} {_code(error) or error.http_status or ''}".strip())
        self.too_fast = isinstance(error, stripe.RateLimitError)


@dataclass(frozen=True)
class _Session:
    """A token for the v2 stream, good for 15 minutes, and the client that was made of it."""

    client: stripe.StripeClient
    expires_at: datetime


class StripeGateway:
    """Speaks to Stripe with one client, bound to the running event loop; `of_token` makes the one of a session of the v2 stream."""

    def __init__(self, client: stripe.StripeClient, of_token: Callable[[str], stripe.StripeClient]) -> None:
        self._client, self._of_token = client, of_token
        self._session: _Session | None = None
        self._opening = asyncio.Lock()

    async def send(self, event: MeterEvent) -> Answer:
        """Send one meter event, once: the ledger repeats it, under the same identifier, not the SDK."""
        try:
            answer = await self._client.v1.billing.meter_events.create_async(
                {
                    "event_name": event.event_name,
                    "identifier": str(event.identifier),
                    "timestamp": int(event.event_time.timestamp()),
                    "payload": {"stripe_customer_id": event.stripe_customer_id, "value": str(event.quantity)},
                },
                {"idempotency_key": event.idempotency_key, "max_network_retries": 0},
            )
        except stripe.StripeError as error:
            return read_error(error)
        response = answer.last_response
        return Answer(Kind.ACKNOWLEDGED, request_id=response.request_id if response else None)

    async def stream(self, events: Sequence[MeterEvent]) -> Answer:
        """Send up to 100 meter events through the v2 stream. ACKNOWLEDGED means received: what is wrong with one is not said here."""
        body: Any = {
            "events": [
                {
                    "event_name": event.event_name,
                    "identifier": str(event.identifier),
                    "timestamp": event.event_time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
                    "payload": {"stripe_customer_id": event.stripe_customer_id, "value": str(event.quantity)},
                }
                for event in events
            ]
        }
        try:
            for renewed in (False, True):
                session = await self._stream_session()
                try:
                    await session.client.v2.billing.meter_event_stream.create_async(body, {"max_network_retries": 0})
                    return Answer(Kind.ACKNOWLEDGED)
                except (stripe.TemporarySessionExpiredError, stripe.AuthenticationError):
                    if renewed:
                        raise
                    self._forget(session)
        except stripe.StripeError as error:
            return read_error(error)
        raise AssertionError("either returned or raised")

    async def _stream_session(self) -> _Session:
        async with self._opening:
            if self._session is None or self._session.expires_at - SESSION_MARGIN <= datetime.now(UTC):
                made = await self._client.v2.billing.meter_event_session.create_async()
                expires_at = datetime.fromisoformat(str(made.expires_at))
                self._session = _Session(self._of_token(made.authentication_token), expires_at)
            return self._session

    def _forget(self, session: _Session) -> None:
        if self._session is session:  # another call may have renewed it already
            self._session = None

    async def sum(self, *, stripe_meter_id: str, stripe_customer_id: str, start: datetime, end: datetime) -> int:
        """Return what a meter has summed for a customer in [start, end), both on full minutes. It may lag behind."""
        total = 0.0
        try:
            page = await self._client.v1.billing.meters.event_summaries.list_async(
                stripe_meter_id,
                {
                    "customer": stripe_customer_id,
                    "start_time": int(start.timestamp()),
                    "end_time": int(end.timestamp()),
                    "limit": PAGE,
                },
            )
            async for row in page.auto_paging_iter():
                total += row.aggregated_value
        except stripe.StripeError as error:
            raise StripeUnavailableError(error) from error
        return round(total)

    async def sums(
        self, *, stripe_meter_id: str, stripe_customer_id: str, start: datetime, end: datetime, by: Literal["day", "hour"]
    ) -> dict[datetime, int]:
        """Return start of each UTC day or hour with usage -> what a meter has summed for a customer. Start and end on full ones."""
        found: dict[datetime, int] = {}
        try:
            page = await self._client.v1.billing.meters.event_summaries.list_async(
                stripe_meter_id,
                {
                    "customer": stripe_customer_id,
                    "start_time": int(start.timestamp()),
                    "end_time": int(end.timestamp()),
                    "value_grouping_window": by,
                    "limit": PAGE,
                },
            )
            async for row in page.auto_paging_iter():
                found[datetime.fromtimestamp(row.start_time, UTC)] = round(row.aggregated_value)
        except stripe.StripeError as error:
            raise StripeUnavailableError(error) from error
        return found


def full_minutes(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Widen a range to the full minutes that Stripe's summaries want."""
    seconds = math.ceil(end.timestamp() / 60) * 60
    return start.astimezone(UTC).replace(second=0, microsecond=0), datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)


def read_error(error: stripe.StripeError) -> Answer:
    """Say what an error means for a meter event."""
    code, request_id = _code(error), error.request_id
    if isinstance(error, stripe.RateLimitError):
        return Answer(Kind.TOO_FAST, code or "rate_limit", request_id)
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return Answer(Kind.KEY_REFUSED, code or "key_refused", request_id)
    if isinstance(error, stripe.IdempotencyError):
        return Answer(Kind.FAILED_ANSWER, "idempotency_error", request_id)
    if isinstance(error, stripe.InvalidRequestError):
        return _read_refusal(error, code, request_id)
    if isinstance(error, stripe.APIError) and error.http_status is not None and error.http_status != 409:
        return Answer(Kind.FAILED_ANSWER, code or f"http_{error.http_status}", request_id)
    return Answer(Kind.NO_ANSWER, code or "no_answer", request_id)


def _read_refusal(error: stripe.InvalidRequestError, code: str | None, request_id: str | None) -> Answer:
    if DUPLICATE in (error.user_message or str(error)):
        return Answer(Kind.ACKNOWLEDGED, request_id=request_id, note="Stripe had it already")
    if code == "timestamp_in_future":
        return Answer(Kind.TOO_EARLY, code, request_id)
    return Answer(Kind.REJECTED, code or "invalid_request", request_id)


def _code(error: stripe.StripeError) -> str | None:
    """The attribute `code` is empty on some classes; the body always has it."""
    return error.code or getattr(error.error, "code", None)
