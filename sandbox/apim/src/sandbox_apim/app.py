"""Builds the sandbox and runs its three listeners in one process; the only file that opens databases, sockets and clients."""

import asyncio
import contextlib
import json
import logging
import secrets
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import httpx
import uvicorn
from starlette.types import ASGIApp

from billing_common.clock import BusinessClock
from sandbox_apim.arm.http import ManagementApi
from sandbox_apim.arm.kinds import Service
from sandbox_apim.certificates import Certificate, ensure_certificate
from sandbox_apim.directory import Directory
from sandbox_apim.doors import Doors, Faults
from sandbox_apim.gateway import Gateway
from sandbox_apim.journal import Journal, KafkaPump
from sandbox_apim.limits import Limits
from sandbox_apim.portal import build_portal
from sandbox_apim.reports import Reports
from sandbox_apim.seed import seed
from sandbox_apim.settings import Settings
from sandbox_apim.store import Store, open_database

log = logging.getLogger(__name__)
DRAIN_SECONDS = 5
CLOCK_PAUSE_SECONDS = 0.05


class QuietServer(uvicorn.Server):
    """A server that leaves signals to the process: three of them share one."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Sandbox:
    """The whole of it. `start` returns when all three listeners answer."""

    def __init__(self, settings: Settings, clock: BusinessClock) -> None:
        self.settings = settings
        self.clock = clock
        self._sockets = [_bind(settings.http_host, port) for port in (settings.arm_port, settings.portal_port, settings.gateway_port)]
        self.arm_port, self.portal_port, self.gateway_port = (each.getsockname()[1] for each in self._sockets)
        self.database = open_database(settings.data_dir / "apim.sqlite3")
        self.store = Store(self.database)
        seed(self.store, clock, str(settings.sample_api))
        self.limits = Limits(self.database)
        self.reports = Reports(self.database)
        self.directory = Directory(self.store)
        self.journal = Journal(
            self.database,
            self.limits,
            rows_max=settings.call_log_rows_max,
            outbox_max=settings.outbox_rows_max,
            to_kafka=bool(settings.kafka_bootstrap_servers),
        )
        self.pump = KafkaPump(self.journal, settings.kafka_bootstrap_servers)
        self.faults = Faults()
        self._backend: httpx.AsyncClient | None = None
        self.certificate = self._certificate()
        self._servers: list[QuietServer] = []
        self._tasks: list[asyncio.Task[None]] = []

    # --- addresses ---

    @property
    def portal_url(self) -> str:
        given = self.settings.portal_public_url
        return str(given).rstrip("/") if given else f"http://{_shown(self.settings.http_host)}:{self.portal_port}"

    @property
    def gateway_url(self) -> str:
        given = self.settings.gateway_public_url
        return str(given).rstrip("/") if given else f"http://{_shown(self.settings.http_host)}:{self.gateway_port}"

    @property
    def management_url(self) -> str:
        return f"https://{_shown(self.settings.http_host)}:{self.arm_port}"

    # --- what the doors ask ---

    def waiting_for(self) -> list[str]:
        waiting = []
        if self.gateway.in_flight:
            waiting.append(f"{self.gateway.in_flight} calls in the gateway")
        if self.journal.waiting:
            waiting.append(f"{self.journal.waiting} log lines that Kafka has not acknowledged")
        return waiting

    def activity(self) -> int:
        return self.journal.recorded + self.store.version

    def not_ready(self) -> list[str]:
        if self.settings.kafka_bootstrap_servers and not (self.pump.alive and self.pump.connected):
            return ["Kafka does not answer; calls are kept until it does"]
        return []

    def log_lines_waiting(self) -> int:
        return self.journal.waiting

    # --- life ---

    async def start(self) -> None:
        doors = Doors(self.clock, self, self.reports, self.faults, self.store)
        self.gateway = Gateway(
            store=self.store,
            directory=self.directory,
            limits=self.limits,
            journal=self.journal,
            clock=self.clock,
            backend=self._backend_client,
            public_url=lambda: self.gateway_url,
            doors=doors.app(),
        )
        service = self._service()
        portal = build_portal(service, self.database, doors.routes())
        if self.settings.kafka_bootstrap_servers:
            self.pump.start()
        self._serve(ManagementApi(service, self.settings, self.faults), self._sockets[0], self.certificate)
        self._serve(portal, self._sockets[1], None)
        self._serve(self.gateway, self._sockets[2], None)
        while not all(server.started for server in self._servers):
            if failed := next((task for task in self._tasks if task.done()), None):
                failed.result()
                raise RuntimeError("a listener ended while starting")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Answer what is under way, give Kafka what waits, and close."""
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pump.stop(DRAIN_SECONDS)
        if self._backend is not None:
            await self._backend.aclose()
        self.database.close()

    def _backend_client(self) -> httpx.AsyncClient:
        """Make the client at the first call that leaves the process: the sample API needs none."""
        if self._backend is None:
            self._backend = httpx.AsyncClient(timeout=self.settings.backend_timeout_seconds, follow_redirects=False)
        return self._backend

    def _service(self) -> Service:
        keys = {name: self.store.fact(f"sign-in key, {name}", lambda: secrets.token_bytes(64)) for name in ("primary", "secondary")}
        return Service(
            store=self.store,
            directory=self.directory,
            clock=self.clock,
            limits=self.limits,
            reports=self.reports,
            sign_in_keys=keys,
            report_lag_seconds=self.settings.report_lag_seconds,
            portal_url=lambda: self.portal_url,
            gateway_url=lambda: self.gateway_url,
            management_url=lambda: self.management_url,
        )

    def _certificate(self) -> Certificate:
        names = [self.settings.http_host, *(name.strip() for name in self.settings.arm_host_names.split(","))]
        return ensure_certificate(self.settings.data_dir, names)

    def _serve(self, app: ASGIApp, listener: socket.socket, certificate: Certificate | None) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_keep_alive=30,
            ssl_certfile=certificate.chain_file if certificate else None,
            ssl_keyfile=certificate.key_file if certificate else None,
        )
        server = QuietServer(config)
        self._servers.append(server)
        self._tasks.append(asyncio.create_task(server.serve(sockets=[listener])))


@contextlib.asynccontextmanager
async def running(settings: Settings, clock: BusinessClock) -> AsyncIterator[Sandbox]:
    """Run a sandbox for the length of a block."""
    sandbox = Sandbox(settings, clock)
    await sandbox.start()
    try:
        yield sandbox
    finally:
        await sandbox.stop()


def business_clock(settings: Settings) -> BusinessClock:
    """Build the clock with the offset that the master copy has now; wait for its process, which may start at the same time."""
    if settings.clock_url is None:
        return BusinessClock(timedelta(0), offset_allowed=True)
    end = time.monotonic() + settings.clock_wait_seconds
    while True:
        try:
            return BusinessClock(_ask_offset(str(settings.clock_url)), offset_allowed=True)
        except urllib.error.URLError as error:
            if time.monotonic() > end or not isinstance(error.reason, ConnectionError):
                raise
        time.sleep(CLOCK_PAUSE_SECONDS)


def _ask_offset(address: str) -> timedelta:
    with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 - the setting admits http and https only
        try:
            return timedelta(seconds=float(json.load(answer)["offset_seconds"]))
        except (KeyError, TypeError, ValueError):
            raise urllib.error.URLError("its answer holds no offset_seconds") from None


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle off: else an answer in two writes waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _shown(host: str) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - a comparison, nothing is bound here
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
