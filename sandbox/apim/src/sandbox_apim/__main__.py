"""Starts the sandbox: `python -m sandbox_apim`. Ends with one clear sentence when a setting or a port is wrong."""

import asyncio
import json
import logging
import signal
import sqlite3
import sys
import urllib.error

from billing_common.settings import load_settings
from sandbox_apim.app import Sandbox, business_clock
from sandbox_apim.settings import Settings


async def run(settings: Settings) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    sandbox = Sandbox(settings, business_clock(settings))
    await sandbox.start()
    addresses = {
        "management": sandbox.management_url,
        "portal": sandbox.portal_url,
        "gateway": sandbox.gateway_url,
        "ca_file": str(sandbox.certificate.ca_file),
    }
    sys.stdout.write(json.dumps({"event": "started", "service": "sandbox_apim", **addresses}) + "\n")
    sys.stdout.flush()
    await stopped.wait()
    await sandbox.stop()
    return 0


def main() -> int:
    settings = load_settings(Settings)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # the pump says once what it says with every try
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # three servers would each tell of their start
    try:
        import uvloop

        return uvloop.run(run(settings))
    except urllib.error.URLError as error:
        sys.stderr.write(
            f"the clock at {settings.clock_url} does not answer ({error.reason}): start the Stripe sandbox first or unset CLOCK_URL\n"
        )
    except (OSError, sqlite3.OperationalError) as error:
        sys.stderr.write(f"cannot start: {error}. Change SANDBOX_APIM_*_PORT or SANDBOX_APIM_DATA_DIR\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
