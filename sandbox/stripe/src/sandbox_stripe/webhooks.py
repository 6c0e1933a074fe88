"""Sends events to webhook endpoints: signed, at least once, in no promised order, with retries by wall time."""

import asyncio
import hashlib
import hmac
import random
from dataclasses import dataclass, field

import httpx
import orjson
import structlog

from sandbox_stripe.errors import Json
from sandbox_stripe.events import signing_secrets
from sandbox_stripe.metrics import DELIVERIES
from sandbox_stripe.world import World

log = structlog.get_logger()
BATCH = 200
REVERSE_WAIT_SECONDS = 0.3
DOWN_AFTER_ATTEMPTS = 6  # from here on an endpoint counts as down, and nobody waits for it any more


@dataclass
class Mode:
    """Misbehaviour on demand; all of it is allowed by Stripe's promises."""

    duplicate: bool = False
    reverse: bool = False
    hold: bool = False
    drop: int = 0


def sign(secrets: list[str], body: bytes, moment: int) -> str:
    """Return the Stripe-Signature header: one v1 for each valid secret."""
    payload = b"%d." % moment + body
    marks = [f"v1={hmac.new(secret.encode(), payload, hashlib.sha256).hexdigest()}" for secret in secrets]
    return ",".join([f"t={moment}", *marks])


@dataclass
class Sender:
    """One task that starts deliveries as soon as a transaction has queued them."""

    world: World
    client: httpx.AsyncClient
    mode: Mode = field(default_factory=Mode)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: set[int] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def notify(self) -> None:
        self.wake.set()

    async def run(self) -> None:
        while True:
            self.wake.clear()
            if self.mode.reverse:
                await asyncio.sleep(REVERSE_WAIT_SECONDS)  # let a few gather, so that there is an order to turn round
            wait = self._start_due()
            try:
                await asyncio.wait_for(self.wake.wait(), wait)
            except TimeoutError:
                continue

    def _start_due(self) -> float:
        """Start what is due and return how long nothing more will be."""
        wall = self.world.wall()
        order = "DESC" if self.mode.reverse else "ASC"
        columns = "id, event, endpoint, attempts, next_wall"
        sql = f"SELECT {columns} FROM deliveries WHERE state = 'pending' ORDER BY next_wall {order}, id {order} LIMIT {BATCH}"  # noqa: S608
        wait = 60.0
        for id_, event, endpoint, attempts, next_wall in self.world.store.execute(sql).fetchall():
            if id_ in self.in_flight:
                continue
            if next_wall > wall:
                wait = min(wait, next_wall - wall)
            elif len(self.in_flight) < self.world.settings.webhook_concurrency:
                self.in_flight.add(id_)
                task = asyncio.create_task(self._deliver(id_, event, endpoint, attempts))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
        return wait

    async def _deliver(self, id_: int, event_id: str, endpoint_id: str, attempts: int) -> None:
        try:
            store = self.world.store
            event, endpoint = store.find(event_id, "event"), store.find(endpoint_id, "webhook_endpoint")
            if event is None or endpoint is None or endpoint["status"] != "enabled":
                self._record(id_, "failed", attempts, None, "endpoint disabled or deleted")
                return
            if self.mode.drop > 0:
                self.mode.drop -= 1
                self._record(id_, "dropped", attempts, None, "dropped on demand")
                return
            body = orjson.dumps({key: value for key, value in event.items() if key[0] != "_"}, option=orjson.OPT_INDENT_2)
            status, error = await self._post(endpoint, body)
            if self.mode.duplicate:
                await self._post(endpoint, body)
            self._finish(id_, attempts + 1, status, error)
        finally:
            self.in_flight.discard(id_)
            self.notify()

    async def _post(self, endpoint: Json, body: bytes) -> tuple[int | None, str | None]:
        wall = self.world.wall()
        headers = {
            "Content-Type": "application/json; charset=utf-8", "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            "Stripe-Signature": sign(signing_secrets(endpoint, wall), body, int(wall)),
        }  # fmt: skip
        try:
            answer = await self.client.post(endpoint["url"], content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:  # RuntimeError: the client was closed by a stop
            return None, type(error).__name__
        return answer.status_code, None

    def _finish(self, id_: int, attempts: int, status: int | None, error: str | None) -> None:
        settings = self.world.settings
        if status is not None and 200 <= status < 300:
            self._record(id_, "delivered", attempts, status, None)
        elif attempts >= settings.webhook_attempts_max:
            self._record(id_, "failed", attempts, status, error)
        else:
            pause = min(settings.webhook_first_retry_seconds * 2 ** min(attempts - 1, 16), settings.webhook_retry_max_seconds)
            jitter = random.uniform(0.9, 1.1)  # noqa: S311 - not a secret
            self._record(id_, "pending", attempts, status, error, pause=pause * jitter)

    def _record(self, id_: int, state: str, attempts: int, status: int | None, error: str | None, *, pause: float = 0.0) -> None:
        wall = self.world.wall()
        DELIVERIES.labels(state if state != "pending" else "retry").inc()
        with self.world.store.transaction():
            self.world.store.execute(
                "UPDATE deliveries SET state = ?, attempts = ?, last_status = ?, last_error = ?, next_wall = ?, delivered_wall = ? "
                "WHERE id = ?",
                state, attempts, status, error, wall + pause, wall if state == "delivered" else None, id_,
            )  # fmt: skip
            if state == "delivered":
                self._note_invoice(id_)

    def _note_invoice(self, id_: int) -> None:
        """Write down when a new invoice's webhooks have all been answered: its hour as a draft is Stripe's to wait."""
        store = self.world.store
        object_, type_ = store.execute("SELECT object, event_type FROM deliveries WHERE id = ?", id_).fetchone()
        if type_ != "invoice.created":
            return
        waiting = "SELECT 1 FROM deliveries WHERE object = ? AND event_type = ? AND state IN ('pending', 'held')"
        invoice = store.find(object_, "invoice")
        if invoice and invoice["webhooks_delivered_at"] is None and not store.execute(waiting, object_, type_).fetchone():
            invoice["webhooks_delivered_at"] = self.world.now(invoice)
            store.save(invoice)

    def set_mode(self, mode: Mode) -> None:
        self.mode = mode
        self.world.hold_webhooks = mode.hold
        if not mode.hold:
            self.release()
        self.notify()

    def release(self) -> int:
        """Send what was held back."""
        with self.world.store.transaction():
            done = self.world.store.execute(
                "UPDATE deliveries SET state = 'pending', next_wall = ? WHERE state = 'held'", self.world.wall()
            )
        self.notify()
        return done.rowcount

    def waiting(self) -> int:
        """Count the deliveries that somebody should wait for."""
        sql = "SELECT count(*) FROM deliveries WHERE state = 'pending' AND attempts < ?"
        return int(self.world.store.execute(sql, DOWN_AFTER_ATTEMPTS).fetchone()[0])

    async def stop(self, grace_seconds: float = 2.0) -> None:
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=grace_seconds)
