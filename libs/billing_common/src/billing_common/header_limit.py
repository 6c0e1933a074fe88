"""What the head of an HTTP request may take: uvicorn with httptools keeps all of it, and a long line costs its length squared."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from billing_common.joined_writes import JoinedWrites

HEAD_MAX_BYTES = 64 << 10  # request line and headers, and again what follows a body in parts
FIELD_BYTES = 32  # what a header takes beside its name and value; HTTP/2 counts the same
LINGER_SECONDS = 1.0  # a connection that is closed with unread bytes is reset, and the answer with it
MESSAGE = f"the request line and the headers may have {HEAD_MAX_BYTES} bytes together: send fewer or shorter headers"


class HeadTooLargeError(Exception):
    """Ends the parsing of a head."""


class LimitedHeads(HttpToolsProtocol):
    """Answers 431 and closes as soon as a head is too large; bodies are not counted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0  # of this request: what was parsed
        self._silent_bytes = 0  # what came since the parser last left a head or found a part of a body: a line without its end
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(JoinedWrites(transport, self.loop))

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._silent_bytes += len(data)
        super().data_received(data)
        if self._silent_bytes > HEAD_MAX_BYTES and not self._refused:
            self._refuse()

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + FIELD_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._silent_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer where the parser stopped, be it because of `_count`."""
        if self._head_bytes > HEAD_MAX_BYTES:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_MAX_BYTES:
            raise HeadTooLargeError

    def _refuse(self) -> None:
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # another answer is on its way
            return
        head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(MESSAGE)
        self.transport.write(STATUS_LINE[431] + head + MESSAGE.encode())
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
