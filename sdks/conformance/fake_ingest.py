"""A stand-in for Turnpike's ingest door: same checks, same answers, counts each identity once, and fails on demand."""

import gzip
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ATTRIBUTES = {"specversion", "id", "source", "type", "subject", "time", "data"}
DATA = {"quantity", "meter", "status", "method", "template", "requestBytes", "responseBytes", "durationMs", "tokens"}
BATCH = "application/cloudevents-batch+json"


@dataclass
class Fault:
    """What goes wrong. `store`: the events are counted all the same; `times`: for so many requests, then all is well again."""

    status: int = 0
    code: str = "busy"
    retry_after: str = ""
    seconds: float = 0.0
    store: bool = False
    hang_up: bool = False
    times: int = 1 << 30


@dataclass
class Request:
    """One request as it came: when, how it was answered, how many events it held."""

    at: float
    status: int
    events: int


@dataclass
class Ingest:
    """The door's memory."""

    key: str
    source: str
    fault: Fault | None = None
    poison: set[str] = field(default_factory=set)
    reject: dict[str, str] = field(default_factory=dict)
    identities: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    subjects: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        """Return status, headers and body; None to hang up."""
        with self.lock:
            fault = self._take_fault()
        if fault is not None and fault.seconds:
            time.sleep(fault.seconds)
        with self.lock:
            events = self._events(headers, body)
            answer = self._answer(headers, events, fault)
            self.requests.append(Request(time.monotonic(), answer[0] if answer else 0, len(events)))
        return answer

    def _take_fault(self) -> Fault | None:
        fault = self.fault
        if fault is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.fault = None
        return fault

    def _events(self, headers: dict[str, str], body: bytes) -> list[Any]:
        if headers.get("content-type") != BATCH:
            self.complaints.append(f"content-type {headers.get('content-type')}")
        plain = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        if len(plain) > 1 << 20:
            self.complaints.append("a body above 1 MiB")
        events = json.loads(plain)
        return events if isinstance(events, list) else [events]

    def _answer(self, headers: dict[str, str], events: list[Any], fault: Fault | None) -> tuple[int, dict[str, str], bytes] | None:
        if headers.get("authorization") != f"Bearer {self.key}":
            return _problem(401, "unknown_key")
        if fault is not None:
            if fault.store:
                self._count(events)
            if fault.hang_up:
                return None
            if fault.status:
                return _problem(fault.status, fault.code, fault.retry_after)
        if any(event.get("subject") in self.poison for event in events):
            return _problem(400, "bad_text")
        results = self._count(events)
        accepted = sum(result["status"] == "accepted" for result in results)
        answer = {"accepted": accepted, "rejected": len(results) - accepted, "results": results}
        return (202 if accepted else 422), {}, json.dumps(answer).encode()

    def _count(self, events: list[Any]) -> list[dict[str, Any]]:
        results = []
        for event in events:
            self._check(event)
            if reason := self.reject.get(event["subject"]):
                results.append({"id": event["id"], "status": "rejected", "reason": reason, "message": f"{reason}: as the test wants"})
                continue
            identity = event["source"], event["id"], event["time"][:10]
            if identity in self.identities:
                self.repeats += 1
                if self.identities[identity] != event:
                    self.complaints.append("a repeat that is not the same event")
            else:
                self.identities[identity] = event
                self.subjects[event["subject"]] += 1
            results.append({"id": event["id"], "status": "accepted"})
        return results

    def _check(self, event: dict[str, Any]) -> None:
        """Note everything that an SDK must never send."""
        if set(event) != ATTRIBUTES or event["specversion"] != "1.0" or event["type"] != "turnpike.usage":
            self.complaints.append(f"attributes {sorted(event)}")
        if event["source"] != self.source or not event["time"].endswith("Z"):
            self.complaints.append(f"source {event['source']}, time {event['time']}")
        if abs((datetime.fromisoformat(event["time"]) - datetime.now(UTC)).total_seconds()) > 600:
            self.complaints.append(f"a time far from now: {event['time']}")
        if not set(event["data"]) <= DATA:
            self.complaints.append(f"data {sorted(set(event['data']) - DATA)}")
        for name, value in event["data"].items():
            if not isinstance(value, str) and (type(value) is not int or value < 0):
                self.complaints.append(f"data.{name} is {value!r}")


def _problem(status: int, code: str, retry_after: str = "") -> tuple[int, dict[str, str], bytes]:
    headers = {"retry-after": retry_after} if retry_after else {}
    return status, headers, json.dumps({"error": {"code": code, "message": "as the test wants"}}).encode()


class Server:
    """The door on a port of its own; `stop` and `start` again at the same port are an outage."""

    def __init__(self, ingest: Ingest) -> None:
        self.ingest = ingest
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        ingest = self.ingest

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                found = ingest.answer({name.lower(): value for name, value in self.headers.items()}, body)
                if found is None or self.path != "/v1/events":
                    self.close_connection = True
                    return
                status, headers, answer = found
                self.send_response(status)
                for name, value in {**headers, "content-type": "application/json", "content-length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        Quiet.allow_reuse_address = True
        self._server = Quiet(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Quiet(ThreadingHTTPServer):
    """Clients that are killed are part of the test."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing."""
