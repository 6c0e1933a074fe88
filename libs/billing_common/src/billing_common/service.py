"""What every service process is: two HTTP doors, a broker, an outbox relay, background tasks, a status, a graceful stop."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx
import stamina
import structlog
from aiokafka import AIOKafkaProducer
from fast_depends.pydantic import PydanticSerializer
from fastapi import FastAPI
from faststream.kafka import KafkaBroker, KafkaRouter

from billing_common import kafka as kafka_settings
from billing_common import process
from billing_common.clock import BusinessClock
from billing_common.connections import Connections
from billing_common.db import create_pool, migrate
from billing_common.dead_letters import DeadLetters
from billing_common.doors import install_doors
from billing_common.inbox import forget_old_claims
from billing_common.joining import OWN_BROKER, refusal
from billing_common.messaging import PauseOrPark, check_context, held_events
from billing_common.outbox import Relay
from billing_common.refusals import BODY_BYTES_MAX, install_refusals
from billing_common.settings import ServiceSettings
from billing_common.telemetry import LOOP_FAILURES, READY, configure_logging, describe

log = structlog.get_logger(__name__)
T = TypeVar("T")
SettledCheck = Callable[[], Awaitable[str | None]]
NextDue = Callable[[], Awaitable[datetime | None]]
STOP_SECONDS = 20


class Service:
    """One service process. `app.py` makes it, adds routes and tasks, and runs it.

    Handlers get `pool`, `clock` and whatever is put into `context` by name (`Annotated[T, Context("name")]`); routes find the
    same things in `request.app.state`. Anything built on the event loop is made by an `on_start` hook.
    """

    def __init__(
        self, name: str, settings: ServiceSettings, *, migrations: Path, routers: Sequence[KafkaRouter] = (), public: bool = True
    ) -> None:
        self.name = name
        self.settings = settings
        self.migrations = migrations
        self.public = FastAPI(title=name, openapi_url=None, docs_url=None, redoc_url=None) if public else None
        self.front: Any = self.public  # what the public port serves: the app, or what stands in front of it
        self.internal = FastAPI(title=f"{name} (internal)", docs_url=None, redoc_url=None, max_body_size=BODY_BYTES_MAX)
        self.broker = KafkaBroker(
            **kafka_settings.faststream_arguments(settings),
            middlewares=[PauseOrPark],
            logger=None,
            allow_auto_create_topics=False,
            serializer=PydanticSerializer(use_fastdepends_errors=True),  # tells a bad event from an error inside a handler
        )
        for router in routers:
            self.broker.include_router(router)
        self.clock = BusinessClock(offset_allowed=settings.clock_offset_allowed)
        self.context: dict[str, Any] = {}
        self.activity = 0
        self.pool: asyncpg.Pool
        self.connections: Connections
        self.producer: AIOKafkaProducer
        self.relay: Relay
        self.dead_letters: DeadLetters
        self._loops: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._starts: list[Callable[[], Awaitable[None]]] = []
        self._stops: list[Callable[[], Awaitable[None]]] = []
        self._settled: list[SettledCheck] = []
        self._next_due: list[NextDue] = []
        self._notes: list[SettledCheck] = []
        self._refused: dict[str, str] = {}  # by loop: why a broker will never let it join
        for app in self.apps:
            install_refusals(app)
        install_doors(self)

    # --- what app.py calls -----------------------------------------------------------------------------------------------

    def loop(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        """Run `task` for as long as the service lives; after an error again, with a growing pause."""
        self._loops.append((name, task))

    def put_in_front(self, wrap: Callable[[Any], Any]) -> None:
        """Have an ASGI application of one's own take public requests first: it gets the one that is there to hand on to."""
        self.front = wrap(self.front)

    def on_start(self, hook: Callable[[], Awaitable[None]]) -> None:
        """Run `hook` once the pool is there and before events and requests are served."""
        self._starts.append(hook)

    def on_stop(self, hook: Callable[[], Awaitable[None]]) -> None:
        self._stops.append(hook)

    def settled_when(self, check: SettledCheck) -> None:
        """Add a check for /status: None when nothing is left to do now, else what is waited for."""
        self._settled.append(check)

    def note(self, source: SettledCheck) -> None:
        """Add something people should see in /status that nothing waits for; None when there is nothing to say."""
        self._notes.append(source)

    def next_due(self, source: NextDue) -> None:
        """Add a source of the next instant (business time) at which this service will act by itself."""
        self._next_due.append(source)

    def share(self, name: str, value: T) -> T:
        """Make `value` known to handlers (Context) and routes (app.state) under `name`."""
        self.context[name] = value
        self.broker.context.set_global(name, value)
        for app in self.apps:
            setattr(app.state, name, value)
        return value

    @property
    def apps(self) -> list[FastAPI]:
        return [app for app in (self.public, self.internal) if app is not None]

    # --- status ------------------------------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Say whether anything is left to do at this business time, and when the next thing is due by itself."""
        waiting = [reason for check in self._settled if (reason := await check())]
        if (rows := await self.pool.fetchval("select count(*) from outbox")) > 0:
            waiting.append(f"{rows} events in the outbox")
        waiting += await self.connections.unread()
        dues = [due for source in self._next_due if (due := await source()) is not None]
        return {
            "service": self.name,
            "settled": not waiting,
            "activity": self.activity + PauseOrPark.handled + self.relay.moved,
            "next_due": min(dues).isoformat() if dues else None,
            "waiting_for": waiting,
            "held": held_events(datetime.now(UTC)),
            "notes": [text for note in self._notes if (text := await note())],
            "now": self.clock.now().isoformat(),
        }

    async def readiness(self) -> list[str]:
        """Return what keeps the service from being ready; empty when it is."""
        reasons = []
        try:
            await self.pool.fetchval("select 1", timeout=2)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, AttributeError):
            reasons.append("Postgres does not answer")
        if self.broker.subscribers and not self.connections.joined:
            reasons.append(self._refused.get(OWN_BROKER) or "Kafka: not subscribed yet")
        elif not await self.broker.ping(2):
            reasons.append("Kafka does not answer")
        reasons += [text for loop, text in self._refused.items() if loop != OWN_BROKER]
        READY.set(0 if reasons else 1)
        return reasons

    # --- life ------------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything but the HTTP servers: pool, migrations, clock, producer, broker, loops. Tests use it directly."""
        await self._open_database()
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._prepare()
            tasks += [
                asyncio.create_task(self._run_loop(name, task), name=name)
                for name, task in [
                    (OWN_BROKER, self._run_kafka),
                    ("claims", self._forget_claims),
                    ("lag", self.connections.watch_lag),
                    ("standstill", self.connections.watch_standstill),
                    *self._loops,
                ]
            ]
            yield
        finally:
            await self._stop(tasks)

    async def _prepare(self) -> None:
        """Make all that is shared, not connected yet, and run the start hooks."""
        settings = self.settings
        self.connections = Connections(self.broker, settings)
        self.producer = self.connections.producer
        await self._read_clock()
        self.share("producer", self.producer)
        self.share("service_name", self.name)
        self.share("clock", self.clock)
        self.share("token_keys", settings.token_keys)
        self.relay = Relay(self.pool, self.producer, schema=self.name)
        self.dead_letters = self.share("dead_letters", DeadLetters(self.name, kafka_settings.arguments(settings), self.pool, self.producer))
        for hook in self._starts:
            await hook()
        check_context(self.broker)

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        with suppress(Exception):
            async with asyncio.timeout(STOP_SECONDS):
                await self.connections.stop_consuming(lambda: _cancel(tasks))
        await _cancel(tasks)
        for hook in reversed(self._stops):
            with suppress(Exception):
                await hook()
        await self.connections.close()
        with suppress(Exception):
            await asyncio.wait_for(self.pool.close(), 5)
        log.info("stopped")

    async def _open_database(self) -> None:
        """Wait for Postgres, and say which setting to look at while it does not let us in."""
        dsn = self.settings.database_url.get_secret_value()
        async for attempt in _until_it_works():
            with attempt:
                try:
                    if self.settings.migrate_on_start:
                        await migrate(dsn, self.name, self.migrations)
                    self.pool = self.share("pool", await create_pool(dsn, schema=self.name, size=self.settings.database_pool_size))
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    log.warning(
                        "waiting for Postgres",
                        setting=f"{self.name.upper()}_DATABASE_URL",
                        error=type(error).__name__,
                        detail=describe(error),
                    )
                    raise

    async def _read_clock(self) -> None:
        if self.settings.clock_url is None:
            return
        async with httpx.AsyncClient(timeout=5) as client:
            async for attempt in _until_it_works():
                with attempt:
                    answer = (await client.get(str(self.settings.clock_url))).raise_for_status().json()
        self.clock.set_offset(timedelta(seconds=float(answer["offset_seconds"])))

    async def _run_kafka(self) -> None:
        """Start producer and subscribers, then relay the outbox. An error starts all of it again."""
        await self.connections.open()
        self._refused.pop(OWN_BROKER, None)
        await self.relay.run()

    async def _forget_claims(self) -> None:
        while True:
            async with self.pool.acquire() as connection:
                await forget_old_claims(connection, datetime.now(UTC))
            await asyncio.sleep(3600)

    async def _run_loop(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        async for attempt in _until_it_works():
            with attempt:
                try:
                    await task()
                except Exception as error:
                    LOOP_FAILURES.labels(name).inc()
                    if refused := refusal(error, name, self.settings):
                        self._refused[name] = refused
                    detail = refused or describe(error)
                    log.warning("background task failed and starts again", task=name, error=type(error).__name__, detail=detail)
                    raise
                self._refused.pop(name, None)

    async def serve(self) -> None:
        """Serve both doors until SIGTERM or SIGINT, then stop in order."""
        doors = [process.Door(self.internal, self.settings.internal_host, self.settings.internal_port, "INTERNAL_PORT")]
        if self.public is not None:
            doors.append(process.Door(self.front, self.settings.http_host, self.settings.http_port, "HTTP_PORT"))
        await process.serve(self.name, doors, self.running())


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _until_it_works() -> Any:
    return stamina.retry_context(on=Exception, attempts=None, timeout=None, wait_initial=0.1, wait_max=5.0)


def run(service: Callable[[], Service], *, name: str, level: str) -> None:
    """Configure logs and serve. With `migrate` as the only argument apply the migrations and end instead."""
    configure_logging(name, level)
    built = service()
    if sys.argv[1:] == ["migrate"]:
        applied = asyncio.run(migrate(built.settings.database_url.get_secret_value(), name, built.migrations))
        log.info("migrations applied", names=applied)
        return
    if sys.argv[1:]:
        sys.stderr.write(f"usage: python -m {name} [migrate]\n")
        raise SystemExit(2)
    process.collect_garbage_rarely()
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        runner.run(built.serve())
