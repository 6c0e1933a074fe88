"""The collector's internal door: where a subscription stands, and how its usage is made up."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from delegation_gateway.internal_door import InternalDoor
from delegation_gateway.reporter_gateway import Told


class Freshness(Told):
    """Everything that had arrived `staleness_seconds` before `as_of` is in the figures."""

    as_of: datetime
    staleness_seconds: float


class Quota(Told):
    meter_id: str
    limit: int
    used: int
    remaining: int
    window_end: datetime | None
    stops: bool


class Amount(Told):
    currency: str
    total_minor: int


class Basis(Told):
    """The pace from `since` to `until`, run on to the period's end."""

    since: datetime
    until: datetime
    period_end: datetime
    usage: dict[str, int]


class Projected(Amount):
    basis: Basis


class Standing(Told):
    period_start: datetime
    period_end: datetime
    totals: dict[str, int]
    quotas: tuple[Quota, ...]
    bill: Amount | None
    projected: Projected | None
    spend_cap_minor: int | None = None
    freshness: Freshness


class SplitRow(Told):
    """Names that were not asked for are None; `distinct` counts each event once, `quantity` is of one meter."""

    hour: datetime | None = None
    day: datetime | None = None
    origin: str | None = None
    method: str | None = None
    template: str | None = None
    status: int | None = None
    outcome: str
    reason: str
    meter_id: str
    distinct: int
    quantity: int


class Split(Told):
    rows: tuple[SplitRow, ...]
    complete_until: datetime | None
    freshness: Freshness


class Collector(Protocol):
    """What the routes use. Each raises NotKnownError or DoorUnavailableError."""

    async def standing(self, subscription_id: str) -> Standing: ...
    async def split(self, subscription_id: str, since: datetime, until: datetime, by: Sequence[str]) -> Split: ...


class CollectorGateway:
    """Asks over HTTP."""

    def __init__(self, door: InternalDoor) -> None:
        self._door = door

    async def standing(self, subscription_id: str) -> Standing:
        """Return usage, bill, projection and quotas of the running period."""
        return Standing.model_validate_json(await self._door.ask(f"/v1/usage/{subscription_id}/standing"))

    async def split(self, subscription_id: str, since: datetime, until: datetime, by: Sequence[str]) -> Split:
        """Return usage divided by outcome and by what is named."""
        params = {"from": since.isoformat(), "to": until.isoformat(), "by": [*by, "outcome"]}
        return Split.model_validate_json(await self._door.ask(f"/v1/usage/{subscription_id}/split", params))
