"""The load generator for POST /v1/events, a process of its own: each connection sends its next request when the answer is there.

`python -m bench.usage.load KEY SIZE CONNECTIONS SECONDS PORT [PORT ...]` prints JSON. No client library: one costs more than the server.
"""

import asyncio
import json
import sys
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any

import uvloop

from bench.usage.calls import SUBSCRIPTIONS

BATCH, SINGLE = "application/cloudevents-batch+json", "application/cloudevents+json"
NUMBER = b"@@@@@@@@@@@@@@@@"  # stands for the number of the request: every event is a new one
POOL = 50  # prepared bodies, each with other subscriptions
EVENT = (
    '{"specversion":"1.0","id":"@@@@@@@@@@@@@@@@-%d","source":"/load","type":"turnpike.usage","subject":"sub-%d","time":"%s",'
    '"data":{"meter":"calls","quantity":1}}'
)


class Connection(asyncio.Protocol):
    """One connection; `taken` gets the seconds of every answered request."""

    def __init__(self, load: "Load") -> None:
        self._load, self._received, self._sent_at = load, b"", 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._load.next_request())

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]):
            return
        now, self._received = time.perf_counter(), b""
        self._load.answered(int(head[9:12]), now - self._sent_at, now)
        if now < self._load.end:
            self._send()
        else:
            self._transport.close()
            self._load.closed()


class Load(ABC):
    """What all connections share: when they end, and what came back."""

    def __init__(self, seconds: float, *, connections: int) -> None:
        self._open, self.done = connections, asyncio.Event()
        self.end = time.perf_counter() + seconds
        self.taken: list[float] = []
        self.statuses: dict[int, int] = {}

    @abstractmethod
    def next_request(self) -> bytes: ...

    def answered(self, status: int, seconds: float, now: float) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if now <= self.end:
            self.taken.append(seconds)

    def closed(self) -> None:
        self._open -= 1
        if not self._open:
            self.done.set()


class GoodLoad(Load):
    """Prepared requests of new events."""

    def __init__(self, key: str, size: int, connections: int, seconds: float) -> None:
        kind = SINGLE if size == 1 else BATCH
        self._requests = [request(key, kind, batch(size, place)[1:-1] if size == 1 else batch(size, place)) for place in range(POOL)]
        self._number = time.time_ns() % 10**15
        super().__init__(seconds, connections=connections)

    def next_request(self) -> bytes:
        self._number += 1
        return self._requests[self._number % POOL].replace(NUMBER, b"%016d" % self._number)


def batch(size: int, place: int) -> bytes:
    """Return events of subscriptions that `place` chooses, as a JSON array."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"[{','.join(EVENT % (number, (place * 37 + number * 11) % SUBSCRIPTIONS, at) for number in range(size))}]".encode()


def request(key: str, kind: str, body: bytes, *headers: str) -> bytes:
    head = ("POST /v1/events HTTP/1.1", "host: x", f"authorization: Bearer {key}", f"content-type: {kind}", f"content-length: {len(body)}")
    return "\r\n".join((*head, *headers, "", "")).encode() + body


async def run(key: str, size: int, connections: int, seconds: float, ports: list[int]) -> dict[str, Any]:
    """Return what was answered in the time, over connections spread over the ports."""
    load = GoodLoad(key, size, connections, seconds)
    loop = asyncio.get_running_loop()
    for place in range(connections):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", ports[place % len(ports)])
    await asyncio.wait_for(load.done.wait(), seconds + 60)
    ordered = sorted(load.taken)
    return {
        "events_per_second": round(len(ordered) * size / seconds),
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
        "requests": len(ordered),
        "statuses": load.statuses,
    }


if __name__ == "__main__":
    key, size, connections, seconds, *ports = sys.argv[1:]
    print(json.dumps(uvloop.run(run(key, int(size), int(connections), float(seconds), [int(port) for port in ports]))))
