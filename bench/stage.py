"""A stack of its own for a measurement, and what it takes to act in it; the folder is gone afterwards."""

import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from embedded_servers import places
from turnpike_cli.catalogue_commands import MODELS_FILE
from turnpike_cli.clock import BusinessTime
from turnpike_cli.doors import Doors
from turnpike_cli.stack import Stack
from turnpike_cli.story.people import Consumer, Places
from turnpike_cli.story.stripe_view import StripeView


@dataclass(frozen=True)
class Stage:
    """A running stack with the catalogue applied."""

    stack: Stack
    doors: Doors
    clock: BusinessTime
    stripe: StripeView
    places: Places
    http: httpx.AsyncClient

    async def join(self, name: str, product: str) -> Consumer:
        """Sign somebody up, buy the product and wait for the key."""
        consumer = Consumer(name, product, self.places)
        await consumer.sign_up()
        await consumer.pay(await consumer.order(await consumer.choose()))
        await consumer.wait_for_key()
        return consumer

    async def answers(self, consumer: Consumer) -> int:
        """Return the status that a call with the consumer's key gets."""
        return (await consumer.call(self.http, "/orders")).status_code


@contextmanager
def running_stack(settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Start a stack in a folder of its own, with these variables in the environment of all parts; stop and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="turnpike-bench-"))
    os.environ.update(settings or {})
    stack = Stack(folder)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
        for name in settings or {}:
            os.environ.pop(name, None)
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def stage(stack: Stack) -> AsyncIterator[Stage]:
    """Apply the catalogue and open what the story's people need."""
    addresses = stack.addresses()
    spots = Places(
        portal=addresses["sandbox_apim"]["portal"],
        gateway=addresses["sandbox_apim"]["gateway"],
        turnpike=addresses["delegation_gateway"]["http"],
        ingest=addresses["usage_collector"]["http"],
    )
    async with Doors(stack) as doors, httpx.AsyncClient(timeout=20, trust_env=False) as client:
        clock = BusinessTime(doors)
        view = StripeView.connect(addresses["sandbox_stripe"]["http"], stack.secrets.stripe_api_key)
        document = json.loads((places.checkout() / MODELS_FILE).read_text())
        await doors.ask("checkout", "POST", "/v1/catalogue/apply", body=document)
        await clock.settle()
        yield Stage(stack, doors, clock, view, spots, client)
