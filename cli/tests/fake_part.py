"""Stands in for a service or sandbox in tests of the stack: the doors, a clock, and what Stripe's webhook endpoint call needs."""

import json
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

NAME = sys.argv[1]
OFFSET = [0.0]


def setting(name: str, otherwise: str = "") -> str:
    return os.environ.get(f"{NAME.upper()}_{name}", otherwise)


LETTER = {"id": "0-1", "topic": "account.registered", "key": "acc-1", "error": "ValueError", "message": "no JSON", "requeued": False}


def catalogue_answer(path: str, document: dict) -> dict:
    """Return what checkout answers, as far as the command looks at it."""
    steps = [f"stripe: create product {product['id']}" for product in document["products"]]
    plan = {"plan": "0123456789abcdef", "steps": steps, "unchanged": 3, "products": [], "subscribers": {}, "current_version": None}
    if path.endswith("/plan"):
        return plan | {"changes": True}
    return plan | {"version": 1, "new_version": "plan=0123456789abcdef" in path, "done": steps, "remaining": []}


class Doors(BaseHTTPRequestHandler):
    def answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def do_GET(self) -> None:
        now = datetime.now(UTC) + timedelta(seconds=OFFSET[0])
        if self.path == "/health/ready":
            self.answer({"ready": True, "reasons": []})
        elif self.path.endswith("/clock"):
            self.answer({"offset_seconds": OFFSET[0], "now": now.isoformat()})
        elif self.path.endswith("/status"):
            status = {"service": NAME, "settled": True, "activity": 1, "next_due": None, "waiting_for": [], "now": now.isoformat()}
            self.answer(status)
        elif self.path == "/dead-letters/0-1":
            self.answer(LETTER | {"headers": {}, "value": "{"})
        elif self.path.startswith("/dead-letters"):
            self.answer({"dead_letters": [LETTER] if NAME == "checkout" else []})
        elif self.path.startswith("/environment"):
            self.answer({name: value for name, value in os.environ.items() if name.startswith(NAME.upper())})
        elif self.path.startswith("/v1/webhook_endpoints"):
            self.answer({"object": "list", "data": [], "has_more": False, "url": "/v1/webhook_endpoints"})
        else:
            self.answer({"detail": "no such door"}, 404)

    def do_PUT(self) -> None:
        OFFSET[0] = json.loads(self.body())["offset_seconds"]
        self.answer({"offset_seconds": OFFSET[0]})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/dead-letters/0-1/requeue":
            self.answer({"requeued": "0-1", "topic": LETTER["topic"]})
            return
        if self.path.startswith("/v1/catalogue"):
            self.answer(catalogue_answer(self.path, json.loads(json.loads(body)["text"])))
            return
        self.answer({"id": "we_1", "object": "webhook_endpoint", "secret": "whsec_made_by_the_fake"})

    def log_message(self, *_: object) -> None:
        pass


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if ca := setting("DATA_DIR"):
    Path(ca, "ca.pem").write_text("a certificate")
print(f"{NAME} serves", flush=True)
for name in ("HTTP_PORT", "PORTAL_PORT", "GATEWAY_PORT", "ARM_PORT", "INTERNAL_PORT"):
    if port := setting(name):
        Thread(target=ThreadingHTTPServer(("127.0.0.1", int(port)), Doors).serve_forever).start()
