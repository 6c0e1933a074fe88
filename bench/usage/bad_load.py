"""A sender of bad input to POST /v1/events, a process of its own: its one connection sends the next as soon as the answer is there.

`python -m bench.usage.bad_load KIND KEY SECONDS PORT` prints JSON; KIND is one of `KINDS`, or `all of them in turn`.
"""

import asyncio
import gzip
import json
import sys
from collections.abc import Mapping
from itertools import cycle

import uvloop

from bench.usage.load import BATCH, Connection, Load, batch, request

MEGABYTE = 1 << 20
ALL = "all of them in turn"
ANSWERS = {
    "malformed JSON": 400,
    "NaN in a batch": 400,
    "100,000 levels of nesting": 400,
    "10 MB": 413,
    "a gzip bomb": 413,
    "a forged key": 401,
    "100 refused events": 422,
}
KINDS = (ALL, *ANSWERS)


def requests(key: str) -> Mapping[str, bytes]:
    """Return a whole request of each kind."""
    good = batch(100, 0)
    return {
        "malformed JSON": request(key, BATCH, good[:-40]),
        "NaN in a batch": request(key, BATCH, b'"quantity":NaN'.join(good.rsplit(b'"quantity":1', 1))),
        "100,000 levels of nesting": request(key, BATCH, b"[" * 100_000 + b"]" * 100_000),
        "10 MB": request(key, BATCH, b"[" + b" " * 10 * MEGABYTE + b"]"),
        "a gzip bomb": request(key, BATCH, gzip.compress(bytes(100 * MEGABYTE)), "content-encoding: gzip"),
        "a forged key": request(f"{key[:-4]}AAAA", BATCH, good),
        "100 refused events": request(key, BATCH, good.replace(b'"quantity":1', b'"quantity":-1')),
    }


class BadLoad(Load):
    """Sends what must be refused, and counts the answers."""

    def __init__(self, kind: str, key: str, seconds: float) -> None:
        made = requests(key)
        self._turns = cycle(made.values() if kind == ALL else [made[kind]])
        super().__init__(seconds, connections=1)

    def next_request(self) -> bytes:
        return next(self._turns)


async def run(kind: str, key: str, seconds: float, port: int) -> dict[int, int]:
    load = BadLoad(kind, key, seconds)
    await asyncio.get_running_loop().create_connection(lambda: Connection(load), "127.0.0.1", port)
    await asyncio.wait_for(load.done.wait(), seconds + 60)
    return load.statuses


if __name__ == "__main__":
    kind, key, seconds, port = sys.argv[1:]
    print(json.dumps(uvloop.run(run(kind, key, float(seconds), int(port)))))
