"""The limit of a stream on this machine: consume, decode and one COPY of the same rows. No look-up, no windows, no keys. Its own process.

`python -m bench.usage.limit BOOTSTRAP DSN TOPIC CALLS` prints calls a second.
"""

import itertools
import sys
import time

import uvloop
from aiokafka import AIOKafkaConsumer

from bench.usage.calls import PARTITIONS
from billing_common.db import create_pool
from usage_collector.app import SERVICE
from usage_collector.decoding import decode_calls
from usage_collector.event_store import COLUMNS, event_rows
from usage_collector.metering import Verdict

BATCH = 5000
WARM_SHARE = 0.2  # of the calls are read before the clock starts: connections and caches are not the question
VERDICT = Verdict("counted", None, 1, (("calls", 1),))


async def measure(bootstrap: str, dsn: str, topic: str, calls: int) -> float:
    """Return calls a second over all but the first."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False, max_partition_fetch_bytes=2 << 20
    )
    pool = await create_pool(dsn, schema=SERVICE, size=1)
    table = f"copied_{time.time_ns()}"
    await consumer.start()
    await pool.execute(f"create table {table} (like usage_event)")
    assert len(consumer.assignment()) == PARTITIONS
    read = started = 0
    started_at = 0.0
    try:
        while read < calls:
            batches = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
            seen, _ = decode_calls([record.value for record in itertools.chain(*batches.values())])
            if seen:
                await pool.copy_records_to_table(table, records=event_rows((one, VERDICT) for one in seen), columns=COLUMNS)
            read += len(seen)
            if not started and read >= calls * WARM_SHARE:
                started_at, started = time.perf_counter(), read
        return (read - started) / (time.perf_counter() - started_at)
    finally:
        await consumer.stop()
        await pool.execute(f"drop table {table}")
        await pool.close()


if __name__ == "__main__":
    print(uvloop.run(measure(*sys.argv[1:4], int(sys.argv[4]))))
