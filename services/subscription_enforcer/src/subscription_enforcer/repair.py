"""Finds what somebody changed at API Management by hand, and has the writer put it back."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import asyncpg
import structlog
from prometheus_client import Counter

from subscription_enforcer import store
from subscription_enforcer.apim_gateway import ApimGateway, Found

BATCH = 500
REPAIR_LOCK = "subscription_enforcer.repair"

REPAIRED = Counter("turnpike_access_drift_total", "Subscriptions that were not at API Management what was applied", ["found"])

log = structlog.get_logger(__name__)


class Repair:
    """Compares at each interval of wall time. Subscriptions that are not ours are left alone."""

    def __init__(self, pool: asyncpg.Pool, gateway: ApimGateway, *, interval: timedelta) -> None:
        self._pool, self._gateway, self._interval = pool, gateway, interval

    async def run(self) -> None:
        while True:
            await self.repair()
            await asyncio.sleep(self._interval.total_seconds())

    async def repair(self) -> int:
        """Compare once; returns how many had drifted. One replica at a time. Raises ApimError."""
        async with self._pool.acquire() as connection:
            if not await connection.fetchval("select pg_try_advisory_lock(hashtext($1))", REPAIR_LOCK):
                return 0
            try:
                return await self._compare()
            finally:
                await connection.execute("select pg_advisory_unlock(hashtext($1))", REPAIR_LOCK)

    async def _compare(self) -> int:
        started = await store.database_time(self._pool)
        seen: set[str] = set()
        batch: list[Found] = []
        drifted = 0
        async for found in self._gateway.list_all():
            seen.add(found.sid)
            batch.append(found)
            if len(batch) == BATCH:
                drifted += await self._compare_batch(batch, started)
                batch = []
        drifted += await self._compare_batch(batch, started)
        for subscription_id in await store.granted_but_not_in(self._pool, started, seen):
            await self._mark(subscription_id, "missing")
            drifted += 1
        if drifted:
            log.warning("access had drifted at API Management and is applied again", count=drifted)
        return drifted

    async def _compare_batch(self, batch: Sequence[Found], started: datetime) -> int:
        known = await store.applied_before(self._pool, started, [found.sid for found in batch])
        drifted = 0
        for found in batch:
            if (ours := known.get(found.sid)) is None:
                continue
            moved = ours.state != "cancelled" and found.product_id.lower() != ours.product_id.lower()
            if found.state != ours.state or moved:
                await self._mark(ours.subscription_id, found.state)
                drifted += 1
        return drifted

    async def _mark(self, subscription_id: str, found: str) -> None:
        REPAIRED.labels(found).inc()
        log.warning("access has drifted", subscription_id=subscription_id, found=found)
        await store.mark_drifted(self._pool, subscription_id, uuid4())
