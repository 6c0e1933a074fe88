"""Run by test_applying.py as a program of its own: applies catalogues in processes that kill themselves with SIGKILL in mid-apply.

Reads one JSON object from stdin and prints one. Each process is a fork of this one, which has no event loop, no thread and no client.
"""

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import stripe
from pydantic import SecretStr

from billing_common import apim_client, stripe_client
from billing_common.catalogue import Catalogue
from billing_common.db import create_pool
from checkout import applying, carrying, store_catalogue
from checkout.apim_gateway import ApimGateway
from checkout.carrying import Outside
from checkout.settings import Settings
from checkout.stripe_catalogue import StripeCatalogue


def in_a_process(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run in a fork; return how it ended, as `os.waitstatus_to_exitcode` says: -9 when it was killed."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(work())
        except BaseException:  # noqa: BLE001 - the parent reads the trace
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(count: int) -> None:
    """From now on this process kills itself when so many calls outside were made, before any of it is written down."""
    made = 0
    step = carrying._step  # the one place where calls outside are made

    async def counted(*arguments: Any) -> None:
        nonlocal made
        if made == count:
            os.kill(os.getpid(), signal.SIGKILL)
        await step(*arguments)
        made += 1
        if made == count:
            os.kill(os.getpid(), signal.SIGKILL)

    carrying._step = counted


def kill_before_publishing() -> None:
    async def dies(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    applying._publish = dies  # type: ignore[assignment]


async def apply(settings: Settings, document: dict[str, Any]) -> None:
    pool = await create_pool(settings.database_url.get_secret_value(), schema="checkout", size=3)
    stripe_api, transport = stripe_client.create_client(settings)
    client = apim_client.create_client(settings)
    hub = {"hub_name": settings.usage_event_hub_name, "hub_connection": settings.usage_event_hub_connection.get_secret_value()}
    apim = ApimGateway(client, resource_group=settings.apim_resource_group, service_name=settings.apim_service_name, **hub)
    await applying.apply(
        pool, Outside(StripeCatalogue(stripe_api), apim), Catalogue.from_document(document), by="test", now=datetime.now(UTC)
    )
    last = await store_catalogue.last_apply(pool)
    assert last is not None
    assert not last.is_unfinished
    await pool.execute("delete from catalogue_version where version < (select max(version) - 1 from catalogue_version)")  # less to read
    await client.close()
    await transport.close_async()
    await pool.close()


def load_stripe() -> None:
    """The SDK imports its services at their first use: once here instead of in every fork."""
    v1 = stripe.StripeClient("sk_test_x").v1
    assert all((v1.products, v1.prices, v1.billing.meters))


def main() -> None:
    load_stripe()
    given = json.loads(sys.stdin.read())
    values = given["settings"]
    secret = {name: SecretStr(value) for name, value in values["secret"].items()}
    settings = Settings(**values["plain"], **secret, apim_ca_file=Path(values["ca_file"]))
    ended = []
    for place, document in enumerate(given["documents"]):

        async def dies(place: int = place, document: dict[str, Any] = document) -> None:
            kill_before_publishing() if place == len(given["documents"]) - 1 else kill_after(place)
            await apply(settings, document)

        async def finishes(document: dict[str, Any] = document) -> None:
            await apply(settings, document)

        ended.append([in_a_process(dies), in_a_process(finishes)])
    sys.stdout.write(json.dumps(ended))


main()
