"""The limit of a stream on this machine: consume, decode and one COPY of the same rows. No look-up, no windows, no keys. Its own process.

`python -m bench.usage.limit BOOTSTRAP DSN TOPIC CALLS WAY` prints calls a second and its own processor time a call, in microseconds.
WAY is how rows become a COPY: `driver` (asyncpg does it, value by value) or `own` (the collector's way).
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer

from bench.usage.calls import PARTITIONS
from billing_common.db import create_pool
from billing_common.process import collect_garbage_rarely
from usage_collector.app import SERVICE
from usage_collector.decoding import decode_calls
from usage_collector.event_rows import COLUMNS, Judged, copy_of
from usage_collector.metering import Verdict

BATCH = 5000
WARM_SHARE = 0.2  # of the calls are read before the clock starts: connections and caches are not the question
VERDICT = Verdict("counted", None, 1, (("calls", 1),))


def rows_of(judged: list[Judged]) -> Iterator[tuple[object, ...]]:
    """Yield the same rows as values."""
    for one, said in judged:
        meter_id, counted = said.amounts[0]
        properties = json.dumps(one.properties) if one.properties else None
        yield (
            one.day, one.id, one.at, counted, one.quantity, said.segment_id, one.external_id, one.sid, properties, one.status, said.outcome,
            one.origin, one.source, one.method, one.template, one.stated_meter, meter_id, said.reason,
        )  # fmt: skip


async def copy(pool: asyncpg.Pool, table: str, judged: list[Judged], way: str) -> None:
    if way == "own":
        await pool.copy_to_table(table, source=copy_of(judged), columns=COLUMNS, format="binary")
    else:
        await pool.copy_records_to_table(table, records=rows_of(judged), columns=COLUMNS)


async def measure(bootstrap: str, dsn: str, topic: str, calls: int, way: str) -> tuple[float, float]:
    """Return calls a second and processor time a call, over all but the first."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False, max_partition_fetch_bytes=2 << 20
    )
    pool = await create_pool(dsn, schema=SERVICE, size=1)
    table = f"copied_{time.time_ns()}"
    await consumer.start()
    await pool.execute(f"create table {table} (like usage_event)")
    assert len(consumer.assignment()) == PARTITIONS
    read = started = 0
    started_at = started_cpu = 0.0
    try:
        while read < calls:
            batches = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
            seen, _ = decode_calls([record.value for record in itertools.chain(*batches.values())])
            if seen:
                await copy(pool, table, [(one, VERDICT) for one in seen], way)
            read += len(seen)
            if not started and read >= calls * WARM_SHARE:
                started_at, started_cpu, started = time.perf_counter(), time.process_time(), read
        return (read - started) / (time.perf_counter() - started_at), 1e6 * (time.process_time() - started_cpu) / (read - started)
    finally:
        await consumer.stop()
        await pool.execute(f"drop table {table}")
        await pool.close()


if __name__ == "__main__":
    bootstrap, dsn, topic, calls, way = sys.argv[1:]
    collect_garbage_rarely()  # as every service does
    print(*uvloop.run(measure(bootstrap, dsn, topic, int(calls), way)))
