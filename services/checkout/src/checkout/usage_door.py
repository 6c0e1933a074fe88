"""The one door of usage_collector that checkout asks: how much was used, for what a changed price would have cost."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import httpx

from billing_common.internal_auth import InternalAuth

ENTRIES_MAX = 1000  # of one question


class UsageUnknownError(Exception):
    """The collector does not say; the message has the reason."""


class Asked(NamedTuple):
    """Usage of one subscription in a span of time."""

    subscription_id: str
    start: datetime
    end: datetime


class UsageDoor:
    """Asks `POST /v1/usage-totals`."""

    def __init__(self, client: httpx.AsyncClient, auth: InternalAuth) -> None:
        self._client = client
        self._auth = auth

    async def totals(self, asked: Sequence[Asked]) -> dict[str, Mapping[str, Mapping[str, int]]]:
        """Return subscription id -> product id -> meter id -> quantity; a subscription that the collector does not know is left out."""
        found: dict[str, Mapping[str, Mapping[str, int]]] = {}
        for first in range(0, len(asked), ENTRIES_MAX):
            some = asked[first : first + ENTRIES_MAX]
            entries = [{"subscription_id": one.subscription_id, "from": one.start.isoformat(), "to": one.end.isoformat()} for one in some]
            try:
                answer = await self._client.post("/v1/usage-totals", json={"entries": entries}, headers=self._auth.headers())
            except httpx.HTTPError as error:
                raise UsageUnknownError(f"usage_collector does not answer ({type(error).__name__})") from error
            if answer.status_code != httpx.codes.OK:
                raise UsageUnknownError(f"usage_collector answers HTTP {answer.status_code}")
            found |= answer.json()["totals"]
        return found
