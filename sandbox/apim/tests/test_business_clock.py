"""Where the business clock's offset comes from at the start, and what happens when its master is not there yet."""

import threading
import urllib.error
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sandbox_apim.app import business_clock
from sandbox_apim.settings import Settings

AHEAD = timedelta(days=3)


class Master(BaseHTTPRequestHandler):
    body = b'{"offset_seconds": 259200}'

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass


class Confused(Master):
    body = b'{"time": "noon"}'


def served(handler: type[Master]) -> HTTPServer:
    return HTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)


def asking(server: HTTPServer, wait: float) -> Settings:
    return Settings.model_validate({"clock_url": f"http://127.0.0.1:{server.server_address[1]}/clock", "clock_wait_seconds": wait})


def test_a_master_that_starts_at_the_same_time_is_waited_for() -> None:
    server = served(Master)
    server.server_bind()  # the port is ours, but nobody listens yet
    opening = threading.Timer(0.3, server.server_activate)
    answering = threading.Thread(target=lambda: (opening.join(), server.handle_request()))
    opening.start()
    answering.start()
    try:
        clock = business_clock(asking(server, wait=20))
    finally:
        answering.join()
        server.server_close()
    assert abs(clock.now() - datetime.now(UTC) - AHEAD) < timedelta(seconds=5)


def test_a_master_that_never_comes_ends_the_start() -> None:
    server = served(Master)
    server.server_bind()
    try:
        with pytest.raises(urllib.error.URLError):
            business_clock(asking(server, wait=0.1))
    finally:
        server.server_close()


def test_a_master_that_answers_something_else_is_not_waited_for() -> None:
    server = served(Confused)
    server.server_bind()
    server.server_activate()
    answering = threading.Thread(target=server.handle_request)
    answering.start()
    try:
        with pytest.raises(urllib.error.URLError, match="offset_seconds"):
            business_clock(asking(server, wait=20))
    finally:
        answering.join()
        server.server_close()
