"""Heads of requests at a door of a service, over real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from billing_common.header_limit import HEAD_MAX_BYTES
from billing_common.joined_writes import JoinedWrites
from billing_common.process import door_config

CHUNK = b"x" * (1 << 18)
START = b"POST / HTTP/1.1\r\nhost: x\r\n"


async def count_body(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with how many bytes the body had."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(size)))]})
    await send({"type": "http.response.body", "body": str(size).encode()})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = uvicorn.Server(door_config(count_body, port=0))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(60):
        while not server.started:
            await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def answer_to(port: int, *parts: bytes) -> bytes:
    """Return the first line of what a connection answers, or nothing where it is closed without a word."""
    async with connected(port) as (reader, writer), asyncio.timeout(60):
        with suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        with suppress(ConnectionError):
            return (await reader.read(4096)).partition(b"\r\n")[0]
    return b""


TOO_LARGE: dict[str, list[bytes]] = {
    "one long header": [START + b"a: ", *[CHUNK] * 20],
    "one long header that ends": [START + b"a: " + b"x" * (HEAD_MAX_BYTES + 1) + b"\r\n\r\n"],
    "many headers": [START + b"".join(b"a%d: b\r\n" % n for n in range(4000)) + b"\r\n"],
    "many headers without an end": [START, *[b"a: b\r\n" * 40_000] * 20],
    "a long name": [START, *[CHUNK] * 20],
    "a long URL": [b"GET /", *[CHUNK] * 20],
}


@pytest.mark.parametrize("name", TOO_LARGE)
async def test_a_head_that_is_too_large_is_answered_with_431(port: int, name: str) -> None:
    assert await answer_to(port, *TOO_LARGE[name]) == b"HTTP/1.1 431 Request Header Fields Too Large"


async def test_the_answer_says_what_to_do_and_the_connection_ends(port: int) -> None:
    async with connected(port) as (reader, writer), asyncio.timeout(60):
        writer.write(TOO_LARGE["many headers"][0])
        answer = await reader.read()
    assert b"connection: close" in answer
    assert answer.endswith(b"send fewer or shorter headers")


async def test_what_follows_a_body_is_limited_too(port: int) -> None:
    body = START + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    assert await answer_to(port, body, *[b"a: b\r\n" * 40_000] * 20) == b""
    assert await answer_to(port, body + b"a: ", *[CHUNK] * 20) == b""
    assert await answer_to(port, body + b"a: b\r\n\r\n") == b"HTTP/1.1 200 OK"


async def test_heads_below_the_limit_pass_one_after_the_other_and_garbage_stays_400(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for _ in range(3):  # on one connection
            answer = await client.post("/", content=b"x" * 1000, headers={"a": "x" * 60_000})
            assert (answer.status_code, answer.text) == (200, "1000")
    assert await answer_to(port, b"what is this\r\n\r\n") == b"HTTP/1.1 400 Bad Request"


async def test_a_large_body_passes(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        answer = await client.post("/", content=b"x" * 10_000_000)
    assert answer.text == "10000000"
    in_parts = START + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n"
    assert await answer_to(port, in_parts) == b"HTTP/1.1 200 OK"


async def test_an_endless_header_does_not_stop_the_others(port: int) -> None:
    async def offend() -> None:
        await answer_to(port, START + b"a: ", *[CHUNK] * 80)

    offences = [asyncio.create_task(offend()) for _ in range(5)]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        await client.get("/")
        started = time.monotonic()
        for _ in range(10):
            await client.get("/")
    assert time.monotonic() - started < 10  # without the limit: as long as the headers go on
    await asyncio.gather(*offences)


async def test_head_and_body_of_an_answer_are_sent_with_one_call(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    class Watched(JoinedWrites):
        def _send(self) -> None:
            sent.append(b"".join(self._held))
            super()._send()

    monkeypatch.setattr("billing_common.header_limit.JoinedWrites", Watched)
    assert await answer_to(port, START + b"content-length: 3\r\n\r\nabc") == b"HTTP/1.1 200 OK"
    assert (sent[0][:8], sent[0][-5:]) == (b"HTTP/1.1", b"\r\n\r\n3")
