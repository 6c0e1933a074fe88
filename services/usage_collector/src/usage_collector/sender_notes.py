"""What a sender should know: usage of a product that another source bills is taken and counts nothing."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from billing_common.db import Connection
from usage_collector import sender_store
from usage_collector.directory import Directory

SUBSCRIPTIONS_NAMED = 20
SOURCES: Mapping[str, str] = {"stream": "the gateway's own stream of calls", "reports": "API Management's reports"}


async def notes(connection: Connection, directory: Directory, scopes: Sequence[Sequence[str] | None], *, now: datetime) -> list[list[str]]:
    """Say for each sender, given what it may name (None: all), what of it is billed from another source, and what is not known."""
    plans = await sender_store.plans_of(connection, sorted({name for scope in scopes for name in scope or ()}), now)
    elsewhere: dict[str, str] = {}
    for name, plan in plans.items():
        rules = await directory.rules_of(connection, plan) if plan is not None else None
        if plan is None:
            elsewhere[name] = f"{name} is not known here: what is sent for it waits until it is"
        elif rules is not None and rules.source in SOURCES:
            text = f'has the product "{plan[0]}", which is billed from {SOURCES[rules.source]}'
            elsewhere[name] = f"{name} {text}: what is sent for it is answered 202 and counts nothing (filtered: other_source)"
    sold = await sender_store.ingest_products(connection) if None in scopes else []
    return [_of_all(sold) if scope is None else _of_some(scope, elsewhere) for scope in scopes]


def of_meters(meters: Iterable[str], known: frozenset[str]) -> list[str]:
    """Say which meters of a scope no catalogue has: what names them is refused."""
    missing = sorted(set(meters) - known)
    return [f"no meter of the catalogue is called {', '.join(missing)}: what names it is refused (unknown_meter)"] if missing else []


def _of_some(scope: Iterable[str], elsewhere: Mapping[str, str]) -> list[str]:
    found = [elsewhere[name] for name in scope if name in elsewhere]
    further = len(found) - SUBSCRIPTIONS_NAMED
    return [*found[:SUBSCRIPTIONS_NAMED], f"and {further} further ones"] if further > 0 else found


def _of_all(products: Sequence[str]) -> list[str]:
    if not products:
        return ['no product has `"source": "ingest"`: nothing that it sends is billed (filtered: other_source)']
    return [f'only products with `"source": "ingest"` are billed from what it sends: {", ".join(products)}']
