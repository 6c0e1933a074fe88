"""Which source counts a subscription's calls on a day, where its plan may have changed. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

DAY = timedelta(days=1)
BY_GATEWAY = frozenset({"stream", "reports"})  # sources whose calls run through API Management
Stretch = tuple[str, datetime, datetime | None, str | None]  # subscription id, start and end of a segment, source of its plan


class DaySources:
    """Answers for the days of a range. A day of two sources has none: the gateway's count of a day cannot be told apart."""

    def __init__(self, stretches: Iterable[Stretch], since: datetime, until: datetime) -> None:
        self._all: dict[str, set[str | None]] = {}
        self._days: dict[tuple[str, datetime], set[str | None]] = {}
        known = list(stretches)
        for subscription_id, *_, source in known:
            self._all.setdefault(subscription_id, set()).add(source)
        for subscription_id, started_at, ended_at, source in known:
            if len(self._all[subscription_id]) > 1:
                self._add(subscription_id, max(started_at, since), min(ended_at or until, until), source)

    def _add(self, subscription_id: str, since: datetime, until: datetime, source: str | None) -> None:
        day = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        while since < until and day < until:
            self._days.setdefault((subscription_id, day), set()).add(source)
            day += DAY

    def any_by_gateway(self, subscription_id: str) -> bool:
        return not BY_GATEWAY.isdisjoint(self._all.get(subscription_id, ()))

    def of(self, subscription_id: str, day: datetime) -> str | None:
        """Return the one source of a day whose calls the gateway counts, else None. One source for the whole range is that of every day."""
        found = self._all.get(subscription_id, set())
        if len(found) > 1:
            found = self._days.get((subscription_id, day), set())
        (only,) = found if len(found) == 1 else (None,)
        return only if only in BY_GATEWAY else None
