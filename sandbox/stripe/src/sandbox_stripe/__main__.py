"""Reads the settings, builds the app, runs it."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Iterator

import structlog
import uvicorn
from pydantic import ValidationError

from sandbox_stripe.app import build
from sandbox_stripe.service import open_sandbox
from sandbox_stripe.settings import Settings

GRACE_SECONDS = 5


class Server(uvicorn.Server):
    """Ends with exit code 0 when asked to stop; uvicorn would raise the signal again at its end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            print(f"sandbox_stripe: SANDBOX_STRIPE_{name}: {problem['msg']}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    level = logging.getLevelNamesMapping().get(settings.log_level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info, structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )  # fmt: skip
    sandbox = open_sandbox(settings)
    log = structlog.get_logger()
    log.info("starting", address=settings.base_url(), data=str(settings.data_path))
    config = uvicorn.Config(
        build(sandbox), host=settings.http_host, port=settings.http_port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS, server_header=False, timeout_keep_alive=75,
    )  # fmt: skip
    server = Server(config)
    server.run()
    if not server.started:
        log.error("not_started", remedy=f"is port {settings.http_port} taken? SANDBOX_STRIPE_HTTP_PORT names another")
        return 1
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
