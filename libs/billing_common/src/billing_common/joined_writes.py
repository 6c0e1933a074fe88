"""What is written to a connection in one turn of the event loop leaves together: one system call for an answer, not one for each part."""

import asyncio
from typing import Any

HELD_MAX_BYTES = 64 << 10  # of a long answer; beyond, how much waits in memory is the transport's to say


class JoinedWrites(asyncio.Transport):
    """Stands before the transport of a connection, for uvicorn.

    uvicorn writes an answer's head and its body apart, and uvloop sends each at once: of a short answer that is most of the work,
    and the client is woken up twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport, self._loop = transport, loop
        self._held: list[bytes | bytearray | memoryview] = []
        self._held_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > HELD_MAX_BYTES:
            self._send()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def _send(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if held and not self._transport.is_closing():  # else the client has gone meanwhile
            self._transport.write(b"".join(held))
