"""What the process of a service is to its operating system: sockets, signals, an event loop, memory."""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, NamedTuple

import structlog
import uvicorn

from billing_common.header_limit import LimitedHeads

log = structlog.get_logger(__name__)
GARBAGE = (50_000, 20, 50)  # objects until the youngest are looked through for cycles, and how often the older ones are


class Door(NamedTuple):
    """An application, where it listens, and the setting that names its port."""

    app: Any  # ASGI
    host: str
    port: int
    setting: str


async def serve(service: str, doors: Sequence[Door], running: AbstractAsyncContextManager[Any]) -> None:
    """Serve all doors while `running` is entered, until SIGTERM or SIGINT; then stop in order."""
    sockets = [_bind(service, door) for door in doors]
    servers = [_Server(door_config(door.app)) for door in doors]
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    serving = asyncio.create_task(_serve(servers, sockets, running))
    stopping = asyncio.create_task(asked.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if any(server.started for server in servers):
        for server in servers:
            server.should_exit = True
    else:
        serving.cancel()  # it still waits for its database or for the clock
    with suppress(asyncio.CancelledError):
        await serving


async def _serve(servers: "list[_Server]", sockets: list[socket.socket], running: AbstractAsyncContextManager[Any]) -> None:
    async with running:
        log.info("serving", ports=[bound.getsockname()[1] for bound in sockets])
        await asyncio.gather(*(server.serve(sockets=[bound]) for server, bound in zip(servers, sockets, strict=True)))


def door_config(app: Any, **more: Any) -> uvicorn.Config:
    """Return how an application is served."""
    return uvicorn.Config(app, http=LimitedHeads, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=10, **more)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: two servers share this process."""

    @contextmanager
    def capture_signals(self) -> Any:
        yield


def _bind(service: str, door: Door) -> socket.socket:
    # The protocol is named so that asyncio turns Nagle off: an answer would wait 40 ms for its acknowledgement.
    bound = socket.socket(socket.AF_INET6 if ":" in door.host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((door.host, door.port))
    except OSError as error:
        where, remedy = f"{door.host}:{door.port} ({error.strerror})", f"set {service.upper()}_{door.setting} to a free port"
        sys.stderr.write(f"{service} cannot listen on {where}: {remedy}\n")
        raise SystemExit(1) from None
    return bound


def collect_garbage_rarely() -> None:
    """Look for cycles of dead objects seldom, and never among those that live from the start.

    Handlers make many objects that die without a cycle: by default all that a batch holds is looked through again and again.
    """
    gc.freeze()
    gc.set_threshold(*GARBAGE)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return how uvloop makes a loop; None on platforms without it."""
    try:
        import uvloop  # not on every platform
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
