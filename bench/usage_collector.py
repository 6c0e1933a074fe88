"""Stream -> committed windows in one process, beside the limit of the same run: consume, decode and one COPY of the same rows."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import psutil
import uvloop
from aiokafka import AIOKafkaConsumer
from prometheus_client import REGISTRY

from bench import machine
from bench.usage_stage import CALLS_TOPIC, DUPLICATE_EVERY, UsageStage, usage_stage, write_calls
from usage_collector.app import create_service
from usage_collector.decoding import decode_calls
from usage_collector.event_store import COLUMNS, event_rows
from usage_collector.metering import Verdict
from usage_collector.observing import Observation

CALLS = 300_000
BATCH = 5000
WARM_SHARE = 0.1  # of the calls are read before the clock starts: joins and caches are not the question


def measure(runs: int | None) -> dict[str, Any]:
    """`runs` is the number of calls in the stream."""
    return uvloop.run(_measure(runs or CALLS))


async def _measure(calls: int) -> dict[str, Any]:
    facts = machine.facts()
    async with usage_stage("payg") as stage:
        await write_calls(stage.bootstrap, calls)
        before = await _limit(stage, calls)
        found, memory_mb = await _collect(stage, calls)
        after = await _limit(stage, calls)
        counted = await stage.pool.fetchval("select sum(quantity) from usage_window")
        distinct = await stage.pool.fetchval("select count(*) from usage_event")
    limit = (before + after) / 2
    assert distinct == calls - calls // DUPLICATE_EVERY, "every distinct call is stored once"
    figures = {"events_per_second": round(found), "of_limit_percent": round(100 * found / limit, 1), "memory_mb": memory_mb}
    return {
        "machine": facts,
        "limits": {"consume, decode, COPY (events/s)": round(limit), "before": round(before), "after": round(after)},
        "figures": {"stream to windows": figures | {"calls": calls, "counted": int(counted)}},
    }


async def _limit(stage: UsageStage, calls: int) -> float:
    """Return events a second without judging, without keys and without windows, over all but the first calls."""
    consumer = AIOKafkaConsumer(
        CALLS_TOPIC,
        bootstrap_servers=stage.bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=2 << 20,
    )
    await consumer.start()
    verdict = Verdict("counted", None, 1, (("calls", 1),))
    read, started_at, started = 0, 0.0, 0
    async with stage.pool.acquire() as connection:
        await connection.execute("create table copied (like usage_event)")
        try:
            while read < calls:
                batches = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
                seen, _ = decode_calls([record.value for record in itertools.chain(*batches.values())])
                if seen:
                    await connection.copy_records_to_table("copied", records=_rows(seen, verdict), columns=COLUMNS)
                read += len(seen)
                if not started and read >= calls * WARM_SHARE:
                    started_at, started = time.perf_counter(), read
            return (read - started) / (time.perf_counter() - started_at)
        finally:
            await consumer.stop()
            await connection.execute("drop table copied")


def _rows(seen: list[Observation], verdict: Verdict) -> Iterator[tuple[object, ...]]:
    return event_rows([(one, verdict) for one in seen])


async def _collect(stage: UsageStage, calls: int) -> tuple[float, int]:
    """Return events a second of a whole collector, and its memory."""
    service = create_service(stage.settings(log_level="ERROR"))
    async with service.running():
        started = await _read_up_to(calls * WARM_SHARE)
        started_at = time.perf_counter()
        read = await _read_up_to(calls)
        seconds = time.perf_counter() - started_at
        return (read - started) / seconds, psutil.Process().memory_info().rss // 2**20


async def _read_up_to(calls: float) -> float:
    while True:
        if (read := _received()) >= calls:
            return read
        await asyncio.sleep(0.01)


def _received() -> float:
    return REGISTRY.get_sample_value("turnpike_usage_received_total", {"source": "stream"}) or 0.0
