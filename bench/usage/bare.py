"""The limit of HTTP ingest: the same server, decoder and producer with nothing between them. No key, no check, no answer per event.

`python -m bench.usage.bare PORT BOOTSTRAP` serves until it is ended.
"""

import asyncio
import sys
import zlib
from typing import Any

import msgspec
import uvicorn
import uvloop
from aiokafka import AIOKafkaProducer

from billing_common.events import USAGE_RECORDED_TOPIC

EVENTS = msgspec.json.Decoder(list[dict[str, Any]])


async def serve(port: int, bootstrap: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=0, max_batch_size=131072)
    await producer.start()
    partitions = len(await producer.partitions_for(USAGE_RECORDED_TOPIC))

    async def take(_scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        groups: dict[int, list[Any]] = {}
        for event in EVENTS.decode(body if body[:1] == b"[" else b"[" + body + b"]"):
            groups.setdefault(zlib.crc32(event["subject"].encode()) % partitions, []).append(event)
        encode = msgspec.json.encode
        waiting = [await producer.send(USAGE_RECORDED_TOPIC, encode(group), partition=place) for place, group in groups.items()]
        await asyncio.gather(*waiting)
        await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    await uvicorn.Server(uvicorn.Config(take, port=port, log_level="error", access_log=False, lifespan="off")).serve()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
