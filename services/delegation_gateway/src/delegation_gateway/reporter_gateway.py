"""The reporter's internal door: why an invoice says what it says, level by level."""

from collections.abc import AsyncIterator, Mapping
from datetime import date, datetime
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from delegation_gateway.internal_door import InternalDoor


class Told(BaseModel):
    """What another service told; fields that are not shown here are left out."""

    model_config = ConfigDict(frozen=True)


class BillLine(Told):
    line_id: str
    description: str
    amount_minor: int
    quantity: int | None
    period_start: datetime
    period_end: datetime
    kind: str


class NotCounted(Told):
    outcome: str
    reason: str
    words: str
    events: int


class Stretch(Told):
    """A day or an hour; `amount_minor` is what it added to the bill, None where the plan of then is not known."""

    start: datetime
    quantity: int
    amount_minor: int | None


class DayOfUsage(Stretch):
    not_counted: int


class BilledUsage(Told):
    """All lines of one meter and time. `quantity` and `amount_minor` are the invoice's, `counted` and `rated_minor` add up the days."""

    key: str
    meter_id: str
    meter_name: str
    product_id: str
    period_start: datetime
    period_end: datetime
    line_ids: tuple[str, ...]
    quantity: int
    amount_minor: int
    counted: int
    rated_minor: int | None
    days: tuple[DayOfUsage, ...]
    not_counted: tuple[NotCounted, ...]


class Bill(Told):
    invoice_id: str
    subscription_id: str
    account_id: str
    number: str | None
    currency: str
    total_minor: int
    lines: tuple[BillLine, ...]
    usage: tuple[BilledUsage, ...]


class Endpoint(Told):
    origin: str
    method: str
    template: str
    status: int
    events: int
    quantity: int


class Hour(Stretch):
    endpoints: tuple[Endpoint, ...]
    not_counted: tuple[NotCounted, ...]
    difference: str | None


class Day(Told):
    hours: tuple[Hour, ...]
    complete_until: datetime | None


class Event(Told):
    id: str
    source: str
    at: datetime
    method: str | None
    template: str | None
    status: int | None
    counted: int


class Events(Told):
    events: tuple[Event, ...]
    next: str | None


class Reporter(Protocol):
    """What the routes use. Each raises NotKnownError or DoorUnavailableError."""

    async def bill(self, invoice_id: str) -> Bill: ...
    async def day(self, invoice_id: str, usage: str, day: date) -> Day: ...
    async def events(self, invoice_id: str, wanted: Mapping[str, Any]) -> Events: ...
    async def csv(self, invoice_id: str, level: str) -> AsyncIterator[bytes]: ...


class ReporterGateway:
    """Asks over HTTP."""

    def __init__(self, door: InternalDoor) -> None:
        self._door = door

    async def bill(self, invoice_id: str) -> Bill:
        """Return all lines of an invoice, its usage down to days."""
        return Bill.model_validate_json(await self._door.ask(_path(invoice_id)))

    async def day(self, invoice_id: str, usage: str, day: date) -> Day:
        """Return the hours of a day with what each endpoint added."""
        params = {"usage": usage, "day": f"{day.isoformat()}T00:00:00Z"}
        return Day.model_validate_json(await self._door.ask(f"{_path(invoice_id)}/day", params))

    async def events(self, invoice_id: str, wanted: Mapping[str, Any]) -> Events:
        """Return a page of the events behind one hour."""
        return Events.model_validate_json(await self._door.ask(f"{_path(invoice_id)}/events", wanted))

    async def csv(self, invoice_id: str, level: str) -> AsyncIterator[bytes]:
        """Return the whole explanation: `level` is endpoints or events."""
        return await self._door.stream(f"{_path(invoice_id)}/csv", {"level": level})


def _path(invoice_id: str) -> str:
    return f"/v1/explanations/{invoice_id}"
